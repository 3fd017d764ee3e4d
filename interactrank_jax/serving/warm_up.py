"""Runs a bundle's graphs once in every shape that a single request can have.

jax compiles a graph when a shape first occurs, which takes about half a second. A service lets that
happen before its first request.
"""

import numpy as np
import pyarrow as pa

from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.golden import raw_golden
from interactrank_jax.serving.pairs import PAIRS_AT_ONCE
from interactrank_jax.serving.ranking import ONE_CALL, Ranking


def warm_up(ranking: Ranking, candidates: int | None, k: int) -> None:
    """Ranks a golden request, see `BundleRanker.warm_up`."""
    if candidates is not None and candidates < 1:
        raise InputError(f"candidates is {candidates}. Expected a number of at least 1, or None.")
    request = raw_golden(ranking.bundle)["requests"].slice(0, 1)
    graphs, bundle = ranking.graphs, ranking.bundle
    rows = np.setdiff1d(np.arange(1, bundle["items"]), bundle.delta.deleted)  # row 0 is padding
    longest = len(rows) if candidates is None else min(candidates, len(rows))
    if candidates is None:
        ranking.rank(request, k=k)
    else:
        _rank_lists(ranking, request, rows[:longest], k)
    if candidates is None or longest > ONE_CALL or not graphs.has_whole_index:
        _score_apart(ranking, request, rows[: min(longest, PAIRS_AT_ONCE)])


def _rank_lists(ranking: Ranking, request: pa.Table, rows: np.ndarray, k: int) -> None:
    """Ranks lists of each length, up to all of some rows."""
    for length in ranking.graphs.lengths_alone(len(rows)):
        ids = ranking.bundle.ids_of(rows[:length])
        names = request["request_id"].take(pa.array(np.zeros(len(ids), np.int64)))
        ranking.rank(request, {"request_id": names, "item_id": ids}, k=k)


def _score_apart(ranking: Ranking, request: pa.Table, rows: np.ndarray) -> None:
    """Scores pairs alone, as candidates with cross features and the best k of long lists are."""
    encoded = ranking.encoder.encode(ranking.encoder.check(request))
    query = ranking.encode(encoded)
    for length in ranking.graphs.lengths_alone(len(rows)):
        part = rows[:length]
        ranking.pairs.of_lists(encoded, query, np.array([0, len(part)]), part)
