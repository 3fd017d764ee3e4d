"""The cross features' part of a logit: what history knows of this query with this item."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from interactrank_jax.models.layers import along_last

Array = jax.Array


def scale_cross(cross: Array, scale: tuple[float, ...], transform: str) -> Array:
    """Returns cross features `[..., K]` by their training scale, in 'log' damped to sign log1p."""
    scaled = cross / along_last(np.array(scale, np.float32), cross)
    if transform == "log":
        return jnp.sign(scaled) * jnp.log1p(jnp.abs(scaled))
    return scaled


class CrossTerms(nn.Module):
    """sum_k w_hk f(IQP_k), an affine projection without its bias (InteractRank).

    f is `scale_cross`. It keeps zero at zero, so that an item without history has no cross term.

    Attributes:
      scale: of each cross feature.
      heads: H.
      transform: 'log' or 'linear'.
      weight_init: initial weight of all.
    """

    scale: tuple[float, ...]
    heads: int
    transform: str
    weight_init: float

    def setup(self):
        """Makes the weights."""
        if self.scale:  # an empty array can be saved in no checkpoint
            shape = (len(self.scale), self.heads)
            self.weight = self.param("weight", nn.initializers.constant(self.weight_init), shape)

    def __call__(self, cross: Array) -> Array:
        """Maps `[..., K]` to `[..., H]`."""
        if not self.scale:
            return jnp.zeros((*cross.shape[:-1], self.heads), cross.dtype)
        scaled = scale_cross(cross, self.scale, self.transform)
        return scaled @ self.weight

    def parts(self, cross: Array) -> Array:
        """Returns the addends of `__call__`, one per cross feature: `[..., K, H]`."""
        if not self.scale:
            return jnp.zeros((*cross.shape[:-1], 0, self.heads), cross.dtype)
        scaled = scale_cross(cross, self.scale, self.transform)[..., None]
        return scaled * jnp.broadcast_to(self.weight, (*cross.shape, self.heads))
