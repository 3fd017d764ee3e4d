import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax import losses
from interactrank_jax.losses.properties import normal

LOGITS = jnp.array([[1.0, 0.0, -1.0], [0.0, 2.0, 5.0]])
LABELS = jnp.array([[0.0, 1.0, 0.0], [3.0, 1.0, 2.0]])


class TestPairwiseLogistic:
    def test_pairs_are_of_one_slate_and_in_the_order_of_its_labels(self):
        total = losses.pairwise_logistic(LOGITS, LABELS)
        margins = [0 - 1, 0 + 1]  # first slate: the middle row over each of the others
        margins += [0 - 2, 0 - 5, 5 - 2]  # second: 3 over 1, 3 over 2, 2 over 1
        expected = sum(math.log(1 + math.exp(-margin)) for margin in margins)
        assert total.loss == pytest.approx(expected, rel=1e-6)
        assert total.weight == 5

    def test_a_pair_weighs_the_product_of_its_rows(self):
        weights = jnp.array([[2.0, 3, 5], [0, 0, 0]])
        total = losses.pairwise_logistic(LOGITS, LABELS, weights=weights)
        expected = 6 * math.log(1 + math.e) + 15 * math.log(1 + 1 / math.e)
        assert total.loss == pytest.approx(expected, rel=1e-6)
        assert total.weight == 21

    def test_only_the_order_of_labels_counts(self):
        total = losses.pairwise_logistic(LOGITS, LABELS)
        np.testing.assert_allclose(losses.pairwise_logistic(LOGITS, 7 * LABELS - 3), total)

    def test_equal_labels_are_no_pair(self):
        assert losses.pairwise_logistic(LOGITS, jnp.ones((2, 3))) == (0, 0)

    def test_masks_differ_by_slate(self):
        where = jnp.array([[True, True, False], [True, False, True]])
        total = losses.pairwise_logistic(LOGITS, LABELS, where=where)
        assert total.loss == pytest.approx(math.log(1 + math.e) + math.log(1 + math.e**5))
        assert total.weight == 2


class TestListwiseSoftmax:
    def test_equal_logits_give_the_logarithm_of_the_number_of_rows(self):
        total = losses.listwise_softmax(jnp.zeros((2, 3)), LABELS)
        assert total.mean() == pytest.approx(math.log(3))
        assert total.weight == 2

    def test_a_slate_counts_once_however_large_its_labels(self):
        by_slate = jax.vmap(losses.listwise_softmax)(LOGITS, LABELS)
        np.testing.assert_allclose(by_slate.weight, [1, 1])
        larger = losses.listwise_softmax(LOGITS, 7 * LABELS)
        np.testing.assert_allclose(larger, losses.listwise_softmax(LOGITS, LABELS), rtol=1e-6)

    def test_a_slate_without_labels_adds_nothing(self):
        total = losses.listwise_softmax(LOGITS, LABELS.at[0].set(0.0))
        alone = losses.listwise_softmax(LOGITS[1:], LABELS[1:])
        np.testing.assert_allclose(total, alone)

    def test_the_weight_of_a_negative_is_its_share_of_the_denominator(self):
        weights = jnp.array([[0.5, 1.0, 0.1]])
        total = losses.listwise_softmax(LOGITS[:1], LABELS[:1], weights=weights)
        denominator = 0.5 * math.e + 1 + 0.1 / math.e
        assert total.loss == pytest.approx(math.log(denominator))
        assert total.weight == 1

    @pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (5.0, 0.5, 2.0)])
    def test_logits_that_match_the_labels_are_a_minimum_whatever_the_weights(self, weights):
        labels = jnp.array([[4.0, 2.0, 1.0]])

        def mean(logits):
            return losses.listwise_softmax(logits, labels, weights=jnp.array([weights])).mean()

        np.testing.assert_allclose(jax.grad(mean)(jnp.log(labels)), jnp.zeros((1, 3)), atol=1e-6)

    def test_more_leading_axes(self):
        logits, labels = normal((2, 4, 3)), jnp.abs(normal((2, 4, 3), seed=2))
        flat = losses.listwise_softmax(logits.reshape(8, 3), labels.reshape(8, 3))
        np.testing.assert_allclose(losses.listwise_softmax(logits, labels), flat, rtol=1e-6)
        flat = losses.pairwise_logistic(logits.reshape(8, 3), labels.reshape(8, 3))
        np.testing.assert_allclose(losses.pairwise_logistic(logits, labels), flat, rtol=1e-6)
