"""The lightweight similarity scorer of FIT: late interaction by a small network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from interactrank_jax.models.layers import along_last

Array = jax.Array


class ScorerWeights(NamedTuple):
    """Weights of `lightweight_score`, see there."""

    scale: Array
    centre: Array
    item_weight: Array
    item_bias: Array
    user_weight: Array
    user_bias: Array
    weight: Array
    bias: Array


def lightweight_score(weights: ScorerWeights, user: Array, item: Array) -> Array:
    """Scores user heads `[..., U, p]` with item heads `[..., V, p]`: `[..., H]` (FIT, LSS).

    S = scale (Z_u Z_v^T - centre);  S1 = relu(S W1 + b1) over the item heads;
    S2 = relu(S1^T W2 + b2) over the user heads;  logit = w vec(S2) + b.

    Cosines of unit vectors lie in a narrow band, in which no logit could move: hence scale and
    centre, which are learned.
    """
    similarity = jnp.einsum("...up,...vp->...uv", user, item)
    centre = weights.centre.reshape((1,) * (similarity.ndim - 2) + weights.centre.shape)
    similarity = weights.scale * (similarity - centre)
    by_item = nn.relu(_affine(similarity, weights.item_weight, weights.item_bias))
    by_user = _affine(jnp.swapaxes(by_item, -1, -2), weights.user_weight, weights.user_bias)
    flat = nn.relu(by_user).reshape(*by_user.shape[:-2], -1)
    return _affine(flat, weights.weight, weights.bias)


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    x = x @ weight
    return x + along_last(bias, x)


class LightweightScorer(nn.Module):
    """The weights of `lightweight_score`.

    Attributes:
      user_heads, item_heads: U, V.
      hidden: widths of W1 and W2.
      outputs: H.
      scale_init: initial scale of the cosines.
    """

    user_heads: int
    item_heads: int
    hidden: tuple[int, int]
    outputs: int
    scale_init: float

    def setup(self):
        """Makes the weights; the last layer starts small, so that first logits are of order one."""
        zeros, he = nn.initializers.zeros, nn.initializers.he_normal()
        last = nn.initializers.variance_scaling(0.1, "fan_in", "normal")
        first, second = self.hidden
        log_scale = nn.initializers.constant(float(np.log(self.scale_init)))
        self.log_scale = self.param("log_scale", log_scale, ())
        self.centre = self.param("centre", zeros, (self.user_heads, self.item_heads))
        self.item_weight = self.param("item_weight", he, (self.item_heads, first))
        self.item_bias = self.param("item_bias", zeros, (first,))
        self.user_weight = self.param("user_weight", he, (self.user_heads, second))
        self.user_bias = self.param("user_bias", zeros, (second,))
        self.weight = self.param("weight", last, (first * second, self.outputs))
        self.bias = self.param("bias", zeros, (self.outputs,))

    def weights(self) -> ScorerWeights:
        """Returns the weights as arrays."""
        return ScorerWeights(
            jnp.exp(self.log_scale),
            self.centre,
            self.item_weight,
            self.item_bias,
            self.user_weight,
            self.user_bias,
            self.weight,
            self.bias,
        )
