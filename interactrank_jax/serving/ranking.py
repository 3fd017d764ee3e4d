"""Ranks candidate lists, or the whole corpus, by a bundle; `Graphs` computes what its graphs do.

Up to the order in which a sum is taken, scores of a request depend on nothing but the request: not
on what else is in its batch, nor on how lists are padded, nor on tiles.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.corpus import CorpusRanker
from interactrank_jax.serving.filters import read_filters
from interactrank_jax.serving.graphs import Graphs, Leaves, empty_leaves, padded_rows
from interactrank_jax.serving.list_scorer import ListScorer
from interactrank_jax.serving.lists import Lists, candidate_lists
from interactrank_jax.serving.masks import RowMask
from interactrank_jax.serving.pairs import PairScorer, padded_requests
from interactrank_jax.serving.past import FreshEvents
from interactrank_jax.serving.requests import EncodedRequests, FreshEventReader, RequestEncoder
from interactrank_jax.serving.top_k import joined_tops, top_k

REQUESTS_AT_ONCE = 256
ONE_CALL = 1 << 14  # candidates up to which a request that comes alone is one call of a graph


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
      pairs: scores candidates.
      corpus: ranks all items.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs):
        self.bundle, self.graphs, self.calibration = bundle, graphs, bundle.calibration
        self.encoder, self._events = RequestEncoder(bundle), FreshEventReader(bundle)
        self.pairs = PairScorer(bundle, graphs)
        self._lists = ListScorer(bundle, graphs, self.pairs)
        self.corpus = CorpusRanker(bundle, graphs, self.pairs)

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
        *,
        blocked: Any = None,
        allowed: Any = None,
    ) -> Ranked:
        """Ranks the candidates of requests, or the whole corpus.

        Args:
          requests: see `RequestEncoder.check`.
          candidates: request_id and item_id, a row per candidate. None: the list column
            `candidates` of the requests, and where they have none, every item of the bundle.
          events: of `read_events`.
          k: items kept of each request.
          with_features: whether the features of the candidates are to be returned.
          blocked, allowed: see `filters.read_filters`.

        Raises:
          InputError: requests, candidates or filters that do not fit the bundle or name a request
            that is not there, or k below 1.
        """
        parts = self.rank_in_parts(
            requests, candidates, events, k, with_features, blocked=blocked, allowed=allowed
        )
        return _joined(list(parts))

    def rank_in_parts(
        self,
        requests: Any,
        candidates: Any = None,
        events: FreshEvents | None = None,
        k: int = 500,
        with_features: bool = False,
        *,
        blocked: Any = None,
        allowed: Any = None,
    ) -> Iterator[Ranked]:
        """Ranks as `rank` does, some requests at a time; yields at least one part."""
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k is {k!r}. Expected a whole number of items, at least 1.")
        table = self.encoder.check(requests)
        lists = candidate_lists(self.bundle, table, candidates)
        filters = read_filters(self.bundle, table, blocked, allowed)
        for first in range(0, max(len(table), 1), REQUESTS_AT_ONCE):
            part = table.slice(first, REQUESTS_AT_ONCE)
            encoded = self.encoder.encode(part, events)
            if lists is None:
                yield self._of_corpus(encoded, k, filters.mask(first, len(part)))
            else:
                of_part = filters.of_lists(lists.of_requests(first, len(part)), first)
                yield self._of_lists(encoded, of_part, k, with_features)

    def encode_requests(self, requests: Any, events: Any = None) -> Leaves:
        """Returns the representation of raw requests: leaves `query/0`, ..., `[R, ...]`."""
        fresh = None if events is None else self.read_events(events)[0]
        table, parts = self.encoder.check(requests), []
        for first in range(0, max(len(table), 1), REQUESTS_AT_ONCE):
            part = table.slice(first, REQUESTS_AT_ONCE)
            parts.append(self.encode(self.encoder.encode(part, fresh)))
        return _concatenated(parts)

    def _of_corpus(self, encoded: EncodedRequests, k: int, mask: RowMask | None) -> Ranked:
        """Ranks the whole corpus."""
        query = self.encode(encoded)
        tops = self.corpus.best(encoded, query, k, mask)
        counts = np.array([len(row) for row, _ in tops], np.int64)
        row, score = joined_tops(tops)
        start = np.append(0, np.cumsum(counts))
        _, logits, _ = self.pairs.of_lists(encoded, query, start, row)
        table = self._table(encoded, counts, row, score, logits)
        return Ranked(table, self._left_out(encoded), 0, encoded, None)

    def _of_lists(
        self, encoded: EncodedRequests, lists: Lists, k: int, with_features: bool
    ) -> Ranked:
        """Ranks candidate lists."""
        chosen, counts, score, logits, cross = self._best_of_lists(encoded, lists, k)
        candidates = None
        if with_features:
            if cross is None:
                cross = self.pairs.cross_of_lists(encoded, lists.start, lists.row)
            request = np.repeat(np.arange(len(encoded)), np.diff(lists.start))
            candidates = {"request": request, "row": lists.row, "cross": cross}
        table = self._table(encoded, counts, lists.row[chosen], score, logits)
        return Ranked(
            table, self._left_out(encoded, lists), int(lists.repeated.sum()), encoded, candidates
        )

    def _table(
        self,
        encoded: EncodedRequests,
        counts: np.ndarray,
        row: np.ndarray,
        score: np.ndarray,
        logits: np.ndarray,
    ) -> pa.Table:
        """Returns `Ranked.table` of the items at `row` `[n]`, of which a request has `counts`."""
        request = np.repeat(np.arange(len(encoded)), counts)
        rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
        return pa.table(
            {
                "request_id": encoded.ids.take(pa.array(request)),
                "item_id": self.bundle.ids_of(row),
                "rank": pa.array(rank, pa.int32()),
                "score": pa.array(score, pa.float32()),
                **self.calibration.columns(logits),
            }
        )

    def _left_out(self, encoded: EncodedRequests, lists: Lists | None = None) -> pa.Table:
        """Returns `Ranked.left_out`."""
        unknown = np.zeros(0, np.int64) if lists is None else lists.unknown
        ids = self.bundle.items.ids[:0] if lists is None else lists.unknown_ids
        return pa.table({"request_id": encoded.ids.take(pa.array(unknown)), "item_id": ids})

    def _best_of_lists(
        self, encoded: EncodedRequests, lists: Lists, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Returns the best k candidates of each list.

        Returns:
          (their positions `[n]`, how many each list has `[R]`, their scores `[n]`, their logits
          `[n, H]`, and the cross features of all candidates `[M, K]` where they were looked up).
        """
        is_alone = len(encoded) == 1 and 0 < len(lists.row) <= ONE_CALL
        if is_alone and self.graphs.has_whole_index:
            scores, logits, cross = self.pairs.of_request(encoded, lists.row)
            chosen, counts = _best_of_lists(scores, lists, k)
            return chosen, counts, scores[chosen], logits[chosen], cross
        query, ways = self.encode(encoded), self._lists.ways(lists.start)
        if ways.are_short:
            scores, logits, cross = self.pairs.of_lists(encoded, query, lists.start, lists.row)
            chosen, counts = _best_of_lists(scores, lists, k)
            return chosen, counts, scores[chosen], logits[chosen], cross
        scores = self._lists.scores(encoded, query, lists.start, lists.row, ways)
        chosen, counts = _best_of_lists(scores, lists, k)
        # Logits are needed of what is kept, for probabilities; the score alone ranks.
        start = np.append(0, np.cumsum(counts))
        _, logits, _ = self.pairs.of_lists(encoded, query, start, lists.row[chosen])
        return chosen, counts, scores[chosen], logits, None

    def encode(self, encoded: EncodedRequests) -> Leaves:
        """Returns the representation of encoded requests."""
        count = len(encoded)
        if not count:
            return empty_leaves(self.bundle, "query")
        wanted = self.bundle["graphs"]["encode_query"]["inputs"]
        size = padded_requests(self.graphs, count)
        batch = {
            name: padded_rows(values, size)
            for name, values in encoded.arrays.items()
            if name in wanted
        }
        outputs = self.graphs.run("encode_query", batch)
        return {name: values[:count] for name, values in outputs.items()}


def _best_of_lists(score: np.ndarray, lists: Lists, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions of the best k candidates of each list, and how many each has `[R]`."""
    best = [
        first + top_k(score[first:end], lists.row[first:end], k)
        for first, end in itertools.pairwise(lists.start.tolist())
    ]
    counts = np.array([len(part) for part in best], np.int64)
    return np.concatenate([np.zeros(0, np.int64), *best]), counts


def _joined(parts: list[Ranked]) -> Ranked:
    if len(parts) == 1:  # copies nothing
        return parts[0]
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
