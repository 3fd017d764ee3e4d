"""One table of properties over every loss, then what is particular to one of them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from interactrank_jax import losses
from interactrank_jax.errors import InputError


@pytest.fixture(autouse=True)
def _no_silent_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield


# Each loss as a function of its logits [..., 6]; `where` is over the last axis, `weights` has the
# shape of the logits. `columns` selects entries of that axis, in whatever else belongs to them.
COLUMNS = 6
LABELS = jnp.array([1.0, 0, 1, 0, 0, 1])
POSITIVE = jnp.array([[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
LOG_Q = jnp.log(jnp.array([0.3, 0.2, 0.3, 0.1, 0.05, 0.2]))


def pointwise(loss):
    def call(logits, columns=slice(None), **kwargs):
        return loss(logits, LABELS[columns], **kwargs)

    return call


def softmax(logits, columns=slice(None), **kwargs):
    return losses.sampled_softmax(logits, POSITIVE[:, columns], log_q=LOG_Q[columns], **kwargs)


ALL = {
    "sigmoid_cross_entropy": (pointwise(losses.sigmoid_cross_entropy), (COLUMNS,)),
    "focal": (pointwise(losses.focal), (COLUMNS,)),
    "sampled_softmax": (softmax, (3, COLUMNS)),
}


def _inputs(shape, scale=1.0, seed=1):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _pointwise_by_hand(gamma):
    total = 0.0
    for logit, label in zip(_inputs((COLUMNS,)).tolist(), LABELS.tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        p = p if label else 1 - p
        total -= (1 - p) ** gamma * math.log(p)
    return total, COLUMNS


def _softmax_by_hand():
    odds = np.exp(np.asarray(_inputs((3, COLUMNS)))) / np.exp(np.asarray(LOG_Q))
    total, count = 0.0, 0
    for row, positives in ((0, [0]), (1, [1, 2])):
        for column in positives:
            others = [other for other in range(COLUMNS) if other not in positives]
            total -= math.log(odds[row, column] / (odds[row, column] + odds[row, others].sum()))
            count += 1
    return total, count


BY_HAND = {
    "sigmoid_cross_entropy": lambda: _pointwise_by_hand(0),
    "focal": lambda: _pointwise_by_hand(2),
    "sampled_softmax": _softmax_by_hand,
}


@pytest.mark.parametrize("name", ALL)
class TestEveryLoss:
    def test_equals_the_hand_computed_value(self, name):
        loss, shape = ALL[name]
        total = loss(_inputs(shape))
        expected, count = BY_HAND[name]()
        assert total.loss == pytest.approx(expected, rel=1e-5)
        assert total.weight == count
        assert total.mean() == pytest.approx(expected / count, rel=1e-5)

    @pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
    def test_extremes_are_finite_and_so_is_the_gradient(self, name, scale):
        loss, shape = ALL[name]
        signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], size=shape), jnp.float32)
        for logits in (jnp.full(shape, scale), scale * signs):
            value, gradient = jax.value_and_grad(lambda x: loss(x).mean())(logits)
            assert value.dtype == jnp.float32
            assert np.isfinite(value)
            assert value >= 0
            assert np.isfinite(gradient).all()

    @pytest.mark.parametrize("garbage", [0.0, np.nan, np.inf, 1e30])
    def test_masking_equals_deleting_whatever_is_masked(self, name, garbage):
        loss, shape = ALL[name]
        where = np.array([True, False, True, True, False, True])
        kept = np.flatnonzero(where)
        inputs = _inputs(shape)
        weights = jnp.arange(1.0, inputs.size + 1).reshape(shape)
        expected, expected_gradient = jax.value_and_grad(
            lambda x: loss(x, columns=kept, weights=weights[..., kept]).mean()
        )(inputs[..., kept])
        value, gradient = jax.value_and_grad(
            lambda x: loss(
                x,
                where=jnp.asarray(where),
                weights=weights.at[..., ~where].set(garbage),
            ).mean()
        )(inputs.at[..., ~where].set(garbage))
        assert value == pytest.approx(float(expected), rel=1e-6)
        np.testing.assert_allclose(gradient[..., kept], expected_gradient, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(gradient[..., ~where], 0)

    def test_everything_masked_is_zero_with_a_zero_gradient(self, name):
        loss, shape = ALL[name]
        where, inputs = jnp.zeros(COLUMNS, bool), jnp.full(shape, jnp.nan)
        assert loss(inputs, where=where) == (0, 0)
        value, gradient = jax.value_and_grad(lambda x: loss(x, where=where).mean())(inputs)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)

    def test_weights_scale_and_add_up_and_a_common_factor_cancels_in_the_mean(self, name):
        loss, shape = ALL[name]
        inputs = _inputs(shape)
        first, second = jnp.abs(_inputs(shape, seed=2)), jnp.abs(_inputs(shape, seed=3))
        summed = jax.tree.map(
            jnp.add, loss(inputs, weights=first), loss(inputs, weights=2 * second)
        )
        np.testing.assert_allclose(loss(inputs, weights=first + 2 * second), summed, rtol=1e-5)
        np.testing.assert_allclose(
            loss(inputs, weights=4 * first).mean(), loss(inputs, weights=first).mean(), rtol=1e-5
        )
        nothing, gradient = jax.value_and_grad(lambda x: loss(x, weights=0 * first).mean())(inputs)
        assert nothing == 0
        np.testing.assert_array_equal(gradient, 0)
        np.testing.assert_allclose(loss(inputs, weights=jnp.ones(shape)), loss(inputs), rtol=1e-6)

    def test_jit_and_vmap_change_nothing(self, name):
        loss, shape = ALL[name]
        inputs = jnp.stack([_inputs(shape, seed=seed) for seed in range(3)])
        where = jnp.array([True, True, False, True, True, False])
        each = [loss(one, where=where).mean() for one in inputs]
        mapped = jax.vmap(lambda x: loss(x, where=where).mean())(inputs)
        compiled = jax.jit(lambda x: loss(x, where=where).mean())
        np.testing.assert_allclose(mapped, each, rtol=1e-6)
        np.testing.assert_allclose([compiled(one) for one in inputs], each, rtol=1e-6)

    def test_gradient_equals_finite_differences(self, name):
        loss, shape = ALL[name]
        check_grads(
            jax.jit(lambda x: loss(x).mean()),
            (_inputs(shape),),
            order=1,
            modes=["rev"],
            atol=2e-3,
            rtol=2e-3,
        )

    def test_half_precision_inputs_are_summed_in_float32(self, name):
        loss, shape = ALL[name]
        inputs = _inputs(shape).astype(jnp.bfloat16)
        total = loss(inputs)
        assert total.loss.dtype == jnp.float32
        assert total.loss == pytest.approx(float(loss(inputs.astype(jnp.float32)).loss), rel=1e-6)

    def test_refuses_masks_that_would_broadcast(self, name):
        loss, shape = ALL[name]
        with pytest.raises(InputError, match=r"weights has shape .*, expected .*Broadcast"):
            loss(_inputs(shape), weights=jnp.ones((*shape, 1)))
        with pytest.raises(InputError, match="where has shape"):
            loss(_inputs(shape), where=jnp.ones((COLUMNS, 1), bool))


def test_pointwise_losses_take_any_shape():
    logits, labels = _inputs((2, 3, 4)), jnp.ones((2, 3, 4))
    where = jnp.ones((2, 3, 4), bool).at[0, 1].set(False)
    assert losses.sigmoid_cross_entropy(logits, labels, where=where).weight == 20
    with pytest.raises(InputError, match="labels has shape"):
        losses.sigmoid_cross_entropy(logits, labels[..., 0])


def test_focal_without_focus_is_cross_entropy():
    logits = _inputs((COLUMNS,), scale=3.0)
    plain = losses.sigmoid_cross_entropy(logits, LABELS)
    np.testing.assert_allclose(losses.focal(logits, LABELS, gamma=0.0), plain, rtol=1e-6)
    assert losses.focal(logits, LABELS).loss < plain.loss


class TestSampledSoftmax:
    LOGITS = np.array([[1.0, 2.0, 3.0]], np.float32)

    def loss(self, positives, logits=LOGITS, **kwargs: Any):
        positive = jnp.asarray(positives, bool).reshape(logits.shape)
        return losses.sampled_softmax(jnp.asarray(logits), positive, **kwargs)

    def test_another_positive_of_the_request_is_no_negative(self):
        total = self.loss([1, 0, 1])
        expected = math.log(1 + math.e) + math.log(1 + math.exp(-1))
        assert total.loss == pytest.approx(expected, rel=1e-6)
        assert total.weight == 2

    def test_a_request_without_a_positive_adds_nothing(self):
        assert self.loss([0, 0, 0]) == (0, 0)

    def test_a_positive_without_negatives_has_loss_zero_and_counts(self):
        assert self.loss([1, 1, 1]) == (0, 3)

    def test_repeated_items_count_once_where_only_their_first_occurrence_is_kept(self):
        ids = jnp.array([7, 8, 8])
        kept = losses.first_occurrence(ids, jnp.ones(3, bool))
        merged = self.loss([1, 0, 0], where=kept)
        assert merged.loss == pytest.approx(math.log(1 + math.e), rel=1e-6)
        repeated_positive = self.loss([0, 1, 1], where=kept)
        assert repeated_positive.loss == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)
        assert repeated_positive.weight == 1

    def test_log_q_is_subtracted_and_without_it_nothing_is(self):
        q = np.array([0.5, 0.4, 0.1])
        odds = np.exp(self.LOGITS[0]) / q
        corrected = self.loss([1, 0, 0], log_q=jnp.log(jnp.asarray(q, jnp.float32)))
        assert corrected.loss == pytest.approx(-math.log(odds[0] / odds.sum()), rel=1e-5)
        odds = np.exp(self.LOGITS[0])
        assert self.loss([1, 0, 0]).loss == pytest.approx(-math.log(odds[0] / odds.sum()), rel=1e-5)

    @pytest.mark.parametrize("garbage", [-np.inf, np.nan])
    def test_padding_columns_may_hold_any_log_q(self, garbage):
        where, log_q = jnp.array([True, True, False]), jnp.array([0.0, 0.0, garbage])
        value, gradient = jax.value_and_grad(
            lambda x: self.loss([1, 0, 0], x, log_q=log_q, where=where).loss
        )(jnp.asarray(self.LOGITS))
        assert value == pytest.approx(math.log(1 + math.e), rel=1e-6)
        assert np.isfinite(gradient).all()

    def test_requests_of_two_devices_add_up_to_the_whole(self):
        logits = _inputs((3, COLUMNS))
        parts = [
            losses.sampled_softmax(logits[rows], POSITIVE[rows], log_q=LOG_Q)
            for rows in (slice(0, 1), slice(1, 3))
        ]
        whole = losses.sampled_softmax(logits, POSITIVE, log_q=LOG_Q)
        np.testing.assert_allclose(jax.tree.map(jnp.add, *parts), whole, rtol=1e-6)

    def test_shapes_that_do_not_fit_are_refused(self):
        logits = jnp.ones((2, 3))
        with pytest.raises(InputError, match=r"positive has shape \(3,\), expected \(2, 3\)"):
            losses.sampled_softmax(logits, jnp.ones(3, bool))
        with pytest.raises(InputError, match=r"log_q has shape \(2,\), expected \(3,\)"):
            losses.sampled_softmax(logits, jnp.ones((2, 3), bool), log_q=jnp.zeros(2))

    def test_the_expected_in_batch_gradient_nears_the_full_softmax_with_the_right_sign_only(self):
        catalogue, draws, batches = 100, 64, 1500
        generator = np.random.default_rng(0)
        q = 1 / np.arange(1.0, catalogue + 1)  # Zipf, so that popular items are over-sampled
        q /= q.sum()
        scores = jnp.asarray(generator.normal(size=catalogue), jnp.float32)
        log_q = losses.log_q_from_counts(jnp.asarray(q * 1e9, jnp.float32), 1e9, draws)
        drawn = jnp.asarray(generator.choice(catalogue, p=q, size=(batches, draws)))

        @jax.jit
        def expected_gradient(sign, drawn):  # an argument: a constant would be folded
            def one_batch(scores, items):  # requests and columns: the items drawn, as in training
                return losses.sampled_softmax(
                    jnp.broadcast_to(scores[items][None, :], (draws, draws)),
                    items[:, None] == items[None, :],
                    log_q=sign * log_q[items],
                    where=losses.first_occurrence(items, jnp.ones(draws, bool)),
                ).mean()

            return jax.vmap(jax.grad(one_batch), in_axes=(None, 0))(scores, drawn).mean(0)

        full = np.asarray(jax.nn.softmax(scores)) - q

        def distance(sign):
            gradient = np.asarray(expected_gradient(sign, drawn))
            return np.linalg.norm(gradient - full) / np.linalg.norm(full)

        subtracted, none, added = distance(1.0), distance(0.0), distance(-1.0)
        assert subtracted < 0.15
        assert none > 2 * subtracted
        assert added > none


def test_first_occurrence_marks_each_existing_item_once():
    ids = jnp.array([5, 3, 5, 0, 3, 9])
    where = jnp.array([False, True, True, False, True, True])
    expected = [False, True, True, False, False, True]
    np.testing.assert_array_equal(losses.first_occurrence(ids, where), expected)
    np.testing.assert_array_equal(jax.jit(losses.first_occurrence)(ids, where), expected)


class TestLogQ:
    def test_equals_the_exact_probability_from_rare_to_certain(self):
        counts, total, batch = np.array([1, 1000, 10**6, 5 * 10**8, 10**9]), 10**9, 4096
        p = counts / total
        with np.errstate(divide="ignore"):
            expected = np.log(-np.expm1(batch * np.log1p(-p)))
        value = losses.log_q_from_counts(jnp.asarray(counts), total, batch)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
        assert value[0] == pytest.approx(math.log(4096e-9), rel=1e-5)

    def test_equals_simulated_batches(self):
        q, batch = np.array([0.6, 0.3, 0.1]), 5
        drawn = np.random.default_rng(0).choice(3, p=q, size=(40_000, batch))
        seen = [(drawn == item).any(1).mean() for item in range(3)]
        value = losses.log_q_from_counts(jnp.array([6, 3, 1]), 10, batch)
        np.testing.assert_allclose(np.exp(value), seen, atol=0.01)

    def test_an_item_never_counted_is_finite(self):
        value = losses.log_q_from_counts(jnp.array([0, 1]), 100, 8)
        assert value[0] == value[1]
        assert np.isfinite(value).all()
