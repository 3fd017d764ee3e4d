"""The vanilla two-tower model (DSSM): the baseline, and what InteractRank adds its terms to."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from interactrank_jax.models import flops
from interactrank_jax.models.affine import AffineRanker
from interactrank_jax.models.inputs import ItemInput, RequestInput
from interactrank_jax.models.registry import register
from interactrank_jax.models.towers import ItemTower, QueryTower

Array = jax.Array


class Query(NamedTuple):
    """A request.

    Attributes:
      vectors: `[R, H, d]` of unit length, one per head.
      offset: `[R, H]` what all its candidates have in common; None: nothing.
    """

    vectors: Array
    offset: Array | None = None


@register("two_tower", flops=flops.two_tower)
class TwoTower(AffineRanker):
    """logit_h = w_h <u_h(request), v(item)> + b_h with unit vectors and positive w_h.

    The query tower emits one vector per head, the item tower one. Since the ranked score is linear
    in the heads' vectors, serving needs only one: sum_h utility_h w_h u_h (`serving_query`).

    QueryRep: a `Query`. ItemRep: `[..., d]`.
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

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Query:
        """Returns one unit vector per head, and what all candidates have in common."""
        return Query(self.query_tower(request, train=train), self.offset(request))

    def encode_item(self, items: ItemInput, *, train: bool = False) -> Array:
        """Returns one unit vector per item, `[..., d]`."""
        return self.item_tower(items, train=train)[..., 0, :]

    def score(self, query: Query, items: Array, cross: Array) -> Array:
        """Returns `[R, C, H]`; the cross features are not looked at."""
        del cross
        dot = jnp.einsum("rhd,rcd->rch", query.vectors, items)
        return self._project(dot, query.offset)

    def score_all(self, query: Query, items: Array) -> Array:
        """Returns `[R, I, H]`."""
        dot = jnp.einsum("rhd,id->rih", query.vectors, items)
        return self._project(dot, query.offset)

    def serving_query(self, query: Query, utility: Sequence[float]) -> Array:
        """Returns the one vector `[R, d]` whose dot product with an item ranks it."""
        weight = self.dot_weight() * jnp.asarray(utility, jnp.float32)
        return jnp.einsum("rhd,h->rd", query.vectors, weight)

    def serving_offset(self, query: Query, utility: Sequence[float]) -> Array:
        """Returns what is added to that product, `[R]`: the same for all items of a request."""
        weights = jnp.asarray(utility, jnp.float32)
        bias = jnp.zeros_like(query.vectors[:, 0, 0]) + self.bias @ weights
        return bias if query.offset is None else bias + query.offset @ weights

    def rank_all(self, query: Query, items: Array, utility: Sequence[float]) -> Array:
        """Returns the ranked score `[R, I]` by one matrix product, whatever the heads."""
        offset = self.serving_offset(query, utility)
        return self.serving_query(query, utility) @ items.T + offset[:, None]

    def similarity(self, query: Query, items: Array) -> Array:
        """Returns `[R, N]`: cosine of the first head over the learned temperature."""
        return self._over_temperature(query.vectors[:, 0] @ items.T)
