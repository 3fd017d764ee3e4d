"""COLD (Wang et al., DLP-KDD 2020): one network over user, item and cross fields, made cheap."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from interactrank_jax.models import flops
from interactrank_jax.models.fields import JointRanker, flat
from interactrank_jax.models.registry import register

Array = jax.Array


class SqueezeExcitation(nn.Module):
    """Scales each field by its importance s = sigmoid(W z + b), z_i the mean of field i.

    One layer where SENet has two. Importance is of a field in this pair; its mean over a data set
    tells which features to drop, which is how COLD buys time.

    Attributes:
      dtype: to compute in.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, fields: Array) -> Array:
        """Maps `[..., F, d]` to the same."""
        importance = nn.Dense(fields.shape[-2], dtype=self.dtype)(fields.mean(-1))
        return nn.sigmoid(importance)[..., None] * fields.astype(self.dtype)


@register("cold", flops=flops.cold)
class COLD(JointRanker):
    """logit = MLP(all fields side by side, each scaled by its importance).

    No vectors, so no index: the network runs for every candidate, with cross features as its input.
    """

    def setup(self):
        """Adds the SE block."""
        super().setup()
        self.squeeze_excitation = SqueezeExcitation(self.dtype)

    def logits(self, query: Array, pair: Array, *, train: bool) -> Array:
        """Returns `[R, C, H]`."""
        fields = self.squeeze_excitation(self.all_vectors(query, pair))
        return self.deep_output(self.deep(flat(fields), train=train))
