"""The vanilla two-tower model (DSSM): the baseline, and what InteractRank adds its terms to."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from interactrank_jax.models import flops
from interactrank_jax.models.affine import AffineRanker
from interactrank_jax.models.inputs import ItemInput, RequestInput
from interactrank_jax.models.registry import register
from interactrank_jax.models.towers import ItemTower, QueryTower

Array = jax.Array


@register("two_tower", flops=flops.two_tower)
class TwoTower(AffineRanker):
    """logit_h = w_h <u_h(request), v(item)> + b_h with unit vectors and positive w_h.

    The query tower emits one vector per head, the item tower one. Since the ranked score is linear
    in the heads' vectors, serving needs only one: sum_h utility_h w_h u_h (`serving_query`).

    QueryRep: `[R, H, d]`. ItemRep: `[..., d]`.
    """

    uses_cross: ClassVar[bool] = False

    def setup(self):
        """Makes the towers, the affine projection and the temperature."""
        heads = len(self.inputs.heads)
        width = self.config.tower.output_dim
        self.query_tower = QueryTower(self.config, self.inputs, heads, width)
        self.item_tower = ItemTower(self.config, self.inputs, 1, width)
        self._make_projection()
        self._make_temperature()

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Array:
        """Returns one unit vector per head, `[R, H, d]`."""
        return self.query_tower(request, train=train)

    def encode_item(self, items: ItemInput, *, train: bool = False) -> Array:
        """Returns one unit vector per item, `[..., d]`."""
        return self.item_tower(items, train=train)[..., 0, :]

    def score(self, query: Array, items: Array, cross: Array) -> Array:
        """Returns `[R, C, H]`; the cross features are not looked at."""
        del cross
        return self._project(jnp.einsum("rhd,rcd->rch", query, items))

    def score_all(self, query: Array, items: Array) -> Array:
        """Returns `[R, I, H]`."""
        return self._project(jnp.einsum("rhd,id->rih", query, items))

    def serving_query(self, query: Array, utility: Sequence[float]) -> Array:
        """Returns the one vector `[R, d]` whose dot product with an item ranks it."""
        weight = self.dot_weight() * jnp.asarray(utility, jnp.float32)
        return jnp.einsum("rhd,h->rd", query, weight)

    def rank_all(self, query: Array, items: Array, utility: Sequence[float]) -> Array:
        """Returns the ranked score `[R, I]` by one matrix product, whatever the heads."""
        bias = self.bias @ jnp.asarray(utility, jnp.float32)
        return self.serving_query(query, utility) @ items.T + bias

    def similarity(self, query: Array, items: Array) -> Array:
        """Returns `[R, N]`: cosine of the first head over the learned temperature."""
        return self._over_temperature(query[:, 0] @ items.T)
