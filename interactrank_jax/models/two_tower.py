"""The vanilla two-tower model (DSSM): the baseline, and what InteractRank adds its terms to."""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from interactrank_jax import losses
from interactrank_jax.models.embeddings import ItemInput, RequestInput
from interactrank_jax.models.layers import along_last
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.models.towers import ItemTower, QueryTower

Array = jax.Array


class TwoTower(PreRanker):
    """logit_h = w_h <u_h(request), v(item)> + b_h with unit vectors and positive w_h.

    The query tower emits one vector per head, the item tower one. Since the ranked score is linear
    in the heads' vectors, serving needs only one: sum_h utility_h w_h u_h (`serving_query`).

    QueryRep: `[R, H, d]`. ItemRep: `[..., d]`.
    """

    uses_cross: ClassVar[bool] = False

    def setup(self):
        """Makes the towers and the affine projection."""
        heads = len(self.inputs.heads)
        width = self.config.tower.output_dim
        self.query_tower = QueryTower(self.config, self.inputs, heads, width)
        self.item_tower = ItemTower(self.config, self.inputs, 1, width)
        raw = float(self.config.dot_weight_init)
        if self.config.positive_dot_weight:
            raw = float(np.log(np.expm1(raw)))  # softplus of it is the weight
        self.dot_weight_raw = self.param("dot_weight", nn.initializers.constant(raw), (heads,))
        self.bias = self.param("bias", nn.initializers.zeros, (heads,))
        self.log_inverse_temperature = self.param(
            "log_inverse_temperature", nn.initializers.constant(np.log(1 / 0.07)), ()
        )

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Array:
        """Returns one unit vector per head, `[R, H, d]`."""
        return self.query_tower(request, train=train)

    def encode_item(self, items: ItemInput, *, train: bool = False) -> Array:
        """Returns one unit vector per item, `[..., d]`."""
        return self.item_tower(items, train=train)[..., 0, :]

    def dot_weight(self) -> Array:
        """Returns the weight of the dot product, `[H]`.

        Positive unless `config.positive_dot_weight` is off: a serving index of nearest neighbours
        needs that.
        """
        if self.config.positive_dot_weight:
            return nn.softplus(self.dot_weight_raw)
        return self.dot_weight_raw

    def score(self, query: Array, items: Array, cross: Array) -> Array:
        """Returns `[R, C, H]`; the cross features are not looked at."""
        del cross
        return self._project(jnp.einsum("rhd,rcd->rch", query, items))

    def score_all(self, query: Array, items: Array) -> Array:
        """Returns `[R, I, H]`."""
        return self._project(jnp.einsum("rhd,id->rih", query, items))

    def _project(self, dot: Array) -> Array:
        return dot * along_last(self.dot_weight(), dot) + along_last(self.bias, dot)

    def serving_query(self, query: Array, utility: Sequence[float]) -> Array:
        """Returns the one vector `[R, d]` whose dot product with an item ranks it."""
        weight = self.dot_weight() * jnp.asarray(utility, jnp.float32)
        return jnp.einsum("rhd,h->rd", query, weight)

    def rank_all(self, query: Array, items: Array, utility: Sequence[float]) -> Array:
        """Returns the ranked score `[R, I]` by one matrix product, whatever the heads."""
        bias = self.bias @ jnp.asarray(utility, jnp.float32)
        return self.serving_query(query, utility) @ items.T + bias

    def constrain(self, params: Any) -> Any:
        """Keeps the temperature from running away beyond its limit."""
        name = "log_inverse_temperature"
        return {**params, name: jnp.minimum(params[name], losses.MAX_LOG_SCALE)}

    def similarity(self, query: Array, items: Array) -> Array:
        """Returns `[R, N]`: cosine of the first head over the learned temperature (>= 1/100)."""
        return losses.scale_logits(query[:, 0] @ items.T, self.log_inverse_temperature)
