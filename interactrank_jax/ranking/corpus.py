"""Scores of requests with the whole corpus, cross features included, and the exact top k of them.

The cross features of a request are non-zero for few items. So every item gets the model's score
with zero cross terms, one matrix product for dot models, and the few get their own score instead.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interactrank_jax.examples.format import PADDING
from interactrank_jax.models.preranker import PreRanker

Array = jax.Array


class CorpusScorer:
    """Ranked scores of encoded queries with an item representation.

    Attributes:
      model: the model.
      params: its parameters.
      items: its representation of every store row, leaves `[I, ...]`, on device.
      utility: weight of each head in the ranked score, `[H]`.
      tile: items scored at a time.
    """

    def __init__(
        self,
        model: PreRanker,
        params: Any,
        items: Any,
        utility: Sequence[float],
        tile: int = 1 << 18,
    ):
        self.model = model
        self.params = params
        self.items = jax.device_put(items)
        self.utility = tuple(utility)
        self.num_items = jax.tree.leaves(items)[0].shape[0]
        self.tile = min(tile, self.num_items)

    def scores(self, query: Any, cross_items: np.ndarray, cross_values: np.ndarray) -> Array:
        """Returns `[R, I]`; the padding row scores -inf.

        Args:
          query: representation with leading axis `[R]`.
          cross_items: `[R, M]` store rows with cross features; padded with I.
          cross_values: `[R, M, K]`.
        """
        tiles = list(self._tiles(query, cross_items, cross_values))
        return jnp.concatenate([scores for _, scores in tiles], -1)

    def top_k(
        self, query: Any, cross_items: np.ndarray, cross_values: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and store rows `[R, min(k, items)]`, best first; exact.

        Equal scores come in the order of the store.
        """
        k = min(k, self.num_items - 1)  # the padding row is nobody's candidate
        best: tuple[Array, Array] | None = None
        for start, scores in self._tiles(query, cross_items, cross_values):
            best = _merge_top_k(best, scores, start, k)
        assert best is not None
        return jax.device_get(best[0]), jax.device_get(best[1])

    def logits(
        self, query: Any, rows: np.ndarray, cross_items: np.ndarray, cross_values: np.ndarray
    ) -> np.ndarray:
        """Returns the logits `[R, k, H]` of some items of each request.

        Args:
          query: representation with leading axis `[R]`.
          rows: `[R, k]` store rows.
          cross_items, cross_values: as `scores` takes them; rows of a request ascending.
        """
        cross = np.zeros((*rows.shape, cross_values.shape[-1]), np.float32)
        for number, (items, values) in enumerate(zip(cross_items, cross_values, strict=True)):
            position = np.minimum(np.searchsorted(items, rows[number]), len(items) - 1)
            is_there = items[position] == rows[number]
            cross[number, is_there] = values[position[is_there]]
        return np.asarray(row_logits(self.model, self.params, query, self.items, rows, cross))

    def _tiles(self, query, cross_items, cross_values) -> Iterator[tuple[int, Array]]:
        for start in range(0, self.num_items, self.tile):
            items = jax.tree.map(lambda leaf, s=start: leaf[s : s + self.tile], self.items)
            yield (
                start,
                _tile_scores(
                    self.model,
                    self.utility,
                    self.params,
                    query,
                    items,
                    np.int32(start),
                    cross_items,
                    cross_values,
                ),
            )


@functools.partial(jax.jit, static_argnums=(0,))
def row_logits(model: PreRanker, params: Any, query: Any, items: Any, rows: Any, cross: Any) -> Any:
    """Returns the logits `[R, C, H]` of requests with items of theirs, by store row `[R, C]`.

    Args:
      model, params: the model.
      query: representation with leading axis `[R]`.
      items: its representation of every store row, leaves `[I, ...]`.
      rows: `[R, C]`.
      cross: `[R, C, K]` their cross features.
    """
    chosen = jax.tree.map(lambda leaf: leaf[rows], items)
    return jnp.asarray(model.apply({"params": params}, query, chosen, cross, method="score"))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _tile_scores(model, utility, params, query, items, start, cross_items, cross_values):
    variables = {"params": params}
    scores = model.apply(variables, query, items, utility, method="rank_all")
    size = scores.shape[1]
    if model.uses_cross and cross_values.shape[-1]:
        place = cross_items - start
        inside = (place >= 0) & (place < size)
        chosen = jax.tree.map(lambda leaf: leaf[jnp.clip(place, 0, size - 1)], items)
        exact = model.apply(variables, query, chosen, cross_values, method="score")
        exact = exact @ jnp.asarray(utility, jnp.float32)
        row = jnp.arange(scores.shape[0])[:, None]
        scores = scores.at[row, jnp.where(inside, place, size)].set(exact, mode="drop")
    return jnp.where(jnp.arange(size) + start == PADDING, -jnp.inf, scores)


@functools.partial(jax.jit, static_argnums=(3,))
def _merge_top_k(best, scores, start, k):
    value, place = jax.lax.top_k(scores, min(k, scores.shape[1]))
    item = place + start
    if best is not None:
        # What was found in earlier tiles comes first, so ties keep the order of the store.
        value = jnp.concatenate([best[0], value], 1)
        item = jnp.concatenate([best[1], item], 1)
        value, place = jax.lax.top_k(value, min(k, value.shape[1]))
        item = jnp.take_along_axis(item, place, 1)
    return value, item
