import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax import losses
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.properties import normal


def test_any_shape_is_taken():
    logits, labels = normal((2, 3, 4)), jnp.ones((2, 3, 4))
    where = jnp.ones((2, 3, 4), bool).at[0, 1].set(False)
    assert losses.sigmoid_cross_entropy(logits, labels, where=where).weight == 20
    with pytest.raises(InputError, match="labels has shape"):
        losses.sigmoid_cross_entropy(logits, labels[..., 0])


def test_focal_without_focus_is_cross_entropy():
    logits, labels = normal((6,), scale=3.0), jnp.array([1.0, 0, 1, 0, 0, 1])
    plain = losses.sigmoid_cross_entropy(logits, labels)
    np.testing.assert_allclose(losses.focal(logits, labels, gamma=0.0), plain, rtol=1e-6)
    assert losses.focal(logits, labels).loss < plain.loss


class TestStageWeights:
    STAGE = jnp.array([1, 2, 3, 0], jnp.int32)

    def test_negatives_weigh_by_their_stage_and_padding_nothing(self):
        weights = losses.stage_weights(self.STAGE, jnp.zeros(4, bool))
        np.testing.assert_allclose(weights, [1, 0.5, 0.1, 0])
        assert weights.dtype == jnp.float32
        weights = losses.stage_weights(
            self.STAGE, jnp.zeros(4, bool), negative_weights=(3.0, 2.0, 0.0)
        )
        np.testing.assert_allclose(weights, [3, 2, 0, 0])

    def test_positives_keep_one_whatever_their_stage(self):
        weights = losses.stage_weights(self.STAGE, jnp.ones(4, bool), negative_weights=(7, 7, 7))
        np.testing.assert_allclose(weights, [1, 1, 1, 0])

    def test_a_code_that_does_not_exist_is_not_a_number(self):
        assert np.isnan(losses.stage_weights(jnp.array([4, -1]), jnp.zeros(2, bool))).all()

    def test_shapes_must_match(self):
        with pytest.raises(InputError, match="positive has shape"):
            losses.stage_weights(self.STAGE, jnp.ones((4, 1), bool))
        with pytest.raises(ValueError, match="unpack"):
            losses.stage_weights(self.STAGE, jnp.ones(4, bool), negative_weights=(1.0, 0.5))
