"""Ranks candidate lists, or the whole corpus, by a bundle; `Graphs` computes what its graphs do.

Scores of a request depend on nothing but the request: not on what else is in its batch, nor on how
lists are padded, nor on tiles.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.past import FreshEvents
from interactrank_jax.serving.requests import EncodedRequests, FreshEventReader, RequestEncoder
from interactrank_jax.serving.tables import as_table, check_columns, column, refuse_nulls

CANDIDATES = "candidates"  # the list column that requests may carry
PAIRS_AT_ONCE = 1 << 19  # request and candidate, padding included
REQUESTS_AT_ONCE = 256
TILE = 1 << 17  # items of the corpus at a time
PADDING = 0


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
class Lists:
    """Candidates of R requests.

    Attributes:
      start: `[R + 1]` first row of each request's candidates.
      row: `[M]` rows of the items in the store, each once in a request.
      left_out: request (its place) and item_id of the candidates that have no vector.
      repeated: how many candidates came more than once in a request.
    """

    start: np.ndarray
    row: np.ndarray
    left_out: pa.Table
    repeated: int


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
        if k < 1:
            raise InputError(f"k is {k}. Expected at least 1 item per request.")
        table = self.encoder.check(requests)
        lists = self._lists(table, candidates)
        parts = []
        for first in range(0, len(table), REQUESTS_AT_ONCE):
            end = min(first + REQUESTS_AT_ONCE, len(table))
            encoded = self.encoder.encode(table.slice(first, end - first), events)
            parts.append(self._rank(encoded, lists, first, k, with_features))
        if not parts:
            parts = [self._nothing(self.encoder.encode(table, events))]
        return _joined(parts, lists, column(table, "request_id"))

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
        lists = self._lists(table, listed)
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

    # Candidates.

    def _lists(self, requests: pa.Table, candidates: Any) -> Lists | None:
        if candidates is None and CANDIDATES not in requests.column_names:
            return None
        if candidates is None:
            request, ids = _of_list_column(requests)
        else:
            table, what = as_table(candidates, "candidates"), "candidates"
            ids_of_requests = column(requests, "request_id")
            types = {"request_id": ids_of_requests.type, "item_id": self.bundle.items.ids.type}
            check_columns(table, {"request_id": "id", "item_id": "id"}, types, what)
            refuse_nulls(table, ("request_id", "item_id"), what, "item_id")
            asked = column(table, "request_id", ids_of_requests.type)
            request = _places(asked, ids_of_requests)
            if (request < 0).any():
                first = asked[int(np.argmax(request < 0))].as_py()
                raise InputError(
                    f"candidates: {int((request < 0).sum()):,} rows are of requests that are not "
                    f"there, for example {first!r}. Expected request_ids of the requests."
                )
            ids = column(table, "item_id", self.bundle.items.ids.type)
        return self._make_lists(request, ids, len(requests))

    def _make_lists(self, request: np.ndarray, ids: pa.Array, count: int) -> Lists:
        kind = self.bundle.items.ids.type
        if ids.type != kind and ids.null_count < len(ids):
            raise InputError(
                f"candidates: items are of type {ids.type}, the bundle's are {kind}. Convert them."
            )
        row = self.bundle.rows_of(ids.cast(kind))
        unknown = row == PADDING
        left_out = pa.table({"request": request[unknown], "item_id": ids.filter(pa.array(unknown))})
        pair = request[~unknown].astype(np.int64) << 32 | row[~unknown]
        distinct = np.unique(pair)
        start = np.searchsorted(distinct, np.arange(count + 1, dtype=np.int64) << 32)
        rows = distinct & ((1 << 32) - 1)
        return Lists(start, rows, left_out, len(pair) - len(distinct))

    # Scores.

    def _rank(
        self, encoded: EncodedRequests, lists: Lists | None, first: int, k: int, with_features: bool
    ) -> Ranked:
        query = self._encode(encoded)
        if lists is None:
            found = self._corpus(encoded, query, k)
            candidates = None
        else:
            found, candidates = self._listed(encoded, query, lists, first, k)
        request, row, score = found
        counts = np.bincount(request, minlength=len(encoded))
        ends = np.cumsum(counts)
        rank = np.arange(len(request)) - np.repeat(ends - counts, counts) + 1
        table = pa.table(
            {
                "request_id": encoded.ids.take(pa.array(request)),
                "item_id": self.bundle.ids_of(row),
                "rank": pa.array(rank, pa.int32()),
                "score": pa.array(score, pa.float32()),
            }
        )
        return Ranked(table, pa.table({}), 0, encoded, candidates if with_features else None)

    def _nothing(self, encoded: EncodedRequests) -> Ranked:
        empty = np.zeros(0, np.int64)
        table = pa.table(
            {
                "request_id": encoded.ids,
                "item_id": self.bundle.ids_of(empty),
                "rank": pa.array([], pa.int32()),
                "score": pa.array([], pa.float32()),
            }
        )
        return Ranked(table, pa.table({}), 0, encoded, None)

    def _encode(self, encoded: EncodedRequests) -> dict[str, np.ndarray]:
        """Returns the representation of requests."""
        count = len(encoded)
        wanted = self.bundle["graphs"]["encode_query"]["inputs"]
        size = self.graphs.padded(count)
        batch = {
            name: _pad(values, size) for name, values in encoded.arrays.items() if name in wanted
        }
        outputs = self.graphs.run("encode_query", batch)
        return {name: values[:count] for name, values in outputs.items()}

    def _listed(self, encoded, query, lists: Lists, first: int, k: int):
        """Scores candidate lists; requests with lists of like lengths go together."""
        start = lists.start[first : first + len(encoded) + 1]
        sizes = np.diff(start)
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


def _joined(parts: list[Ranked], lists: Lists | None, ids: pa.Array) -> Ranked:
    left_out = pa.table({"request_id": ids.slice(0, 0), "item_id": parts[0].table["item_id"][:0]})
    if lists is not None:
        left_out = pa.table(
            {
                "request_id": ids.take(lists.left_out["request"]),
                "item_id": lists.left_out["item_id"],
            }
        )
    requests = EncodedRequests(
        ids,
        _concatenated([part.requests.arrays for part in parts]),
        _concatenated([part.requests.groups for part in parts]),
    )
    candidates = None
    if parts[0].candidates is not None:
        shifted, first = [], 0
        for part in parts:
            assert part.candidates is not None
            shifted.append({**part.candidates, "request": part.candidates["request"] + first})
            first += len(part.requests)
        candidates = _concatenated(shifted)
    return Ranked(
        table=pa.concat_tables([part.table for part in parts]),
        left_out=left_out,
        repeated=0 if lists is None else lists.repeated,
        requests=requests,
        candidates=candidates,
    )


def _concatenated(parts: list[dict[Any, np.ndarray]]) -> dict[Any, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _pad(values: np.ndarray, size: int) -> np.ndarray:
    """Returns rows filled up to `size` with copies of the first."""
    if len(values) == size:
        return values
    filling = np.broadcast_to(values[:1], (size - len(values), *values.shape[1:]))
    return np.concatenate([values, filling])


def _places(values: pa.Array, known: pa.Array) -> np.ndarray:
    found = pc.index_in(values, value_set=known)
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _of_list_column(requests: pa.Table) -> tuple[np.ndarray, pa.Array]:
    lists = requests[CANDIDATES].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise InputError(
            f"requests: column '{CANDIDATES}' has type {lists.type}. Expected lists of item ids."
        )
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = pa.table({"item_id": lists.flatten()})
    refuse_nulls(values, ("item_id",), f"requests: column '{CANDIDATES}'", "item_id")
    return np.repeat(np.arange(len(lists)), lengths), column(values, "item_id")


def requests_in_parts(table: pa.Table, size: int) -> Iterator[pa.Table]:
    """Yields the rows of a table, so many at a time."""
    for first in range(0, len(table), size):
        yield table.slice(first, size)
