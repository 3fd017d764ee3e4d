"""Ranks candidate lists, or the whole corpus, by a bundle; `Graphs` computes what its graphs do.

Scores of a request depend on nothing but the request: not on what else is in its batch, nor on how
lists are padded, nor on tiles.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.format import PADDING
from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.lists import Lists, candidate_lists
from interactrank_jax.serving.past import FreshEvents
from interactrank_jax.serving.requests import EncodedRequests, FreshEventReader, RequestEncoder

PAIRS_AT_ONCE = 1 << 19  # request and candidate, padding included
REQUESTS_AT_ONCE = 256
TILE = 1 << 17  # items of the corpus at a time

Leaves = dict[str, np.ndarray]  # of a representation, by name
Top = tuple[np.ndarray, np.ndarray]  # row and score of each item, `[M]`


class Graphs(Protocol):
    """Computes the graphs of a bundle."""

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs of a graph by name.

        Args:
          name: of the graph.
          inputs: by name, without the bundle's own arrays (tables, store, index).
        """

    def padded(self, length: int) -> int:
        """Returns the length to which lists of `length` are padded."""


@dataclasses.dataclass(frozen=True)
class Ranked:
    """What some requests became.

    Attributes:
      table: request_id, item_id, rank (from 1), score, and `probability_HEAD` of each head; a
        request's rows together, best first.
      left_out: request_id and item_id of candidates that have no vector.
      repeated: candidates that came more than once in a request, which was ranked once.
      requests: the requests as arrays.
      candidates: for features that are to be logged, those of the candidates: request (its number),
        row and cross `[M, K]`; None where they were not asked for, or of the whole corpus.
    """

    table: pa.Table
    left_out: pa.Table
    repeated: int
    requests: EncodedRequests
    candidates: dict[str, np.ndarray] | None


class Ranking:
    """Ranks requests by a bundle.

    Attributes:
      bundle: the bundle.
      graphs: what computes its graphs.
      calibration: what turns logits into probabilities.
      encoder: of requests.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs):
        self.bundle, self.graphs, self.calibration = bundle, graphs, bundle.calibration
        self.encoder, self._events = RequestEncoder(bundle), FreshEventReader(bundle)

    @property
    def uses_cross(self) -> bool:
        """Whether scores depend on cross features."""
        return "cross" in self.bundle["graphs"]["score"]["inputs"]

    def read_events(self, events: Any) -> tuple[FreshEvents, dict[str, int]]:
        """Returns fresh events, and how many were left out, see `FreshEventReader.read`."""
        return self._events.read(events)

    def rank(
        self,
        requests: Any,
        candidates: Any = None,
        events: FreshEvents | None = None,
        k: int = 500,
        with_features: bool = False,
    ) -> Ranked:
        """Ranks the candidates of requests, or the whole corpus.

        Args:
          requests: see `RequestEncoder.check`.
          candidates: request_id and item_id, a row per candidate. None: the list column
            `candidates` of the requests, and where they have none, every item of the bundle.
          events: of `read_events`.
          k: items kept of each request.
          with_features: whether the features of the candidates are to be returned.

        Raises:
          InputError: requests or candidates that do not fit the bundle, candidates of a request
            that is not there, or k below 1.
        """
        return _joined(list(self.rank_in_parts(requests, candidates, events, k, with_features)))

    def rank_in_parts(
        self,
        requests: Any,
        candidates: Any = None,
        events: FreshEvents | None = None,
        k: int = 500,
        with_features: bool = False,
    ) -> Iterator[Ranked]:
        """Ranks as `rank` does, some requests at a time; yields at least one part."""
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k is {k!r}. Expected a whole number of items, at least 1.")
        table = self.encoder.check(requests)
        lists = candidate_lists(self.bundle, table, candidates)
        for first in range(0, max(len(table), 1), REQUESTS_AT_ONCE):
            part = table.slice(first, REQUESTS_AT_ONCE)
            encoded = self.encoder.encode(part, events)
            of_part = None if lists is None else lists.of_requests(first, len(part))
            yield self._rank(encoded, of_part, k, with_features)

    def encode_requests(self, requests: Any, events: Any = None) -> Leaves:
        """Returns the representation of raw requests: leaves `query/0`, ..., `[R, ...]`."""
        fresh = None if events is None else self.read_events(events)[0]
        table, parts = self.encoder.check(requests), []
        for first in range(0, max(len(table), 1), REQUESTS_AT_ONCE):
            part = table.slice(first, REQUESTS_AT_ONCE)
            parts.append(self.encode(self.encoder.encode(part, fresh)))
        return _concatenated(parts)

    def _rank(
        self, encoded: EncodedRequests, lists: Lists | None, k: int, with_features: bool
    ) -> Ranked:
        query = self.encode(encoded)
        candidates = None
        if lists is None:
            tops = self._corpus(encoded, query, k)
            counts = np.array([len(row) for row, _ in tops], np.int64)
            row, score = _joined_tops(tops)
            start = np.append(0, np.cumsum(counts))
            _, logits, _ = self._scores_of_lists(encoded, query, start, row)
            unknown, unknown_ids, repeated = np.zeros(0, np.int64), self.bundle.items.ids[:0], 0
        else:
            scores, every, cross = self._scores_of_lists(encoded, query, lists.start, lists.row)
            chosen, counts = _best_of_lists(scores, lists, k)
            row, score, logits = lists.row[chosen], scores[chosen], every[chosen]
            request = np.repeat(np.arange(len(encoded)), np.diff(lists.start))
            candidates = {"request": request, "row": lists.row, "cross": cross}
            unknown, unknown_ids = lists.unknown, lists.unknown_ids
            repeated = int(lists.repeated.sum())
        request = np.repeat(np.arange(len(encoded)), counts)
        rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
        table = pa.table(
            {
                "request_id": encoded.ids.take(pa.array(request)),
                "item_id": self.bundle.ids_of(row),
                "rank": pa.array(rank, pa.int32()),
                "score": pa.array(score, pa.float32()),
                **self.calibration.columns(logits),
            }
        )
        left_out = {"request_id": encoded.ids.take(pa.array(unknown)), "item_id": unknown_ids}
        logged = candidates if with_features else None
        return Ranked(table, pa.table(left_out), repeated, encoded, logged)

    def encode(self, encoded: EncodedRequests) -> Leaves:
        """Returns the representation of encoded requests."""
        count = len(encoded)
        if not count:
            return empty_leaves(self.bundle, "query")
        wanted = self.bundle["graphs"]["encode_query"]["inputs"]
        size = self.graphs.padded(count)
        batch = {
            name: _pad(values, size) for name, values in encoded.arrays.items() if name in wanted
        }
        outputs = self.graphs.run("encode_query", batch)
        return {name: values[:count] for name, values in outputs.items()}

    def _scores_of_lists(
        self, encoded: EncodedRequests, query: Leaves, start: np.ndarray, row: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
        logits = np.zeros((len(row), len(self.calibration.heads)), np.float32)
        cross = np.zeros((len(row), len(self.bundle.cross.names)), np.float32)
        order = np.argsort(sizes, kind="stable")
        while len(order):
            width = self.graphs.padded(int(sizes[order[-1]]))
            chosen = order[-max(PAIRS_AT_ONCE // width, 1) :]
            order = order[: -len(chosen)]
            at = first[chosen, None] + np.arange(width)
            mask = np.arange(width) < sizes[chosen, None]
            rows = np.where(mask, row[np.minimum(at, len(row) - 1)], PADDING)
            scores, of_heads, values = self.scores(encoded, query, request[chosen], rows)
            score[at[mask]], cross[at[mask]] = scores[mask], values[mask]
            logits[at[mask]] = of_heads[mask]
        return score, logits, cross

    def scores(
        self,
        encoded: EncodedRequests,
        query: Leaves,
        chosen: np.ndarray,
        row: np.ndarray,
        cross: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns ranked scores `[N, C]`, logits `[N, C, H]` and cross features of some items.

        Args:
          encoded: R requests.
          query: their representation.
          chosen: `[N]` which of them.
          row: `[N, C]` rows of items.
          cross: `[N, C, K]`; by default what the bundle knows.
        """
        if cross is None:
            groups = {keys: group[chosen] for keys, group in encoded.groups.items()}
            cross = self.bundle.cross.values(groups, row)
        if not row.size:  # no graph takes an empty list
            logits = np.zeros((*row.shape, len(self.calibration.heads)), np.float32)
            return np.zeros(row.shape, np.float32), logits, cross
        size = self.graphs.padded(len(chosen))
        inputs = {name: _pad(values[chosen], size) for name, values in query.items()}
        inputs["row"] = _pad(row.astype(np.int32), size)
        if self.uses_cross:
            inputs["cross"] = _pad(cross, size)
        outputs = self.graphs.run("score", inputs)
        return outputs["score"][: len(chosen)], outputs["logits"][: len(chosen)], cross

    def _corpus(self, encoded: EncodedRequests, query: Leaves, k: int) -> list[Top]:
        """Returns the best items of each request, of all.

        Every item is scored, tile by tile; items with cross features get scores of their own.
        """
        count, items = len(encoded), self.bundle["items"]
        size = self.graphs.padded(count)
        # Other than a dot product, a score takes memory for each pair.
        is_dot = "query_vector" in self.bundle["graphs"]
        tile = min(TILE if is_dot else max(PAIRS_AT_ONCE // size, 1), items - 1)
        if not count or not tile:
            return [_joined_tops([]) for _ in range(count)]
        padded = {name: _pad(values, size) for name, values in query.items()}
        index = {
            f"item/{name.partition('/')[2]}": values
            for name, values in self.bundle.arrays.items()
            if name.startswith("index/")
        }
        start, rows, exact = self._with_cross(encoded, query)
        best: list[list[Top]] = [[] for _ in range(count)]
        for first in range(PADDING + 1, items, tile):
            # The last tile starts earlier rather than being shorter: one shape.
            begin = min(first, items - tile)
            inputs = {name: values[begin : begin + tile] for name, values in index.items()}
            scores = self.graphs.run("score_all", {**padded, **inputs})["score"][:count]
            scores = np.array(scores[:, first - begin :])  # what jax gives is read-only
            row = np.arange(first, first + scores.shape[1])
            for request in range(count):
                of_request = slice(start[request], start[request + 1])
                low, high = np.searchsorted(rows[of_request], [row[0], row[-1] + 1])
                inside = slice(start[request] + low, start[request] + high)
                scores[request, rows[inside] - row[0]] = exact[inside]
                order = top_k(scores[request], row, k)
                best[request].append((row[order], scores[request][order]))
        tops = []
        for tiles in best:
            row, score = _joined_tops(tiles)
            order = top_k(score, row, k)
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
        if not self.uses_cross:
            return np.zeros(count + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        rows = [self.bundle.cross.items(encoded.groups, request) for request in range(count)]
        start = np.append(0, np.cumsum([len(part) for part in rows]))
        row = np.concatenate(rows)
        return start, row, self._scores_of_lists(encoded, query, start, row)[0]


def top_k(score: np.ndarray, row: np.ndarray, k: int) -> np.ndarray:
    """Returns the positions `[k]` of the best k of a request's items, best first.

    Of equal scores the one whose row comes first in the store.
    """
    kept = np.arange(len(score))
    if k < len(score):
        bound = np.partition(score, len(score) - k)[len(score) - k]
        kept = np.flatnonzero(score >= bound)
    return kept[np.lexsort((row[kept], -score[kept]))[:k]]


def _best_of_lists(score: np.ndarray, lists: Lists, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions of the best k candidates of each list, and how many each has `[R]`."""
    best = [
        first + top_k(score[first:end], lists.row[first:end], k)
        for first, end in itertools.pairwise(lists.start.tolist())
    ]
    counts = np.array([len(part) for part in best], np.int64)
    return np.concatenate([np.zeros(0, np.int64), *best]), counts


def _joined_tops(tops: list[Top]) -> Top:
    if not tops:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    row, score = (np.concatenate(arrays) for arrays in zip(*tops, strict=True))
    return row, score


def empty_leaves(bundle: Bundle, side: str) -> Leaves:
    """Returns the representation of no requests (`side` 'query') or of no items ('index')."""
    inputs = bundle["graphs"]["score"]["inputs"]
    return {
        name: np.zeros((0, *spec["shape"][1:]), spec["dtype"])
        for name, spec in inputs.items()
        if name.startswith(f"{side}/")
    }


def _joined(parts: list[Ranked]) -> Ranked:
    requests = EncodedRequests(
        pa.concat_arrays([part.requests.ids for part in parts]),
        _concatenated([part.requests.arrays for part in parts]),
        _concatenated([part.requests.groups for part in parts]),
    )
    candidates, first = [], 0
    for part in parts:
        if part.candidates is not None:
            candidates.append({**part.candidates, "request": part.candidates["request"] + first})
        first += len(part.requests)
    return Ranked(
        table=pa.concat_tables([part.table for part in parts]),
        left_out=pa.concat_tables([part.left_out for part in parts]),
        repeated=sum(part.repeated for part in parts),
        requests=requests,
        candidates=_concatenated(candidates) if candidates else None,
    )


def _concatenated(parts: list[dict[Any, np.ndarray]]) -> dict[Any, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _pad(values: np.ndarray, size: int) -> np.ndarray:
    """Returns rows filled up to `size` with copies of the first."""
    if len(values) == size:
        return values
    filling = np.broadcast_to(values[:1], (size - len(values), *values.shape[1:]))
    return np.concatenate([values, filling])
