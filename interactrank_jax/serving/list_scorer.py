"""Scores of candidate lists, each by the way that costs least: see `Ways` for which and why.

All ways give the same scores, up to the order in which a sum is taken.
"""

import dataclasses

import numpy as np

from interactrank_jax.examples.format import PADDING
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.graphs import Graphs, Leaves, padded_rows
from interactrank_jax.serving.pairs import PairScorer, padded_requests
from interactrank_jax.serving.requests import EncodedRequests
from interactrank_jax.serving.scan import SMALLEST, scored_tiles

SHORT = 2048  # candidates up to which lists are scored several requests at a time
PIECE = 1 << 13  # candidates of one request at a time: what is gathered stays in the cache
TILE_PAIRS = 1 << 21  # scores of a tile, in float32 8 MiB
MOST_ITEMS = 1 << 15  # of a tile
# Seconds, measured on two cores with items of 64 numbers: a call of a graph; a random row that is
# gathered and multiplied; a score that is picked; an item that is read in its order; and, of a
# large product, each pair of a request and an item.
CALL, GATHER, PICK, READ, PAIR = 60e-6, 20e-9, 1.5e-9, 6e-9, 0.8e-9


@dataclasses.dataclass(frozen=True)
class Ways:
    """How the lists of R requests are scored.

    A short list goes by `PairScorer`, several requests in one call. Long ones go `by_rows`: their
    items are gathered and multiplied with the one request. Where they cover more than a few percent
    of all items, gathering costs more than multiplying all items with all requests and picking from
    the products: they go `by_tiles`. That needs a score that is one product; a network for each
    pair costs more than the gathering.

    Attributes:
      by_rows, by_tiles: numbers of requests, ascending; the rest are short.
    """

    by_rows: np.ndarray
    by_tiles: np.ndarray

    @classmethod
    def choose(cls, counts: np.ndarray, items: int, is_dot: bool) -> "Ways":
        """Returns the cheapest way for each list.

        Args:
          counts: `[R]` their lengths.
          items: of the corpus.
          is_dot: whether a score is one product.
        """
        by_rows = -(-counts // PIECE) * CALL + counts * GATHER
        by_tiles = counts * PICK + items * PAIR
        is_long = counts > SHORT
        gains = np.where(is_long & is_dot, by_rows - by_tiles, 0).clip(0)
        requests = np.flatnonzero(gains > 0)
        once = items * READ + -(-items // tile_size(len(requests), items)) * CALL
        if gains.sum() <= once:
            requests = requests[:0]
        is_long[requests] = False
        return cls(np.flatnonzero(is_long), requests)

    @property
    def are_short(self) -> bool:
        """Whether all lists are."""
        return not len(self.by_rows) and not len(self.by_tiles)


def tile_size(requests: int, items: int) -> int:
    """Returns how many items are multiplied with some requests at a time."""
    rows = min(TILE_PAIRS // max(requests, 1), MOST_ITEMS, items)
    return max(rows // SMALLEST * SMALLEST, min(rows, SMALLEST), 1)


class ListScorer:
    """Scores candidate lists by a bundle.

    Args:
      bundle: the bundle.
      graphs: what computes its graphs.
      pairs: scores short lists, and candidates with cross features.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs, pairs: PairScorer):
        self._bundle, self._graphs, self._pairs = bundle, graphs, pairs
        self._is_dot = "query_vector" in bundle["graphs"]

    def ways(self, start: np.ndarray) -> Ways:
        """Returns how lists are to be scored; `start`: `[R + 1]` first candidate of each."""
        return Ways.choose(np.diff(start), self._bundle["items"], self._is_dot)

    def scores(
        self,
        encoded: EncodedRequests,
        query: Leaves,
        start: np.ndarray,
        row: np.ndarray,
        ways: Ways,
    ) -> np.ndarray:
        """Returns ranked scores `[M]` of R requests' candidates.

        Args:
          encoded: R requests.
          query: their representation.
          start: `[R + 1]` first of each request's candidates.
          row: `[M]` their rows, ascending in each request.
          ways: of `ways`.
        """
        score = np.empty(len(row), np.float32)
        for request in ways.by_rows:
            of_request = slice(start[request], start[request + 1])
            score[of_request] = self._by_rows(_of(query, request), row[of_request])
        if len(ways.by_tiles):
            self._by_tiles(query, ways.by_tiles, start, row, score)
        is_short = np.ones(len(start) - 1, bool)
        is_short[ways.by_rows] = is_short[ways.by_tiles] = False
        # What neither way looked at: short lists, and pairs with cross features.
        chosen = np.repeat(is_short, np.diff(start))
        if self._pairs.uses_cross:
            for request in np.flatnonzero(~is_short):
                of_request = slice(start[request], start[request + 1])
                items = self._bundle.cross.items(encoded.groups, int(request))
                chosen[start[request] + positions(row[of_request], items)] = True
        position = np.flatnonzero(chosen)
        if len(position):
            first = np.searchsorted(position, start)
            score[position] = self._pairs.of_lists(encoded, query, first, row[position])[0]
        return score

    def _by_rows(self, query: Leaves, row: np.ndarray) -> np.ndarray:
        """Returns the scores `[M]` of one request, without cross features."""
        score = np.empty(len(row), np.float32)
        for first in range(0, len(row), PIECE):
            # The last piece starts earlier rather than being shorter: in one shape sums are taken
            # in one order, and equal items stay equal.
            begin = max(min(first, len(row) - PIECE), 0)
            part = row[begin : begin + PIECE].astype(np.int32)
            inputs = {**query, "row": padded_rows(part, self._graphs.padded(len(part)))}
            outputs = self._graphs.run("score_rows", inputs)
            score[begin : begin + PIECE] = outputs["score"][: len(part)]
        return score

    def _by_tiles(
        self,
        query: Leaves,
        requests: np.ndarray,
        start: np.ndarray,
        row: np.ndarray,
        score: np.ndarray,
    ) -> None:
        """Writes the scores of some requests' candidates, without cross features, into `score`."""
        size = padded_requests(self._graphs, len(requests))
        items, tile = self._bundle["items"], tile_size(size, self._bundle["items"])
        padded = {name: padded_rows(leaf[requests], size) for name, leaf in query.items()}
        firsts = np.arange(PADDING, items, tile)
        bounds = [
            start[request]
            + np.append(np.searchsorted(row[start[request] : start[request + 1]], firsts), [0])
            for request in requests
        ]
        for request, bound in zip(requests, bounds, strict=True):
            bound[-1] = start[request + 1]
        tiles = scored_tiles(self._graphs.exact_tiles(self._bundle, padded), tile)
        for number, (_, begin, scores) in enumerate(tiles):
            for of_request, bound in zip(scores, bounds, strict=False):
                part = slice(bound[number], bound[number + 1])
                # No row is outside the tile: "clip" only lets take write where it is told to.
                of_request.take(row[part] - begin, out=score[part], mode="clip")


def positions(row: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns where those of `items` that are there stand in `row`, both ascending and distinct.

    The shorter is looked up in the longer.
    """
    if len(items) > len(row):
        at = np.searchsorted(items, row)
        at[at == len(items)] = 0
        return np.flatnonzero(items[at] == row)
    at = np.searchsorted(row, items)
    inside = at < len(row)
    at, items = at[inside], items[inside]
    return at[row[at] == items]


def _of(query: Leaves, request: int) -> Leaves:
    return {name: leaf[request : request + 1] for name, leaf in query.items()}
