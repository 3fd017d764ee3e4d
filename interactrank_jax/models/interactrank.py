"""InteractRank (Khandagale et al., WWW 2025): two towers, plus what history knows of the pair."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from interactrank_jax.models.layers import along_last
from interactrank_jax.models.two_tower import TwoTower

Array = jax.Array


class InteractRank(TwoTower):
    """logit_h = w_h <u_h, v> + sum_k w_hk f(IQP_k) + b_h.

    The towers are those of the two-tower model, by default with parallel MaskNet and both
    histories pooled with attention (`config.tower`, `config.sequence`). f keeps zero at zero, so
    that an item without history has no cross term and `score_all` stays one matrix product.
    """

    uses_cross: ClassVar[bool] = True

    def setup(self):
        """Adds the weights of the cross features."""
        super().setup()
        self.cross_weight = self.param(
            "cross_weight",
            nn.initializers.constant(self.config.cross.weight_init),
            (len(self.inputs.cross), len(self.inputs.heads)),
        )

    def score(self, query: Array, items: Array, cross: Array) -> Array:
        """Returns `[R, C, H]`."""
        return super().score(query, items, cross) + self.cross_terms(cross)

    def cross_terms(self, cross: Array) -> Array:
        """Returns the interaction's part of the logits, `[..., H]`, from values `[..., K]`."""
        return self.transform(cross) @ self.cross_weight

    def transform(self, cross: Array) -> Array:
        """Returns f(cross): divided by its training scale, and in 'log' damped to sign log1p."""
        scaled = cross / along_last(np.array(self.inputs.cross_scale, np.float32), cross)
        if self.config.cross.transform == "log":
            return jnp.sign(scaled) * jnp.log1p(jnp.abs(scaled))
        return scaled
