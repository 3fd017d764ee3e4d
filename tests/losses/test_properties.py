"""One table of properties over every loss; what is particular to one is in a file of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from interactrank_jax import losses
from interactrank_jax.errors import InputError
from tests.losses.cases import CASES, COLUMNS, compiled, inputs

ALL = np.ones(COLUMNS, bool)
SOME = np.array([True, False, True, True, False, True])
ROW_WEIGHTS = [name for name, case in CASES.items() if case.row_weights]


def evaluate(name, logits, *, where=ALL, weights=None, others=None):
    """The loss, its mean and the gradient of that, through one compiled function per loss."""
    case = CASES[name]
    weights = jnp.ones(case.shape) if weights is None else weights
    others = case.others if others is None else others
    others = tuple(jnp.asarray(other) for other in others)
    return compiled(name)(logits, others, case.where(where), weights)


def _positive(shape, seed=2):
    return 0.1 + jnp.abs(inputs(shape, seed=seed))


def test_every_public_loss_is_in_the_table():
    helpers = {"CORRECTIONS", "MAX_LOG_SCALE", "Total", "accidental_hits", "first_occurrence"}
    helpers |= {"log_q_from_counts", "scale_logits", "stage_weights"}
    assert {name.split(",")[0] for name in CASES} == set(losses.__all__) - helpers


@pytest.mark.parametrize("name", CASES)
class TestEveryLoss:
    def test_equals_the_value_computed_by_hand(self, name):
        case = CASES[name]
        logits = inputs(case.shape)
        for weights in (jnp.ones(case.shape), _positive(case.shape)):
            total, mean, _ = evaluate(name, logits, weights=weights)
            arrays = [np.asarray(array, np.float64) for array in (logits, weights, *case.others)]
            expected, weight = case.by_hand(*arrays)
            assert total.loss == pytest.approx(expected, rel=1e-5)
            assert total.weight == pytest.approx(weight, rel=1e-5)
            assert mean == pytest.approx(expected / weight, rel=1e-5)

    def test_extremes_are_finite_and_so_is_the_gradient(self, name):
        shape = CASES[name].shape
        signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], size=shape), jnp.float32)
        for scale in (1e4, -1e4, 0.0):
            for logits in (jnp.full(shape, scale), scale * signs):
                total, mean, gradient = evaluate(name, logits)
                assert mean.dtype == total.weight.dtype == jnp.float32
                assert np.isfinite(mean)
                assert mean >= 0
                assert np.isfinite(gradient).all()

    def test_masking_equals_deleting_whatever_is_masked(self, name):
        case, kept = CASES[name], np.flatnonzero(SOME)
        logits, weights = inputs(case.shape), _positive(case.shape)
        expected, _, expected_gradient = evaluate(
            name,
            logits[..., kept],
            where=ALL[kept],
            weights=weights[..., kept],
            others=[other[..., kept] for other in case.others],
        )
        for garbage in (0.0, np.nan, np.inf, -1e30):
            others = [np.array(other) for other in case.others]
            for other in others:
                other[..., ~SOME] = garbage if other.dtype != bool else True
            total, _, gradient = evaluate(
                name,
                logits.at[..., ~SOME].set(garbage),
                where=SOME,
                weights=weights.at[..., ~SOME].set(garbage),
                others=others,
            )
            np.testing.assert_allclose(total, expected, rtol=1e-5)
            np.testing.assert_allclose(gradient[..., kept], expected_gradient, rtol=1e-4, atol=1e-7)
            np.testing.assert_array_equal(gradient[..., ~SOME], 0)

    def test_everything_masked_is_zero_with_a_zero_gradient(self, name):
        logits = jnp.full(CASES[name].shape, jnp.nan)
        total, mean, gradient = evaluate(name, logits, where=~ALL)
        assert total == (0, 0)
        assert mean == 0
        np.testing.assert_array_equal(gradient, 0)

    def test_no_weight_at_all_is_zero_with_a_zero_gradient(self, name):
        shape = CASES[name].shape
        total, mean, gradient = evaluate(name, inputs(shape), weights=jnp.zeros(shape))
        assert total == (0, 0)
        assert mean == 0
        np.testing.assert_array_equal(gradient, 0)

    def test_a_number_that_is_missing_and_not_masked_is_never_passed_over(self, name):
        case = CASES[name]
        logits, weights = inputs(case.shape), jnp.ones(case.shape)
        assert np.isnan(evaluate(name, logits.at[1, 1].set(jnp.nan))[0].loss)
        assert np.isnan(evaluate(name, logits, weights=weights.at[1, 1].set(jnp.nan))[0].loss)
        for place, other in enumerate(case.others):
            if other.dtype != bool:
                others = list(case.others)
                others[place] = np.where(np.arange(COLUMNS) == 3, np.nan, other).astype(np.float32)
                assert np.isnan(evaluate(name, logits, others=others)[0].loss)

    def test_a_common_factor_of_the_weights_cancels_in_the_mean(self, name):
        case = CASES[name]
        logits, weights = inputs(case.shape), _positive(case.shape)
        total, mean, gradient = evaluate(name, logits, weights=weights)
        scaled = evaluate(name, logits, weights=3 * weights)
        np.testing.assert_allclose(scaled[1], mean, rtol=1e-5)
        np.testing.assert_allclose(scaled[2], gradient, rtol=1e-4, atol=1e-7)
        factor = 3**case.degree
        np.testing.assert_allclose(scaled[0], (factor * total.loss, factor * total.weight), 1e-5)

    def test_without_masks_everything_exists_and_weighs_one(self, name):
        case = CASES[name]
        plain = jax.jit(lambda logits: case.loss(logits, *map(jnp.asarray, case.others)))
        total, _, _ = evaluate(name, inputs(case.shape))
        np.testing.assert_allclose(plain(inputs(case.shape)), total, rtol=1e-6)

    def test_vmap_equals_a_loop(self, name):
        case = CASES[name]
        others = tuple(map(jnp.asarray, case.others))
        logits = jnp.stack([inputs(case.shape, seed=seed) for seed in range(3)])
        weights = _positive(case.shape)
        mapped = jax.vmap(compiled(name), in_axes=(0, None, None, None))(
            logits, others, case.where(SOME), weights
        )
        for place, one in enumerate(logits):
            expected = evaluate(name, one, where=SOME, weights=weights)
            for value, wanted in zip(
                jax.tree.leaves(mapped), jax.tree.leaves(expected), strict=True
            ):
                np.testing.assert_allclose(value[place], wanted, rtol=1e-5, atol=1e-7)

    def test_requests_of_two_devices_add_up_to_the_whole(self, name):
        case = CASES[name]
        logits = inputs(case.shape)
        total, _, _ = evaluate(name, logits)
        parts = []
        for row in range(case.shape[0]):  # the rest has no weight, as if it were elsewhere
            weights = jnp.zeros(case.shape).at[row].set(1.0)
            parts.append(evaluate(name, logits, weights=weights)[0])
        np.testing.assert_allclose(np.sum(parts, 0), total, rtol=1e-5)

    def test_gradient_equals_finite_differences(self, name):
        case = CASES[name]
        others = tuple(map(jnp.asarray, case.others))
        where, weights = case.where(SOME), _positive(case.shape)
        mean = jax.jit(lambda x: case.loss(x, *others, where=where, weights=weights).mean())
        check_grads(mean, (inputs(case.shape),), 1, modes=["rev"], atol=2e-3, rtol=2e-3)

    def test_half_precision_is_summed_in_float32(self, name):
        case = CASES[name]
        logits = inputs(case.shape).astype(jnp.bfloat16)
        others = [jnp.asarray(o) if o.dtype == bool else jnp.bfloat16(o) for o in case.others]
        wide = [o if o.dtype == bool else o.astype(jnp.float32) for o in others]
        weights = _positive(case.shape).astype(jnp.bfloat16)
        total, _, _ = evaluate(name, logits, others=others, weights=weights)
        expected, _, _ = evaluate(
            name, logits.astype(jnp.float32), others=wide, weights=weights.astype(jnp.float32)
        )
        assert total.loss.dtype == total.weight.dtype == jnp.float32
        np.testing.assert_allclose(total, expected, rtol=1e-6)

    def test_refuses_shapes_that_would_broadcast(self, name):
        case = CASES[name]
        logits, others = inputs(case.shape), [jnp.asarray(other) for other in case.others]
        with pytest.raises(InputError, match=r"weights has shape .*, expected .*Broadcast"):
            case.loss(logits, *others, weights=jnp.ones((*case.shape, 1)))
        with pytest.raises(InputError, match="weights has shape"):
            case.loss(logits, *others, weights=jnp.ones((1, COLUMNS)))
        with pytest.raises(InputError, match="where has shape"):
            case.loss(logits, *others, where=jnp.ones((COLUMNS, 1), bool))
        for place in range(len(others)):
            wrong = [other[None] if i == place else other for i, other in enumerate(others)]
            with pytest.raises(InputError, match=r"has shape .*, expected"):
                case.loss(logits, *wrong)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.additive])
def test_weights_add_up(name):
    case = CASES[name]
    logits, first, second = inputs(case.shape), _positive(case.shape), _positive(case.shape, 3)
    parts = [evaluate(name, logits, weights=weights)[0] for weights in (first, 2 * second)]
    whole, _, _ = evaluate(name, logits, weights=first + 2 * second)
    np.testing.assert_allclose(whole, np.sum(parts, 0), rtol=1e-5)


@pytest.mark.parametrize("name", ROW_WEIGHTS)
def test_a_row_of_weight_zero_is_as_good_as_masked(name):
    case = CASES[name]
    logits, weights = inputs(case.shape), _positive(case.shape)
    masked, _, gradient = evaluate(name, logits, where=SOME, weights=weights)
    for value in (-50.0, 50.0):
        total, _, same = evaluate(
            name,
            logits.at[..., ~SOME].set(value),
            weights=weights.at[..., ~SOME].set(0.0),
        )
        np.testing.assert_allclose(total, masked, rtol=1e-5)
        np.testing.assert_allclose(same, gradient, rtol=1e-4, atol=1e-7)


# Not of the delta-NDCG: rows that are there twice take two ranks.
@pytest.mark.parametrize("name", [name for name in ROW_WEIGHTS if name != "distill_delta_ndcg"])
def test_a_row_of_weight_two_moves_a_slate_like_the_row_twice(name):
    case, repeated = CASES[name], np.array([0, 0, 1, 2, 3, 3, 4, 5])
    others = [jnp.asarray(other[:2]) for other in case.others]
    weights = jnp.array([2.0, 1, 1, 2, 1, 1])

    def weighted(logits, *others):
        return case.loss(logits[None], *(o[None] for o in others), weights=weights[None]).mean()

    def twice(logits, *others):
        return case.loss(logits[None, repeated], *(o[None, repeated] for o in others)).mean()

    by_slate = [
        jax.jit(jax.vmap(jax.grad(mean)))(inputs((2, COLUMNS)), *others)
        for mean in (weighted, twice)
    ]
    np.testing.assert_allclose(*by_slate, rtol=1e-4, atol=1e-7)
