"""Scores of requests with the whole corpus, cross features included, and the exact top k of them.

The cross features of a request are non-zero for few items. So every item gets the model's score
with zero cross terms, one matrix product for dot models, and the few get their own score instead.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from interactrank_jax.examples.format import PADDING
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.ranking.device_index import (
    DeviceIndex,
    TileScorer,
    first_local,
    tile_bytes,
    tile_scorer,
)
from interactrank_jax.serving.corpus import DOT_BYTES, OTHER_BYTES
from interactrank_jax.serving.masks import RowMask
from interactrank_jax.serving.scan import Pairs, TileSize, all_scores, corpus_top_k

Array = jax.Array


class CorpusScorer:
    """Ranked scores of encoded queries with an item representation.

    Attributes:
      num_items: I, rows of the store, padding included.

    Args:
      model: the model.
      params: its parameters.
      items: its representation of every store row, leaves `[I, ...]`.
      utility: weight of each head in the ranked score, `[H]`.
      devices: whose memory the items lie in, split by rows; jax's first by default. With devices of
        other processes each must score the same queries.
      pairs: of a query and an item, scored together; by default what a cache, or a share of the
        device's memory, has room for.
      recall: below 1, the share of the best k that the approximate top-k of a TPU must find.
    """

    def __init__(
        self,
        model: PreRanker,
        params: Any,
        items: Any,
        utility: Sequence[float],
        devices: Sequence[jax.Device] | None = None,
        pairs: int | None = None,
        recall: float = 1.0,
    ):
        devices = jax.local_devices()[:1] if devices is None else devices
        self._model, self._params, self._utility = model, params, tuple(utility)
        self._index = DeviceIndex(items, devices, recall=recall)
        # Of several devices none has all rows: those are looked up where they came from.
        self._is_split = len(devices) > 1
        self._items = items if self._is_split else self._index.whole()
        self._score_tile = _score_tile(model, self._utility)
        self.num_items = self._index.rows
        pair_bytes = DOT_BYTES if _is_product(model) else OTHER_BYTES
        room = tile_bytes(first_local(devices)) // pair_bytes
        self._size = TileSize(room if pairs is None else pairs)

    def scores(self, query: Any, cross_items: np.ndarray, cross_values: np.ndarray) -> np.ndarray:
        """Returns `[R, I]`; the padding row scores -inf.

        Args:
          query: representation with leading axis `[R]`.
          cross_items: `[R, M]` store rows with cross features; padded with I.
          cross_values: `[R, M, K]`.

        Raises:
          ValueError: other processes have some of the items.
        """
        if self._index.is_shared:
            raise ValueError("the items lie in several processes: no one has all scores.")
        requests = len(jax.tree.leaves(query)[0])
        tiles = self._index.tiles(self._score_tile, (self._params, query))
        result = all_scores(tiles, requests, self.num_items, self._size)
        pairs = self._exact(query, cross_items, cross_values)
        if pairs is not None:
            request, row, score = pairs
            result[request, row] = score
        return result

    def top_k(
        self,
        query: Any,
        cross_items: np.ndarray,
        cross_values: np.ndarray,
        k: int,
        mask: RowMask | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores and store rows `[R, min(k, items)]`, best first; exact.

        Equal scores come in the order of the store. Where a mask leaves fewer, the last have score
        -inf and row 0.

        Args:
          query, cross_items, cross_values: see `scores`.
          k: items kept per query.
          mask: rows that are no candidates.
        """
        requests = len(jax.tree.leaves(query)[0])
        rows, scores = corpus_top_k(
            lambda part: self._index.tiles(
                self._score_tile, (self._params, jax.tree.map(lambda leaf: leaf[part], query))
            ),
            requests,
            self.num_items,
            min(k, self.num_items - 1),  # the padding row is nobody's candidate
            self._size,
            mask,
            self._exact(query, cross_items, cross_values),
            self._index.gather,
        )
        return scores, rows

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
            if not len(items):
                continue
            position = np.minimum(np.searchsorted(items, rows[number]), len(items) - 1)
            is_there = items[position] == rows[number]
            cross[number, is_there] = values[position[is_there]]
        return self._logits(query, rows, cross)

    def _exact(self, query: Any, cross_items: np.ndarray, cross_values: np.ndarray) -> Pairs | None:
        """Returns the scores of the items that have cross features."""
        if not self._model.uses_cross or not cross_values.shape[-1]:
            return None
        there = (cross_items < self.num_items) & (cross_items != PADDING)
        rows = np.where(there, cross_items, PADDING)
        score = self._logits(query, rows, cross_values) @ np.asarray(self._utility, np.float32)
        return np.nonzero(there)[0], rows[there], score[there]

    def _logits(self, query: Any, rows: np.ndarray, cross: np.ndarray) -> np.ndarray:
        items = self._items
        if self._is_split:
            distinct, position = np.unique(rows, return_inverse=True)
            size = 1 << max(len(distinct) - 1, 0).bit_length()  # few sizes, so few compilations
            distinct = np.pad(distinct, (0, size - len(distinct)), mode="edge")
            items = jax.tree.map(lambda leaf: leaf[distinct], items)
            rows = position.reshape(rows.shape).astype(np.int32)
        return np.asarray(row_logits(self._model, self._params, query, items, rows, cross))


@functools.lru_cache(maxsize=8)
def _score_tile(model: PreRanker, utility: tuple[float, ...]) -> TileScorer:
    """Compiles once a model, however often its parameters change."""

    def score(query: Any, items: Any) -> Array:
        params, query = query
        return jnp.asarray(
            model.apply({"params": params}, query, items, utility, method="rank_all")
        )

    return tile_scorer(score)


def _is_product(model: PreRanker) -> bool:
    """Returns whether scores take hardly any memory but their own: those of matrix products."""
    return hasattr(model, "serving_query")


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
