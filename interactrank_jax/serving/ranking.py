"""Ranks candidate lists, or the whole corpus, by a bundle; `Graphs` computes what its graphs do.

Scores of a request depend on nothing but the request: not on what else is in its batch, nor on how
lists are padded, nor on tiles.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.format import PADDING
from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.lists import Lists, candidate_lists
from interactrank_jax.serving.past import FreshEvents
from interactrank_jax.serving.requests import EncodedRequests, FreshEventReader, RequestEncoder
from interactrank_jax.serving.tables import column

PAIRS_AT_ONCE = 1 << 19  # request and candidate, padding included
REQUESTS_AT_ONCE = 256
TILE = 1 << 17  # items of the corpus at a time


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
      table: request_id, item_id, rank (from 1), score; a request's rows together, best first.
      left_out: request_id and item_id of candidates that have no vector.
      repeated: candidates that came more than once in a request, which was ranked once.
      requests: the requests as arrays.
      candidates: for features that are to be logged, those of the candidates: request (place), row
        and cross `[M, K]`; None where they were not asked for, or of the whole corpus.
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
      encoder: of requests.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs):
        self.bundle, self.graphs = bundle, graphs
        self.encoder, self._events = RequestEncoder(bundle), FreshEventReader(bundle)

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
        if k < 1:
            raise InputError(f"k is {k}. Expected at least 1 item per request.")
        table = self.encoder.check(requests)
        lists = candidate_lists(self.bundle, table, candidates)
        for first in range(0, max(len(table), 1), REQUESTS_AT_ONCE):
            part = table.slice(first, REQUESTS_AT_ONCE)
            encoded = self.encoder.encode(part, events)
            of_part = None if lists is None else lists.of_requests(first, len(part))
            yield self._rank(encoded, of_part, k, with_features)

    def encode_requests(self, requests: Any, events: Any = None) -> dict[str, np.ndarray]:
        """Returns the representation of raw requests: leaves `query/0`, ..., `[R, ...]`."""
        fresh = None if events is None else self.read_events(events)[0]
        table, parts = self.encoder.check(requests), []
        for part in requests_in_parts(table, REQUESTS_AT_ONCE):
            parts.append(self._encode(self.encoder.encode(part, fresh)))
        return _concatenated(parts) if parts else {}

    def explain(
        self, request: Any, candidates: Sequence[Any] | None = None, events: Any = None
    ) -> pa.Table:
        """Takes the scores of one request's candidates apart.

        Args:
          request: raw, one row.
          candidates: item ids; None: the request's own list column.
          events: see `rank`.

        Returns:
          item_id, rank, score, `towers` (the score with all cross features zero), and of each cross
          feature its value and `NAME part`, what it adds to the score; best first.

        Raises:
          InputError: several requests, or cross features that are not addends of the score.
        """
        table = self.encoder.check(request)
        if len(table) != 1:
            raise InputError(f"explain takes one request. Got {len(table)}.")
        listed = None
        if candidates is not None:
            ids = pa.array(candidates)
            asked = column(table, "request_id").take(pa.array(np.zeros(len(ids), np.int64)))
            listed = pa.table({"request_id": asked, "item_id": ids})
        lists = candidate_lists(self.bundle, table, listed)
        if lists is None:
            raise InputError("explain needs candidates: name item ids.")
        fresh = None if events is None else self.read_events(events)[0]
        encoded = self.encoder.encode(table, fresh)
        query, row, chosen = self._encode(encoded), lists.row[None, :], np.zeros(1, np.int64)
        total, cross = self.scores(encoded, query, chosen, row)
        towers, _ = self.scores(encoded, query, chosen, row, np.zeros_like(cross))
        columns: dict[str, Any] = {"score": total[0], "towers": towers[0]}
        parts = np.zeros_like(total)
        for number, name in enumerate(self.bundle.cross.names):
            alone = np.zeros_like(cross)
            alone[..., number] = cross[..., number]
            part = self.scores(encoded, query, chosen, row, alone)[0] - towers
            columns |= {name: cross[0, :, number], f"{name} part": part[0]}
            parts += part
        if not np.allclose(towers + parts, total, rtol=1e-4, atol=1e-4):
            raise InputError(
                f"the cross features of '{self.bundle['model']}' are not addends of its score: "
                f"they cannot be told apart."
            )
        order = np.lexsort((lists.row, -total[0]))
        result = pa.table({"item_id": self.bundle.ids_of(lists.row), **columns}).take(order)
        return result.add_column(1, "rank", pa.array(np.arange(1, len(result) + 1), pa.int32()))

    def _rank(
        self, encoded: EncodedRequests, lists: Lists | None, k: int, with_features: bool
    ) -> Ranked:
        query = self._encode(encoded)
        candidates = None
        if lists is None:
            request, row, score = self._corpus(encoded, query, k)
            unknown, unknown_ids, repeated = np.zeros(0, np.int64), self.bundle.items.ids[:0], 0
        else:
            (request, row, score), candidates = self._listed(encoded, query, lists, k)
            unknown, unknown_ids = lists.unknown, lists.unknown_ids
            repeated = int(lists.repeated.sum())
        counts = np.bincount(request, minlength=len(encoded))
        rank = np.arange(len(request)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
        table = pa.table(
            {
                "request_id": encoded.ids.take(pa.array(request)),
                "item_id": self.bundle.ids_of(row),
                "rank": pa.array(rank, pa.int32()),
                "score": pa.array(score, pa.float32()),
            }
        )
        left_out = {"request_id": encoded.ids.take(pa.array(unknown)), "item_id": unknown_ids}
        logged = candidates if with_features else None
        return Ranked(table, pa.table(left_out), repeated, encoded, logged)

    def _encode(self, encoded: EncodedRequests) -> dict[str, np.ndarray]:
        """Returns the representation of requests."""
        count = len(encoded)
        if not count:
            return {}
        wanted = self.bundle["graphs"]["encode_query"]["inputs"]
        size = self.graphs.padded(count)
        batch = {
            name: _pad(values, size) for name, values in encoded.arrays.items() if name in wanted
        }
        outputs = self.graphs.run("encode_query", batch)
        return {name: values[:count] for name, values in outputs.items()}

    def _listed(self, encoded, query, lists: Lists, k: int):
        """Scores candidate lists; requests with lists of like lengths go together."""
        start, sizes = lists.start, np.diff(lists.start)
        order = np.argsort(sizes, kind="stable")
        order = order[sizes[order] > 0]
        parts, logged = [], []
        while len(order):
            width = self.graphs.padded(int(sizes[order[-1]]))
            chosen = order[-max(PAIRS_AT_ONCE // width, 1) :]
            order = order[: -len(chosen)]
            at = start[chosen, None] + np.arange(width)
            mask = np.arange(width) < sizes[chosen, None]
            row = np.where(mask, lists.row[np.minimum(at, len(lists.row) - 1)], PADDING)
            score, cross = self.scores(encoded, query, chosen, row)
            score = np.where(mask, score, -np.inf)
            parts += [top_k(score[n], row[n], min(k, sizes[r]), r) for n, r in enumerate(chosen)]
            request = np.broadcast_to(chosen[:, None], row.shape)
            logged.append((request[mask], row[mask], cross[mask]))
        return _in_order(parts), _logged(logged, len(self.bundle.cross.names))

    def scores(
        self,
        encoded: EncodedRequests,
        query: dict[str, np.ndarray],
        chosen: np.ndarray,
        row: np.ndarray,
        cross: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ranked scores `[N, C]` of some requests' items, and their cross features.

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
        size = self.graphs.padded(len(chosen))
        inputs = {name: _pad(values[chosen], size) for name, values in query.items()}
        inputs["row"] = _pad(row.astype(np.int32), size)
        if "cross" in self.bundle["graphs"]["score"]["inputs"]:
            inputs["cross"] = _pad(cross, size)
        return self.graphs.run("score", inputs)["score"][: len(chosen)], cross

    def _corpus(self, encoded: EncodedRequests, query, k: int):
        """Scores every item, tile by tile; items with cross features get scores of their own."""
        count, items = len(encoded), self.bundle["items"]
        if not count:
            return _in_order([])
        exact = [self._exact(encoded, query, request) for request in range(count)]
        size = self.graphs.padded(count)
        padded = {name: _pad(values, size) for name, values in query.items()}
        index = {
            f"item/{name.partition('/')[2]}": values
            for name, values in self.bundle.arrays.items()
            if name.startswith("index/")
        }
        best: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(count)]
        tile = min(TILE, items)
        for first in range(0, items, tile):
            # The last tile starts earlier rather than being shorter: one shape.
            begin = min(first, items - tile)
            inputs = {name: values[begin : begin + tile] for name, values in index.items()}
            scores = self.graphs.run("score_all", {**padded, **inputs})["score"][:count]
            scores = np.array(scores[:, first - begin :])  # what jax gives is read-only
            for request, (rows, own) in enumerate(exact):
                low, high = np.searchsorted(rows, [first, first + scores.shape[1]])
                scores[request, rows[low:high] - first] = own[low:high]
            if first == 0:
                scores[:, PADDING] = -np.inf
            row = np.arange(first, first + scores.shape[1])
            for request in range(count):
                _, kept, score = top_k(scores[request], row, min(k, items - 1), request)
                best[request].append((kept, score))
        parts = []
        for request, tiles in enumerate(best):
            row, score = (np.concatenate(column) for column in zip(*tiles, strict=True))
            real = score > -np.inf
            parts.append(top_k(score[real], row[real], min(k, items - 1), request))
        return _in_order(parts)

    def _exact(self, encoded, query, request: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the items that a request has cross features for, and their scores."""
        if "cross" not in self.bundle["graphs"]["score"]["inputs"]:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        rows = self.bundle.cross.items(encoded.groups, request)
        scores = []
        for first in range(0, len(rows), PAIRS_AT_ONCE):
            part = rows[first : first + PAIRS_AT_ONCE]
            row = _pad(part[None, :].T, self.graphs.padded(len(part))).T
            chosen = np.array([request])
            scores.append(self.scores(encoded, query, chosen, row)[0][0, : len(part)])
        return rows, np.concatenate([np.zeros(0, np.float32), *scores])


def top_k(
    score: np.ndarray, row: np.ndarray, k: int, request: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the best k items of a request, best first; of equal scores the first in the store.

    Returns:
      (`request`, row, score), `[k]` each.
    """
    if k < len(score):
        bound = np.partition(score, len(score) - k)[len(score) - k]
        kept = np.flatnonzero(score >= bound)
        score, row = score[kept], row[kept]
    order = np.lexsort((row, -score))[:k]
    return np.full(len(order), request), row[order], score[order]


def _in_order(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]):
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    parts = sorted(parts, key=lambda part: int(part[0][0]) if len(part[0]) else -1)
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _logged(parts, features: int) -> dict[str, np.ndarray]:
    parts = parts or [(np.zeros(0, int), np.zeros(0, int), np.zeros((0, features), np.float32))]
    request, row, cross = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((row, request))
    return {"request": request[order], "row": row[order], "cross": cross[order]}


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


def requests_in_parts(table: pa.Table, size: int) -> Iterator[pa.Table]:
    """Yields the rows of a table, so many at a time."""
    for first in range(0, len(table), size):
        yield table.slice(first, size)
