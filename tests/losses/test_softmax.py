import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax import losses
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.properties import normal
from tests.losses.cases import LOG_Q, POSITIVE


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

    @pytest.mark.parametrize("correction", losses.CORRECTIONS)
    @pytest.mark.parametrize("garbage", [-np.inf, np.nan])
    def test_padding_columns_may_hold_any_log_q(self, garbage, correction):
        where, log_q = jnp.array([True, True, False]), jnp.array([0.0, 0.0, garbage])
        value, gradient = jax.value_and_grad(
            lambda x: self.loss([1, 0, 0], x, log_q=log_q, where=where, correction=correction).loss
        )(jnp.asarray(self.LOGITS))
        assert value == pytest.approx(math.log(1 + math.e), rel=1e-6)
        assert np.isfinite(gradient).all()

    def test_shapes_that_do_not_fit_are_refused(self):
        logits, positive = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
        with pytest.raises(InputError, match=r"positive has shape \(3,\), expected \(2, 3\)"):
            losses.sampled_softmax(logits, jnp.ones(3, bool))
        with pytest.raises(InputError, match=r"log_q has shape \(2,\), expected \(3,\)"):
            losses.sampled_softmax(logits, positive, log_q=jnp.zeros(2))
        for wrong in ((3, 5), (2,), (2, 5, 1)):
            with pytest.raises(InputError, match="hard_logits has shape"):
                losses.sampled_softmax(logits, positive, hard_logits=jnp.ones(wrong))
        with pytest.raises(InputError, match=r"hard_where has shape \(5,\), expected \(2, 5\)"):
            losses.sampled_softmax(
                logits, positive, hard_logits=jnp.ones((2, 5)), hard_where=jnp.ones(5, bool)
            )

    def test_a_correction_that_does_not_exist_is_refused(self):
        with pytest.raises(InputError, match="Did you mean 'positive_apart'"):
            self.loss([1, 0, 0], correction="positive_part")
        with pytest.raises(InputError, match="needs log_q"):
            self.loss([1, 0, 0], correction="positive_apart")


class TestPositiveApart:
    def test_its_gradient_is_that_of_the_papers_stopped_weight(self):
        def written_out(logits):
            total = 0.0
            for row, positive in zip(logits[:2], POSITIVE[:2], strict=True):
                rest = jax.nn.logsumexp((row - LOG_Q)[~positive])
                for own in row[positive]:
                    p = jnp.exp(own) / (jnp.exp(own) + jnp.exp(rest))
                    total += jax.lax.stop_gradient(1 - p) * (rest - own)
            return total

        def loss(logits):
            return losses.sampled_softmax(
                logits, POSITIVE, log_q=LOG_Q, correction="positive_apart"
            ).loss

        logits = normal((3, 6))
        gradient, expected = (jax.jit(jax.grad(f))(logits) for f in (loss, written_out))
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)

    def test_how_rare_the_positive_is_does_not_matter(self):
        def loss(correction, own_log_q):
            return losses.sampled_softmax(
                jnp.array([[1.0, 2.0]]),
                jnp.array([[True, False]]),
                log_q=jnp.array([own_log_q, -1.0]),
                correction=correction,
            ).loss

        assert loss("positive_apart", -9.0) == loss("positive_apart", 0.0)
        assert loss("standard", -9.0) < 0.1 * loss("standard", 0.0)


class TestHardNegatives:
    LOGITS, HARD = jnp.array([[0.0, 0.0], [0.0, 0.0]]), jnp.array([[1.0, 2.0], [3.0, jnp.nan]])
    POSITIVES = jnp.array([[True, False], [False, True]])
    WHERE = jnp.array([[True, True], [True, False]])

    def loss(self, hard, **kwargs):
        return losses.sampled_softmax(
            self.LOGITS, self.POSITIVES, hard_logits=hard, hard_where=self.WHERE, **kwargs
        ).loss

    def test_join_the_denominator_of_their_own_request_only(self):
        first, second = math.log(2 + math.e + math.e**2), math.log(2 + math.e**3)
        assert self.loss(self.HARD) == pytest.approx(first + second, rel=1e-6)
        gradient = jax.grad(self.loss)(self.HARD)
        expected = [[math.e, math.e**2], [math.e**3, 0]] / np.exp([[first], [second]])
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)

    @pytest.mark.parametrize("correction", losses.CORRECTIONS)
    def test_are_not_corrected(self, correction):
        log_q = jnp.log(jnp.array([0.5, 0.5]))
        own = 1.0 if correction == "positive_apart" else 2.0
        first = math.log((own + 2 + math.e + math.e**2) / own)
        second = math.log((own + 2 + math.e**3) / own)
        value = self.loss(self.HARD, log_q=log_q, correction=correction)
        assert value == pytest.approx(first + second, rel=1e-6)

    def test_are_enough_where_no_column_is_a_negative(self):
        total = losses.sampled_softmax(
            jnp.zeros((1, 1)), jnp.ones((1, 1), bool), hard_logits=jnp.array([[0.0, 1.0]])
        )
        assert total.loss == pytest.approx(math.log(2 + math.e), rel=1e-6)

    def test_all_masked_are_as_good_as_none(self):
        plain = losses.sampled_softmax(self.LOGITS, self.POSITIVES).loss
        where = jnp.zeros((2, 2), bool)
        masked = losses.sampled_softmax(
            self.LOGITS, self.POSITIVES, hard_logits=self.HARD, hard_where=where
        ).loss
        assert masked == pytest.approx(float(plain), rel=1e-6)

    def test_a_positive_of_the_request_is_marked_as_an_accidental_hit(self):
        items, positives = jnp.array([[1, 2, 3], [1, 2, 3]]), jnp.array([[3, -1], [2, 1]])
        hits = losses.accidental_hits(items, positives)
        np.testing.assert_array_equal(hits, [[0, 0, 1], [1, 1, 0]])
        for wrong in (positives[0], positives[:1]):
            with pytest.raises(InputError, match="positive_ids has shape"):
                losses.accidental_hits(items, wrong)


class TestScaleLogits:
    def test_is_the_inverse_temperature_and_never_more_than_a_hundred(self):
        cosines = jnp.array([0.5, -1.0])
        scaled = losses.scale_logits(cosines, jnp.log(jnp.float32(1 / 0.07)))
        np.testing.assert_allclose(scaled, cosines / 0.07, rtol=1e-5)
        for log_scale in (losses.MAX_LOG_SCALE, 5.0, 1e4):
            scaled = losses.scale_logits(cosines, jnp.float32(log_scale))
            np.testing.assert_allclose(scaled, 100 * cosines, rtol=1e-5)

    def test_its_gradient_is_finite_and_leads_back_from_beyond_the_limit(self):
        gradient = jax.grad(lambda x: losses.scale_logits(jnp.array([0.5, 1.0]), x).sum())
        assert gradient(jnp.float32(2.0)) == pytest.approx(1.5 * math.exp(2), rel=1e-5)
        assert gradient(jnp.float32(losses.MAX_LOG_SCALE)) == pytest.approx(150, rel=1e-5)
        assert gradient(jnp.float32(1e4)) == pytest.approx(150, rel=1e-5)
        assert gradient(jnp.float32(-1e4)) == 0

    def test_half_precision_is_widened_and_other_shapes_refused(self):
        scaled = losses.scale_logits(jnp.ones(2, jnp.bfloat16), jnp.float32(0.01))
        np.testing.assert_allclose(scaled, np.exp([0.01, 0.01]), rtol=1e-6)
        with pytest.raises(InputError, match="log_scale has shape"):
            losses.scale_logits(jnp.ones(2), jnp.ones(2))


def test_first_occurrence_marks_each_existing_item_once():
    ids = jnp.array([5, 3, 5, 0, 3, 9])
    where = jnp.array([False, True, True, False, True, True])
    expected = [False, True, True, False, False, True]
    np.testing.assert_array_equal(losses.first_occurrence(ids, where), expected)
    np.testing.assert_array_equal(jax.jit(losses.first_occurrence)(ids, where), expected)
