"""Scores of requests with some items of each: a graph gathers the items and scores the pairs."""

import numpy as np

from interactrank_jax.examples.format import PADDING
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.graphs import Graphs, Leaves, padded_rows
from interactrank_jax.serving.requests import EncodedRequests

# Request and candidate, padding included: what is gathered for so many stays in the cache (on two
# cores 30 ns a pair; 250 ns where it does not).
PAIRS_AT_ONCE = 1 << 14
# Ranked scores, logits, and cross features: None where scores do not depend on them.
Scores = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def padded_requests(graphs: Graphs, count: int) -> int:
    """Returns to how many requests a batch is padded: one, what a service has, stays alone."""
    return 1 if count == 1 else graphs.padded(count)


class PairScorer:
    """Scores pairs of a request and an item by a bundle.

    Args:
      bundle: the bundle.
      graphs: what computes its graphs.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs):
        self._bundle, self._graphs = bundle, graphs

    @property
    def uses_cross(self) -> bool:
        """Whether scores depend on cross features."""
        return "cross" in self._bundle["graphs"]["score"]["inputs"]

    def of_request(self, encoded: EncodedRequests, row: np.ndarray) -> Scores:
        """Returns scores `[M]`, logits `[M, H]` and cross features `[M, K]` of one request's items.

        Encoding the request and scoring its items are one call: what a service waits for.

        Args:
          encoded: one request.
          row: `[M]` the items' rows, at least one.
        """
        wanted = self._bundle["graphs"]["score_list"]["inputs"]
        size = self._graphs.padded_alone(len(row))
        inputs = {name: array for name, array in encoded.arrays.items() if name in wanted}
        inputs["row"] = padded_rows(row.astype(np.int32), size)[None]
        cross = None
        if self.uses_cross:
            cross = self._bundle.cross.values(encoded.groups, row[None])[0]
            inputs["cross"] = padded_rows(cross, size)[None]
        outputs = self._graphs.run("score_list", inputs)
        return outputs["score"][0, : len(row)], outputs["logits"][0, : len(row)], cross

    def of_lists(
        self, encoded: EncodedRequests, query: Leaves, start: np.ndarray, row: np.ndarray
    ) -> Scores:
        """Returns scores `[M]`, logits `[M, H]` and cross features `[M, K]` of R requests' items.

        Lists of like lengths are scored together, long ones a piece at a time.

        Args:
          encoded: R requests.
          query: their representation.
          start: `[R + 1]` first of each request's items.
          row: `[M]` their rows.
        """
        pieces = -(-np.diff(start) // PAIRS_AT_ONCE)
        request = np.repeat(np.arange(len(pieces)), pieces)
        number = np.arange(len(request)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        first = start[request] + number * PAIRS_AT_ONCE
        sizes = np.minimum(start[request + 1] - first, PAIRS_AT_ONCE)
        score = np.zeros(len(row), np.float32)
        logits = np.zeros((len(row), len(self._bundle["heads"])), np.float32)
        cross = None
        if self.uses_cross:
            cross = np.zeros((len(row), len(self._bundle.cross.names)), np.float32)
        order = np.argsort(sizes, kind="stable")
        padded = self._graphs.padded_alone if len(encoded) == 1 else self._graphs.padded
        while len(order):
            width = padded(int(sizes[order[-1]]))
            chosen = order[-max(PAIRS_AT_ONCE // width, 1) :]
            order = order[: -len(chosen)]
            at = first[chosen, None] + np.arange(width)
            mask = np.arange(width) < sizes[chosen, None]
            rows = np.where(mask, row[np.minimum(at, len(row) - 1)], PADDING)
            scores, of_heads, values = self.scores(encoded, query, request[chosen], rows)
            score[at[mask]], logits[at[mask]] = scores[mask], of_heads[mask]
            if cross is not None and values is not None:
                cross[at[mask]] = values[mask]
        return score, logits, cross

    def cross_of_lists(
        self, encoded: EncodedRequests, start: np.ndarray, row: np.ndarray
    ) -> np.ndarray:
        """Returns the cross features `[M, K]` of R requests' items, see `of_lists`."""
        cross = np.zeros((len(row), len(self._bundle.cross.names)), np.float32)
        for request in range(len(start) - 1):
            of_request = slice(start[request], start[request + 1])
            groups = {keys: group[[request]] for keys, group in encoded.groups.items()}
            cross[of_request] = self._bundle.cross.values(groups, row[None, of_request])[0]
        return cross

    def scores(
        self,
        encoded: EncodedRequests,
        query: Leaves,
        chosen: np.ndarray,
        row: np.ndarray,
        cross: np.ndarray | None = None,
    ) -> Scores:
        """Returns ranked scores `[N, C]`, logits `[N, C, H]` and cross features of some items.

        Args:
          encoded: R requests.
          query: their representation.
          chosen: `[N]` which of them.
          row: `[N, C]` rows of items.
          cross: `[N, C, K]`; by default what the bundle knows.
        """
        if cross is None and self.uses_cross:
            groups = {keys: group[chosen] for keys, group in encoded.groups.items()}
            cross = self._bundle.cross.values(groups, row)
        if not row.size:  # no graph takes an empty list
            logits = np.zeros((*row.shape, len(self._bundle["heads"])), np.float32)
            return np.zeros(row.shape, np.float32), logits, cross
        size = padded_requests(self._graphs, len(chosen))
        inputs = {name: padded_rows(values[chosen], size) for name, values in query.items()}
        inputs["row"] = padded_rows(row.astype(np.int32), size)
        if self.uses_cross and cross is not None:
            inputs["cross"] = padded_rows(cross, size)
        outputs = self._graphs.run("score", inputs)
        return outputs["score"][: len(chosen)], outputs["logits"][: len(chosen)], cross
