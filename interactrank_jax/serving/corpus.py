"""The best items of requests out of all that a bundle has."""

import numpy as np

from interactrank_jax.examples.format import PADDING
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.graphs import Graphs, Leaves, padded_rows
from interactrank_jax.serving.pairs import PAIRS_AT_ONCE, PairScorer
from interactrank_jax.serving.requests import EncodedRequests
from interactrank_jax.serving.top_k import Top, joined_tops, top_k

TILE = 1 << 17  # items of the corpus at a time


class CorpusRanker:
    """Ranks the whole corpus by a bundle.

    Args:
      bundle: the bundle.
      graphs: what computes its graphs.
      pairs: scores the items that have cross features.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs, pairs: PairScorer):
        self._bundle, self._graphs, self._pairs = bundle, graphs, pairs

    def best(self, encoded: EncodedRequests, query: Leaves, k: int) -> list[Top]:
        """Returns the best items of each request, of all.

        Every item is scored, tile by tile; items with cross features get scores of their own.
        """
        count, items = len(encoded), self._bundle["items"]
        size = self._graphs.padded(count)
        # Other than a dot product, a score takes memory for each pair.
        is_dot = "query_vector" in self._bundle["graphs"]
        tile = min(TILE if is_dot else max(PAIRS_AT_ONCE // size, 1), items - 1)
        if not count or not tile:
            return [joined_tops([]) for _ in range(count)]
        padded = {name: padded_rows(values, size) for name, values in query.items()}
        index = {
            f"item/{name.partition('/')[2]}": values
            for name, values in self._bundle.arrays.items()
            if name.startswith("index/")
        }
        start, rows, exact = self._with_cross(encoded, query)
        best: list[list[Top]] = [[] for _ in range(count)]
        for first in range(PADDING + 1, items, tile):
            # The last tile starts earlier rather than being shorter: one shape.
            begin = min(first, items - tile)
            inputs = {name: values[begin : begin + tile] for name, values in index.items()}
            scores = self._graphs.run("score_all", {**padded, **inputs})["score"][:count]
            scores = np.array(scores[:, first - begin :])  # what jax gives is read-only
            row = np.arange(first, first + scores.shape[1])
            deleted = self._bundle.items.is_deleted(row)
            for request in range(count):
                of_request = slice(start[request], start[request + 1])
                low, high = np.searchsorted(rows[of_request], [row[0], row[-1] + 1])
                inside = slice(start[request] + low, start[request] + high)
                scores[request, rows[inside] - row[0]] = exact[inside]
                scores[request, deleted] = -np.inf
                order = top_k(scores[request], row, k)
                best[request].append((row[order], scores[request][order]))
        tops = []
        for tiles in best:
            row, score = joined_tops(tiles)
            order = top_k(score, row, k)
            order = order[score[order] > -np.inf]
            tops.append((row[order], score[order]))
        return tops

    def _with_cross(
        self, encoded: EncodedRequests, query: Leaves
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the items that R requests have cross features for.

        Returns:
          (first of each request's items `[R + 1]`, their rows `[M]`, ascending in each request,
          their scores `[M]`).
        """
        count = len(encoded)
        if not self._pairs.uses_cross:
            return np.zeros(count + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        rows = [self._bundle.cross.items(encoded.groups, request) for request in range(count)]
        start = np.append(0, np.cumsum([len(part) for part in rows]))
        row = np.concatenate(rows)
        return start, row, self._pairs.of_lists(encoded, query, start, row)[0]
