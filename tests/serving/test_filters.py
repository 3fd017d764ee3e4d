"""Blocked and allowed items, in lists and in the whole corpus."""

import types

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.serving import filters, ranking
from tests.serving.making import ITEMS, assert_scores, candidates, events, requests

COUNT = 20


def pairs(seed: int, share: float) -> pa.Table:
    """Returns some items of each of `requests`."""
    chosen = np.random.default_rng(seed).random((COUNT, ITEMS)) < share
    request, item = np.nonzero(chosen)
    return pa.table({"request_id": [f"q{n}" for n in request], "item_id": [f"i{n}" for n in item]})


def as_pairs(table: pa.Table) -> set[tuple[str, str]]:
    return set(zip(table["request_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))


def of_pairs(table: pa.Table, keeps) -> pa.Table:
    """Returns the rows whose pair is to be kept."""
    columns = (table[name].to_pylist() for name in ("request_id", "item_id"))
    return table.filter(pa.array([keeps(pair) for pair in zip(*columns, strict=True)], pa.bool_()))


@pytest.fixture(params=["ranker", "reader"])
def opened(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["corpus", "lists"])
def listed(request):
    return None if request.param == "corpus" else candidates(COUNT, 9)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.8, 1.0])
def test_what_is_blocked_is_not_ranked_and_nothing_else_changes(opened, listed, share):
    blocked = pairs(0, share)
    everything = opened.rank(requests(COUNT), listed, events(), k=ITEMS)
    expected = of_pairs(everything, lambda pair: pair not in as_pairs(blocked))
    table = opened.rank(requests(COUNT), listed, events(), k=ITEMS, blocked=blocked)
    assert_scores(table, expected)
    assert table["item_id"].to_pylist() == expected["item_id"].to_pylist()
    best = opened.rank(requests(COUNT), listed, events(), k=2, blocked=blocked)
    assert best.equals(of_rank(table, 2))


def of_rank(table: pa.Table, k: int) -> pa.Table:
    return table.filter(pa.array(table["rank"].to_numpy() <= k))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_what_is_allowed_alone_is_ranked(opened, listed, share):
    allowed, blocked = pairs(1, share), pairs(2, 0.3)
    everything = opened.rank(requests(COUNT), listed, events(), k=ITEMS)
    expected = of_pairs(
        everything, lambda pair: pair in as_pairs(allowed) and pair not in as_pairs(blocked)
    )
    table = opened.rank(
        requests(COUNT), listed, events(), k=ITEMS, allowed=allowed, blocked=blocked
    )
    assert_scores(table, expected)
    assert len(table) == len(expected)


def test_items_alone_are_of_all_requests(ranker, listed):
    few = [f"i{n}" for n in range(0, ITEMS, 3)]
    everything = ranker.rank(requests(COUNT), listed, k=ITEMS)
    for name, keeps in (("blocked", False), ("allowed", True)):
        table = ranker.rank(requests(COUNT), listed, k=ITEMS, **{name: {"item_id": few}})
        expected = of_pairs(everything, lambda pair, keeps=keeps: (pair[1] in few) == keeps)
        assert_scores(table, expected)
        assert len(table) == len(expected) > 0


def test_list_columns_of_the_requests_filter_as_tables_do(ranker, listed):
    blocked, allowed = pairs(3, 0.2), pairs(4, 0.7)
    lists = {
        name: [
            [item for request, item in sorted(as_pairs(table)) if request == f"q{n}"]
            for n in range(COUNT)
        ]
        for name, table in (("blocked", blocked), ("allowed", allowed))
    }
    expected = ranker.rank(requests(COUNT), listed, k=ITEMS, blocked=blocked, allowed=allowed)
    assert 0 < len(expected) < COUNT * ITEMS
    assert ranker.rank(requests(COUNT, **lists), listed, k=ITEMS).equals(expected)
    both = ranker.rank(requests(COUNT, **lists), listed, k=ITEMS, blocked={"item_id": ["i0"]})
    without = of_pairs(expected, lambda pair: pair[1] != "i0")
    assert_scores(both, without)
    assert len(both) == len(without)


def test_ids_that_the_bundle_does_not_know_are_ignored(ranker, listed):
    table = ranker.rank(requests(COUNT), listed, k=ITEMS, blocked={"item_id": ["never"]})
    assert table.equals(ranker.rank(requests(COUNT), listed, k=ITEMS))
    none = ranker.rank(requests(COUNT), listed, k=ITEMS, allowed={"item_id": ["never"]})
    assert len(none) == 0
    assert none.schema.equals(table.schema)


def test_left_out_candidates_are_those_that_have_no_vector(ranker):
    listed = pa.table({"request_id": ["q0"] * 3, "item_id": ["i1", "i2", "never"]})
    ranked = ranker.rank_fully(requests(1), listed, blocked={"item_id": ["i1"]}, with_features=True)
    assert ranked.table["item_id"].to_pylist() == ["i2"]
    assert ranked.left_out["item_id"].to_pylist() == ["never"]
    assert len(ranked.candidates["row"]) == 1


@pytest.mark.parametrize(
    ("blocked", "message"),
    [
        ({"item": ["i1"]}, r"blocked: column 'item_id' is missing. Did you mean"),
        ({"item_id": [1]}, r"blocked: column 'item_id' has type int64. Expected strings"),
        ({"item_id": ["i1", None]}, r"blocked: column 'item_id' has no value.* in 1 of 2"),
        (
            {"request_id": ["nobody"], "item_id": ["i1"]},
            r"blocked: 1 rows are of requests that are not there, for example 'nobody'",
        ),
        ("i1", r"blocked is of type str"),
    ],
)
def test_a_filter_that_is_none_is_refused(ranker, blocked, message):
    with pytest.raises(InputError, match=message):
        ranker.rank(requests(), blocked=blocked)


def test_a_column_of_the_log_that_shares_the_name_filters_nothing(ranker):
    table = ranker.rank(requests(3, allowed=["i1", "i2", "i3"]), k=ITEMS)
    assert_scores(table, ranker.rank(requests(3), k=ITEMS))


def test_lists_need_no_bits_over_the_store(ranker, monkeypatch):
    def refuse(*_):
        raise AssertionError("a mask over all items was made")

    monkeypatch.setattr(filters.RowMask, "of", refuse)
    blocked, allowed = pairs(5, 0.3), pairs(6, 0.7)
    table = ranker.rank(
        requests(COUNT), candidates(COUNT, 9), k=ITEMS, blocked=blocked, allowed=allowed
    )
    assert as_pairs(table) <= as_pairs(allowed) - as_pairs(blocked)


def test_a_filter_of_all_requests_is_made_once(ranker, monkeypatch):
    made, of = [], filters.RowMask.of
    monkeypatch.setattr(ranking, "REQUESTS_AT_ONCE", 3)
    expected = ranker.rank(requests(COUNT), k=ITEMS, blocked={"item_id": ["i1"]})
    counted = types.SimpleNamespace(of=lambda *mask: made.append(mask) or of(*mask))
    monkeypatch.setattr(filters, "RowMask", counted)
    assert ranker.rank(requests(COUNT), k=ITEMS, blocked={"item_id": ["i1"]}).equals(expected)
    assert len(made) == 1
