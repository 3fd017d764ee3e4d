"""What all losses have in common, as checks that a loss goes through.

    @losses.register("mine", kind="slate", case=properties.Case(by_hand))
    def mine(logits, labels, *, where=None, weights=None): ...

    properties.check("mine")

The tests of this package run the same checks over every loss of ours.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.losses.registry import LOSSES
from interactrank_jax.losses.total import Total

ROWS, COLUMNS = SHAPE = (3, 6)
ALL = np.ones(COLUMNS, bool)
SOME = np.array([True, False, True, True, False, True])
LABELS = np.array([[1, 0, 1, 0, 0, 1], [0, 3, 2, 0, 0.5, 0], [0, 0, 0, 0, 0, 0]], np.float32)
BINARY = np.minimum(LABELS, 1.0)


def normal(shape: Sequence[int], scale: float = 1.0, seed: int = 1) -> jax.Array:
    """Returns normal numbers, float32."""
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def positive(shape: Sequence[int], seed: int = 2) -> jax.Array:
    """Returns numbers above .1, float32."""
    return 0.1 + jnp.abs(normal(shape, seed=seed))


TEACHER = np.asarray(normal(SHAPE, scale=2.0, seed=7))
_OTHERS = {"pointwise": (BINARY,), "slate": (LABELS,), "distillation": (TEACHER,)}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """How a loss is called, and its value computed by hand.

    Attributes:
      by_hand: (logits, weights, *others), float64 NumPy arrays -> (loss, weight), in plain loops.
      loss: function of logits `SHAPE` and of `others`; the registered one by default.
      others: its further arrays `[..., COLUMNS]`, over the same columns as the logits; by default
        what a loss of the kind gets: labels of 0 and 1, graded labels, or a teacher's logits.
      where_rank: 2 where `where` has the shape of the logits, 1 where it is over columns only.
      degree: how often a row's weight is a factor of the totals: 2 of a loss over pairs.
      row_weights: whether a row of weight 0 is as good as absent.
      repeats: whether a row of weight 2 is as good as the row twice.
      additive: whether the loss is linear in the weights.
    """

    by_hand: Callable[..., tuple[float, float]]
    loss: Callable[..., Total] | None = None
    others: tuple[np.ndarray, ...] = ()
    where_rank: int = 2
    degree: int = 1
    row_weights: bool = True
    repeats: bool = True
    additive: bool = True

    def where(self, columns: Any) -> jax.Array:
        """Returns which of the columns exist, in the shape that this loss wants."""
        columns = jnp.asarray(columns, bool)
        if self.where_rank == 1:
            return columns
        return jnp.broadcast_to(columns[None], (ROWS, columns.size))

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """The loss."""
        assert self.loss is not None, "a case without a loss: use `check` with its name"
        return self.loss

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """`(logits, others, where, weights) -> (total, mean, gradient of the mean)`."""

        def evaluate(logits, others, where, weights):
            def mean(logits):
                total = self.function(logits, *others, where=where, weights=weights)
                return total.mean(), total

            (value, total), gradient = jax.value_and_grad(mean, has_aux=True)(logits)
            return total, value, gradient

        return jax.jit(evaluate)

    def evaluate(
        self, logits: jax.Array, *, where: Any = ALL, weights: Any = None, others: Any = None
    ) -> Any:
        """Returns the total, its mean and the gradient of that; every row exists by default."""
        weights = jnp.ones(SHAPE) if weights is None else weights
        others = tuple(map(jnp.asarray, self.others if others is None else others))
        return self.compiled(logits, others, self.where(where), weights)


def check(name: str) -> None:
    """Runs every property on a registered loss that has a case.

    Raises:
      InputError: no such loss, or it was registered without a case.
      AssertionError: it lacks a property; the message begins with the property's name.
    """
    if name not in LOSSES:
        raise InputError(f"no loss '{name}'." + did_you_mean(name, LOSSES))
    entry = LOSSES[name]
    if entry.case is None:
        raise InputError(f"loss '{name}' has no case: register it with case=properties.Case(...).")
    case = dataclasses.replace(
        entry.case,
        loss=entry.case.loss or entry.loss,
        others=entry.case.others or _OTHERS[entry.kind],
    )
    with jax.numpy_rank_promotion("raise"):
        for holds in PROPERTIES:
            try:
                holds(case)
            except AssertionError as error:
                raise AssertionError(f"{holds.__name__}: {error}") from error


# --- Properties ---


def equals_the_value_computed_by_hand(case: Case) -> None:
    """With equal weights and with others."""
    logits = normal(SHAPE)
    for weights in (jnp.ones(SHAPE), positive(SHAPE)):
        total, mean, _ = case.evaluate(logits, weights=weights)
        arrays = [np.asarray(array, np.float64) for array in (logits, weights, *case.others)]
        expected, weight = case.by_hand(*arrays)
        _close((*total, mean), (expected, weight, expected / weight))


def extremes_are_finite_and_so_is_the_gradient(case: Case) -> None:
    """Logits of ten thousand, of either sign, and of 0."""
    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], size=SHAPE), jnp.float32)
    for scale in (1e4, -1e4, 0.0):
        for logits in (jnp.full(SHAPE, scale), scale * signs):
            total, mean, gradient = case.evaluate(logits)
            assert mean.dtype == total.weight.dtype == jnp.float32
            assert np.isfinite(mean), f"{mean} at logits of {scale}"
            assert mean >= 0, f"{mean} at logits of {scale}"
            assert np.isfinite(gradient).all(), f"no finite gradient at logits of {scale}"


def masking_equals_deleting_whatever_is_masked(case: Case) -> None:
    """NaN and infinities included."""
    kept, logits, weights = np.flatnonzero(SOME), normal(SHAPE), positive(SHAPE)
    expected, _, expected_gradient = case.evaluate(
        logits[..., kept],
        where=ALL[kept],
        weights=weights[..., kept],
        others=[other[..., kept] for other in case.others],
    )
    for garbage in (0.0, np.nan, np.inf, -1e30):
        others = [np.array(other) for other in case.others]
        for other in others:
            other[..., ~SOME] = garbage if other.dtype != bool else True
        total, _, gradient = case.evaluate(
            logits.at[..., ~SOME].set(garbage),
            where=SOME,
            weights=weights.at[..., ~SOME].set(garbage),
            others=others,
        )
        _close(total, expected)
        np.testing.assert_allclose(gradient[..., kept], expected_gradient, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(gradient[..., ~SOME], 0)


def everything_masked_is_zero_with_a_zero_gradient(case: Case) -> None:
    """Also where the logits are NaN."""
    _is_zero(case.evaluate(jnp.full(SHAPE, jnp.nan), where=~ALL))


def no_weight_at_all_is_zero_with_a_zero_gradient(case: Case) -> None:
    """Rows that exist and weigh nothing."""
    _is_zero(case.evaluate(normal(SHAPE), weights=jnp.zeros(SHAPE)))


def a_number_that_is_missing_and_not_masked_is_never_passed_over(case: Case) -> None:
    """NaN in logits, weights or labels makes the loss NaN, which stops a run."""
    logits, weights = normal(SHAPE), jnp.ones(SHAPE)
    assert np.isnan(case.evaluate(logits.at[1, 1].set(jnp.nan))[0].loss)
    assert np.isnan(case.evaluate(logits, weights=weights.at[1, 1].set(jnp.nan))[0].loss)
    for number, other in enumerate(case.others):
        if other.dtype != bool:
            others = list(case.others)
            others[number] = np.where(np.arange(COLUMNS) == 3, np.nan, other).astype(np.float32)
            assert np.isnan(case.evaluate(logits, others=others)[0].loss)


def a_common_factor_of_the_weights_cancels_in_the_mean(case: Case) -> None:
    """And is a factor of the totals as often as `degree` says."""
    logits, weights = normal(SHAPE), positive(SHAPE)
    total, mean, gradient = case.evaluate(logits, weights=weights)
    scaled = case.evaluate(logits, weights=3 * weights)
    _close(scaled[1], mean)
    np.testing.assert_allclose(scaled[2], gradient, rtol=1e-4, atol=1e-7)
    factor = 3**case.degree
    _close(scaled[0], (factor * total.loss, factor * total.weight))


def without_masks_everything_exists_and_weighs_one(case: Case) -> None:
    """`where` and `weights` may be left out."""
    plain = jax.jit(lambda logits: case.function(logits, *map(jnp.asarray, case.others)))
    np.testing.assert_allclose(plain(normal(SHAPE)), case.evaluate(normal(SHAPE))[0], rtol=1e-6)


def vmap_equals_a_loop(case: Case) -> None:
    """Over batches of logits."""
    others = tuple(map(jnp.asarray, case.others))
    logits = jnp.stack([normal(SHAPE, seed=seed) for seed in range(3)])
    weights = positive(SHAPE)
    mapped = jax.vmap(case.compiled, in_axes=(0, None, None, None))(
        logits, others, case.where(SOME), weights
    )
    for number, one in enumerate(logits):
        expected = case.evaluate(one, where=SOME, weights=weights)
        for value, wanted in zip(jax.tree.leaves(mapped), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(value[number], wanted, rtol=1e-5, atol=1e-7)


def requests_of_two_devices_add_up_to_the_whole(case: Case) -> None:
    """Totals of parts of a batch sum to that of the batch."""
    logits = normal(SHAPE)
    total, _, _ = case.evaluate(logits)
    parts = []
    for row in range(ROWS):  # the rest has no weight, as if it were elsewhere
        weights = jnp.zeros(SHAPE).at[row].set(1.0)
        parts.append(case.evaluate(logits, weights=weights)[0])
    _close(np.sum(parts, 0), total)


def gradient_equals_finite_differences(case: Case) -> None:
    """Of the mean, with a mask and weights."""
    from jax.test_util import check_grads

    others = tuple(map(jnp.asarray, case.others))
    where, weights = case.where(SOME), positive(SHAPE)
    mean = jax.jit(lambda x: case.function(x, *others, where=where, weights=weights).mean())
    check_grads(mean, (normal(SHAPE),), 1, modes=["rev"], atol=2e-3, rtol=2e-3)


def half_precision_is_summed_in_float32(case: Case) -> None:
    """bfloat16 in gives what the same numbers in float32 give."""
    logits = normal(SHAPE).astype(jnp.bfloat16)
    others = [jnp.asarray(o) if o.dtype == bool else jnp.bfloat16(o) for o in case.others]
    wide = [o if o.dtype == bool else o.astype(jnp.float32) for o in others]
    weights = positive(SHAPE).astype(jnp.bfloat16)
    total, _, _ = case.evaluate(logits, others=others, weights=weights)
    expected, _, _ = case.evaluate(
        logits.astype(jnp.float32), others=wide, weights=weights.astype(jnp.float32)
    )
    assert total.loss.dtype == total.weight.dtype == jnp.float32
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def refuses_shapes_that_would_broadcast(case: Case) -> None:
    """Weights, masks and labels of another shape than the logits."""
    logits, others = normal(SHAPE), [jnp.asarray(other) for other in case.others]
    _refused("weights", case.function, logits, *others, weights=jnp.ones((*SHAPE, 1)))
    _refused("weights", case.function, logits, *others, weights=jnp.ones((1, COLUMNS)))
    _refused("where", case.function, logits, *others, where=jnp.ones((COLUMNS, 1), bool))
    for number in range(len(others)):
        wrong = [other[None] if i == number else other for i, other in enumerate(others)]
        _refused("", case.function, logits, *wrong)


def weights_add_up(case: Case) -> None:
    """Where the loss is linear in them."""
    if not case.additive:
        return
    logits, first, second = normal(SHAPE), positive(SHAPE), positive(SHAPE, 3)
    parts = [case.evaluate(logits, weights=weights)[0] for weights in (first, 2 * second)]
    whole, _, _ = case.evaluate(logits, weights=first + 2 * second)
    _close(whole, np.sum(parts, 0))


def a_row_of_weight_zero_is_as_good_as_masked(case: Case) -> None:
    """Where `row_weights`."""
    if not case.row_weights:
        return
    logits, weights = normal(SHAPE), positive(SHAPE)
    masked, _, gradient = case.evaluate(logits, where=SOME, weights=weights)
    for value in (-50.0, 50.0):
        total, _, same = case.evaluate(
            logits.at[..., ~SOME].set(value), weights=weights.at[..., ~SOME].set(0.0)
        )
        _close(total, masked)
        np.testing.assert_allclose(same, gradient, rtol=1e-4, atol=1e-7)


def a_row_of_weight_two_moves_a_slate_like_the_row_twice(case: Case) -> None:
    """Where `row_weights` and `repeats`."""
    if not (case.row_weights and case.repeats):
        return
    repeated = np.array([0, 0, 1, 2, 3, 3, 4, 5])
    others = [jnp.asarray(other[:2]) for other in case.others]
    weights = jnp.array([2.0, 1, 1, 2, 1, 1])

    def weighted(logits, *others):
        slate = [other[None] for other in others]
        return case.function(logits[None], *slate, weights=weights[None]).mean()

    def twice(logits, *others):
        return case.function(logits[None, repeated], *(o[None, repeated] for o in others)).mean()

    first, second = (
        jax.jit(jax.vmap(jax.grad(mean)))(normal((2, COLUMNS)), *others)
        for mean in (weighted, twice)
    )
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-7)


PROPERTIES: tuple[Callable[[Case], None], ...] = (
    equals_the_value_computed_by_hand,
    extremes_are_finite_and_so_is_the_gradient,
    masking_equals_deleting_whatever_is_masked,
    everything_masked_is_zero_with_a_zero_gradient,
    no_weight_at_all_is_zero_with_a_zero_gradient,
    a_number_that_is_missing_and_not_masked_is_never_passed_over,
    a_common_factor_of_the_weights_cancels_in_the_mean,
    without_masks_everything_exists_and_weighs_one,
    vmap_equals_a_loop,
    requests_of_two_devices_add_up_to_the_whole,
    gradient_equals_finite_differences,
    half_precision_is_summed_in_float32,
    refuses_shapes_that_would_broadcast,
    weights_add_up,
    a_row_of_weight_zero_is_as_good_as_masked,
    a_row_of_weight_two_moves_a_slate_like_the_row_twice,
)


def _close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), np.asarray(expected, np.float64), rtol=1e-5
    )


def _is_zero(evaluated: Any) -> None:
    total, mean, gradient = evaluated
    np.testing.assert_array_equal([*total, mean], 0)
    np.testing.assert_array_equal(gradient, 0)


def _refused(what: str, loss: Callable[..., Any], *arrays: Any, **masks: Any) -> None:
    try:
        loss(*arrays, **masks)
    except InputError as error:
        message = str(error)
        assert f"{what} has shape" in message, message
        return
    raise AssertionError(f"took {what or 'an array'} of a shape that broadcasts")
