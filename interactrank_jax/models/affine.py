"""What models of unit vectors share: a dot product as a logit, and the softmax's temperature."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from interactrank_jax import losses
from interactrank_jax.models.layers import along_last
from interactrank_jax.models.preranker import PreRanker

Array = jax.Array


def add_offset(logits: Array, offset: Array | None) -> Array:
    """Adds what all candidates of a request have in common, `[R, H]`, to logits `[R, ..., H]`."""
    if offset is None:
        return logits
    return logits + jnp.expand_dims(offset, tuple(range(1, logits.ndim - 1)))


class AffineRanker(PreRanker):
    """A model with logits w_h <u_h, v> + b_h, a positive w_h, and a temperature beside them."""

    def _make_projection(self) -> None:
        heads = (len(self.inputs.heads),)
        raw = float(self.config.dot_weight_init)
        if self.config.positive_dot_weight:
            raw = float(np.log(np.expm1(raw)))  # softplus of it is the weight
        self.dot_weight_raw = self.param("dot_weight", nn.initializers.constant(raw), heads)
        self.bias = self.param("bias", nn.initializers.zeros, heads)

    def _make_temperature(self) -> None:
        self.log_inverse_temperature = self.param(
            "log_inverse_temperature", nn.initializers.constant(np.log(1 / 0.07)), ()
        )

    def dot_weight(self) -> Array:
        """Returns the weight of the dot product, `[H]`.

        Positive unless `config.positive_dot_weight` is off: a serving index of nearest neighbours
        needs that.
        """
        if self.config.positive_dot_weight:
            return nn.softplus(self.dot_weight_raw)
        return self.dot_weight_raw

    def _project(self, dot: Array, offset: Array | None = None) -> Array:
        """Returns the logits `[R, ..., H]` of dot products and the requests' offset `[R, H]`."""
        logits = dot * along_last(self.dot_weight(), dot) + along_last(self.bias, dot)
        return add_offset(logits, offset)

    def _over_temperature(self, cosine: Array) -> Array:
        """Returns cosines over the learned temperature (>= 1/100)."""
        return losses.scale_logits(cosine, self.log_inverse_temperature)

    def constrain(self, params: Any) -> Any:
        """Keeps the temperature from running away beyond its limit."""
        name = "log_inverse_temperature"
        return {**params, name: jnp.minimum(params[name], losses.MAX_LOG_SCALE)}
