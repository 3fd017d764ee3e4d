"""The best items of requests out of all that a bundle has."""

import itertools

import numpy as np

from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.graphs import Graphs, Leaves, padded_rows
from interactrank_jax.serving.masks import RowMask
from interactrank_jax.serving.pairs import PairScorer
from interactrank_jax.serving.requests import EncodedRequests
from interactrank_jax.serving.scan import Pairs, Tiles, TileSize, corpus_top_k
from interactrank_jax.serving.top_k import Top, joined_tops, top_k

PAIRS = 1 << 22  # requests and items with cross features at a time
DOT_BYTES, OTHER_BYTES = 4, 8  # of memory for each pair of a request and an item of a tile


class CorpusRanker:
    """Ranks the whole corpus by a bundle.

    Attributes:
      size: of a tile.

    Args:
      bundle: the bundle.
      graphs: what computes its graphs.
      pairs: scores the items that have cross features.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs, pairs: PairScorer):
        self._bundle, self._graphs, self._pairs = bundle, graphs, pairs
        # Other than a dot product, a score takes memory for each pair.
        pair_bytes = DOT_BYTES if "query_vector" in bundle["graphs"] else OTHER_BYTES
        self.size = TileSize(graphs.tile_bytes() // pair_bytes, graphs.padded)

    def best(
        self, encoded: EncodedRequests, query: Leaves, k: int, mask: RowMask | None = None
    ) -> list[Top]:
        """Returns the best items of each request, of all that are not barred.

        Every item is scored, tile by tile; items with cross features get scores of their own. Those
        of some requests, which `PAIRS` bounds, are in memory at a time: a table that has every item
        for every request would else be of their product.
        """
        tops: list[Top] = []
        while len(tops) < len(encoded):
            first, pairs = len(tops), 0
            rows: list[np.ndarray] = []
            while first + len(rows) < len(encoded) and (not rows or pairs < PAIRS):
                rows.append(self._with_cross(encoded, first + len(rows)))
                pairs += len(rows[-1])
            part = slice(first, first + len(rows))
            query_part = {name: leaf[part] for name, leaf in query.items()}
            mask_part = None if mask is None else mask.of_requests(part.start, part.stop)
            tops += self._best(encoded.part(part), query_part, k, mask_part, rows)
        return tops

    def _best(
        self,
        encoded: EncodedRequests,
        query: Leaves,
        k: int,
        mask: RowMask | None,
        with_cross: list[np.ndarray],
    ) -> list[Top]:
        """Returns the best items of each request; `with_cross`: rows that have cross features."""
        count, items = len(encoded), self._bundle["items"]
        kept, k = min(k, items - 1), min(k * self._graphs.surplus(), items - 1)
        if not k:
            return [(np.zeros(0, np.int32), np.zeros(0, np.float32)) for _ in range(count)]
        deleted = self._bundle.delta.deleted
        if len(deleted):
            everywhere = RowMask.of(1, items, np.zeros(len(deleted), np.int64), deleted)
            mask = everywhere if mask is None else everywhere | mask

        def tiles(requests: slice) -> list[Tiles]:
            size = self._graphs.padded(requests.stop - requests.start)
            padded = {name: padded_rows(leaf[requests], size) for name, leaf in query.items()}
            return list(self._graphs.tiles(self._bundle, padded))

        pairs, gather = self._exact(encoded, query, with_cross), self._graphs.gather
        rows, scores = corpus_top_k(tiles, count, items, k, self.size, mask, pairs, gather)
        there = np.isfinite(scores)
        tops = [
            (row[real], score[real]) for row, score, real in zip(rows, scores, there, strict=True)
        ]
        return tops if self._graphs.surplus() == 1 else self._rescored(encoded, query, tops, kept)

    def _rescored(
        self, encoded: EncodedRequests, query: Leaves, tops: list[Top], k: int
    ) -> list[Top]:
        """Returns the best k by their exact scores."""
        counts = [len(row) for row, _ in tops]
        start, row = np.append(0, np.cumsum(counts)), joined_tops(tops)[0]
        score = self._pairs.of_lists(encoded, query, start, row)[0]
        best = []
        for first, end in itertools.pairwise(start.tolist()):
            chosen = first + top_k(score[first:end], row[first:end], k)
            best.append((row[chosen], score[chosen]))
        return best

    def _with_cross(self, encoded: EncodedRequests, request: int) -> np.ndarray:
        """Returns the rows of the items that a request has cross features for."""
        if not self._pairs.uses_cross:
            return np.zeros(0, np.int64)
        return self._bundle.cross.items(encoded.groups, request)

    def _exact(
        self, encoded: EncodedRequests, query: Leaves, with_cross: list[np.ndarray]
    ) -> Pairs | None:
        """Returns items that have cross features, with their scores."""
        if not self._pairs.uses_cross:
            return None
        counts = [len(part) for part in with_cross]
        row, start = np.concatenate(with_cross), np.append(0, np.cumsum(counts))
        score = self._pairs.of_lists(encoded, query, start, row)[0]
        return np.repeat(np.arange(len(encoded)), counts), row, score
