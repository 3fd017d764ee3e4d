"""Query histories: the items most engaged for a query as of a day, or out of fold."""

from pathlib import Path

import ibis
import numpy as np
import pytest

from interactrank_jax.state.query_history import COUNT, QueryHistory, query_items

ITEMS, NO_FOLD = 15, -1
RANK = np.random.default_rng(5).permutation(ITEMS)  # the order of ids is not that of rows


def make_counts(count: int = 900, days: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    """Random engagements of 4 queries, summed by query, period and item."""
    rng = np.random.default_rng(seed)
    keys = np.stack([rng.integers(0, high, count) for high in (4, days, ITEMS - 1)])
    (query, period, item), engagements = np.unique(keys, axis=1, return_counts=True)
    return {"query": query, "period": period, "item": item + 1, COUNT: engagements}


def top(
    counts: dict[str, np.ndarray], query, period, length: int, lag_days: int | None, path: Path
) -> list[list[int]]:
    history = QueryHistory(counts, RANK, length, lag_days)
    query, period = np.asarray(query), np.asarray(period)
    history.ask(query, period, path / "ranked.npy")
    return history.top(query, period).tolist()


def literal_top(counts: dict[str, np.ndarray], visible: np.ndarray, length: int) -> list[int]:
    sums = np.bincount(counts["item"][visible], counts[COUNT][visible], ITEMS)
    order = sorted(np.flatnonzero(sums).tolist(), key=lambda item: (-sums[item], RANK[item]))
    return order[:length] + [0] * (length - len(order))


@pytest.mark.parametrize("length", [1, 3, 20])
@pytest.mark.parametrize("lag_days", [1, 2])
def test_histories_equal_a_loop_over_everything(length, lag_days, tmp_path):
    counts = make_counts()
    query, days = (part.ravel() for part in np.meshgrid(np.arange(5), np.arange(-1, 25)))
    shuffle = np.random.default_rng(0).permutation(len(query))
    query, days = query[shuffle], days[shuffle]
    result = top(counts, query, days, length, lag_days, tmp_path)
    for row in range(len(query)):
        visible = (counts["query"] == query[row]) & (counts["period"] <= days[row] - lag_days)
        assert result[row] == literal_top(counts, visible, length)


def test_timeless_histories_leave_the_fold_out(tmp_path):
    counts = make_counts(days=5)
    query, fold = np.repeat(np.arange(4), 6), np.tile(np.arange(NO_FOLD, 5), 4)
    result = top(counts, query, fold, 3, None, tmp_path)
    for row in range(len(query)):
        visible = (counts["query"] == query[row]) & (counts["period"] != fold[row])
        assert result[row] == literal_top(counts, visible, 3)


@pytest.mark.parametrize("lag_days", [1, None])
def test_ties_at_the_last_place_are_broken_by_item_id(lag_days, tmp_path):
    item = np.arange(ITEMS - 1, 0, -1)
    ones = np.ones(len(item), np.int64)
    counts = {"query": 0 * ones, "period": 0 * ones, "item": item, COUNT: ones}
    first = sorted(item.tolist(), key=lambda row: RANK[row])[:3]
    assert top(counts, [0], [5], 3, lag_days, tmp_path) == [first]


def test_a_history_of_no_length_or_of_nothing_asked_is_empty(tmp_path):
    counts = make_counts()
    assert top(counts, [0, 1], [5, 5], 0, 1, tmp_path) == [[], []]
    nothing = np.zeros(0, np.int64)
    assert top(counts, nothing, nothing, 3, 1, tmp_path) == []


def test_engagements_without_a_query_or_of_other_actions_do_not_count():
    rows = ibis.memtable(
        {
            "query": [1, 1, 1, 1, None],
            "item": [7, 7, 7, 8, 7],
            "period": [3, 3, 3, 3, 3],
            "action": ["click", "save", "hide", "hide", "click"],
        },
        schema={"query": "int64", "item": "int64", "period": "int32", "action": "string"},
    )
    counts = query_items(rows, ("click", "save")).to_pyarrow().to_pylist()
    assert counts == [{"query": 1, "item": 7, "period": 3, COUNT: 2}]
