"""What history adds to a logit: terms of the pair (cross features), and terms of the user alone.

Every value is zero where history knows nothing, and so is its term.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from interactrank_jax.models.inputs import Inputs, UserValue
from interactrank_jax.models.layers import along_last

Array = jax.Array

TRANSFORMS = ("odds", "log", "linear")
FARTHEST = 100.0  # a rate m is kept at least m / 100 from 0, and (1 - m) / 100 from 1


def log_odds_ratio(difference: Array, mean: Any) -> Array:
    """Returns logit(m + d) - logit(m) of differences d from a mean rate m: 0 where d is.

    A rate that predicts its action well is, on this scale, the logit itself, whatever its mean. It
    is kept from 0 and 1 by a hundredth of m and of 1 - m.

    Args:
      difference: rates minus their mean.
      mean: in (0, 1), broadcast against `difference`.
    """
    # Near 1, a hundredth of the complement must still be a float32: some actions always happen.
    mean = np.clip(np.asarray(mean, np.float32), 1e-6, 1 - 1e-4)
    rate = jnp.clip(difference + mean, mean / FARTHEST, 1 - (1 - mean) / FARTHEST)
    return jnp.log(rate) - jnp.log1p(-rate) - np.log(mean / (1 - mean))


def transform_cross(cross: Array, inputs: Inputs, transform: str) -> Array:
    """Returns the values `[..., K]` that cross features `[..., K]` enter a model with.

    Args:
      cross: as the examples have them.
      inputs: their scales (root mean square over training) and, of rates, their means.
      transform: 'linear', by their scale; 'log', that damped to sign log1p, for what is spread over
        decades; 'odds', rates as logarithms of odds ratios (`log_odds_ratio`), shares as in 'log'.
    """
    scaled = cross / along_last(np.array(inputs.cross_scale, np.float32), cross)
    if transform == "linear":
        return scaled
    damped = jnp.sign(scaled) * jnp.log1p(jnp.abs(scaled))
    if transform == "log" or not any(inputs.cross_mean):
        return damped
    means = np.array(inputs.cross_mean, np.float32)
    odds = log_odds_ratio(cross, along_last(np.where(means > 0, means, 0.5), cross))
    return jnp.where(along_last(means > 0, cross), odds, damped)


def transform_user_values(numeric: Array, values: Sequence[UserValue]) -> Array:
    """Returns what is known of users `[..., U]`: log1p of counts, and odds ratios of rates.

    Args:
      numeric: `[..., Fn]` raw numeric features of requests.
      values: which of them those are.
    """
    columns = [
        log_odds_ratio(numeric[..., value.column], value.mean)
        if value.mean
        else jnp.log1p(numeric[..., value.column])
        for value in values
    ]
    return jnp.stack(columns, -1) if columns else jnp.zeros((*numeric.shape[:-1], 0))


class CrossTerms(nn.Module):
    """sum_k w_hk f(IQP_k), an affine projection without its bias (InteractRank).

    f is `transform_cross`.

    Attributes:
      inputs: the cross features, and the heads.
      transform: of `TRANSFORMS`.
      weight_init: initial weight of all, where none is fitted (`training/start.py`).
    """

    inputs: Inputs
    transform: str
    weight_init: float = 0.0

    def setup(self):
        """Makes the weights."""
        if self.inputs.cross:  # an empty array can be saved in no checkpoint
            shape = (len(self.inputs.cross), len(self.inputs.heads))
            self.weight = self.param("weight", nn.initializers.constant(self.weight_init), shape)

    def __call__(self, cross: Array) -> Array:
        """Maps `[..., K]` to `[..., H]`."""
        if not self.inputs.cross:
            return jnp.zeros((*cross.shape[:-1], len(self.inputs.heads)), cross.dtype)
        return transform_cross(cross, self.inputs, self.transform) @ self.weight

    def parts(self, cross: Array) -> Array:
        """Returns the addends of `__call__`, one per cross feature: `[..., K, H]`."""
        heads = len(self.inputs.heads)
        if not self.inputs.cross:
            return jnp.zeros((*cross.shape[:-1], 0, heads), cross.dtype)
        values = transform_cross(cross, self.inputs, self.transform)[..., None]
        return values * jnp.broadcast_to(self.weight, (*cross.shape, heads))


class UserTerms(nn.Module):
    """sum_u v_hu g(z_u) over the counts and rates of a user: the same for all candidates.

    It does not change the ranking within a request. It separates users who engage often from those
    who do not, so that logits of different requests are comparable. g is `transform_user_values`.

    Attributes:
      inputs: says which numeric features those are, and the heads.
    """

    inputs: Inputs

    def setup(self):
        """Makes the weights, zero until they are fitted or learned."""
        if self.inputs.user_values:
            shape = (len(self.inputs.user_values), len(self.inputs.heads))
            self.weight = self.param("weight", nn.initializers.zeros, shape)

    def __call__(self, numeric: Array) -> Array | None:
        """Maps numeric features of requests `[R, Fn]` to `[R, H]`; None where there are none."""
        if not self.inputs.user_values:
            return None
        return transform_user_values(numeric, self.inputs.user_values) @ self.weight
