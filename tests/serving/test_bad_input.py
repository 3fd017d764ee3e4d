"""Requests, candidates and events that are not what they must be: an error that says what to do."""

import logging

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking.ranker import Ranker
from tests.log.handmade_log import DAY
from tests.serving.making import (
    BUNDLE_DAY,
    ITEMS,
    assert_scores,
    by_pair,
    candidates,
    events,
    new_items,
    requests,
)


def taste(*lists) -> pa.Array:
    return pa.array(lists, pa.list_(pa.float64()))


BAD_REQUESTS = {
    "a column is missing": (
        {"country": None},
        "requests: column 'country' is missing. Known: hour",
    ),
    "a column is misspelt": (
        {"country": None, "contry": ["de"] * 3},
        "column 'country' is missing. Did you mean 'contry'",
    ),
    "a number is a word": (
        {"tenure": ["1", "2", "3"]},
        "column 'tenure' has type string. Expected a number: convert it",
    ),
    "times are dates": (
        {"timestamp": pa.array([1, 2, 3], pa.timestamp("s"))},
        r"'timestamp' has type timestamp\[s\]. Expected an integer",
    ),
    "times are milliseconds": (
        {"timestamp": BUNDLE_DAY * 1000 + np.arange(3)},
        "more than a century from 2022-02-06, the bundle's day. Expected UTC seconds",
    ),
    "ids are of another type": (
        {"user_id": [1, 2, 3]},
        "'user_id' has type int64. Expected strings, .*: '7' is not 7",
    ),
    "queries are of another type": (
        {"query_id": ["1", "2", "3"]},
        "'query_id' has type string. Expected integers",
    ),
    "a category is of another type": ({"country": [1, 2, 3]}, "Expected strings"),
    "an id comes twice": (
        {"request_id": ["a", "a", "b"]},
        "1 values of 'request_id' are there more than once, for example 'a'",
    ),
    "an id is absent": ({"request_id": ["a", None, "b"]}, "'request_id' has no value"),
    "a time is absent": ({"timestamp": [BUNDLE_DAY, None, 3]}, "'timestamp' has no value.*'q1'"),
    "a number is absent": ({"tenure": [1.0, None, 2.0]}, "'tenure' has no value.*request_id 'q1'"),
    "all numbers are absent": ({"tenure": pa.nulls(3)}, "'tenure' has no value.*in 3 of 3"),
    "a number is NaN": ({"tenure": [1.0, float("nan"), 2.0]}, "none that is finite, in 1 of 3"),
    "a number is infinite": ({"tenure": [1.0, 2.0, -float("inf")]}, "none that is finite.*'q2'"),
    "a number is too large": ({"tenure": [1e300, 1.0, 2.0]}, "none that is finite.*'q0'"),
    "an embedding is absent": (
        {"taste": taste([1, 2, 3], None, [1, 2, 3])},
        "'taste' has no value.*'q1'",
    ),
    "embeddings are short": (
        {"taste": taste([1, 2], [1, 2], [1, 2])},
        "'taste' has other than 3 finite numbers in 3 of 3 rows.*Expected lists of 3",
    ),
    "embeddings are ragged": (  # nine numbers in all
        {"taste": taste([1, 2], [1, 2, 3], [1, 2, 3, 4])},
        "'taste' has other than 3 finite numbers in 2 of 3 rows",
    ),
    "an embedding has a NaN": (
        {"taste": taste([1, 2, 3], [1, float("nan"), 3], [1, 2, 3])},
        "in 1 of 3 rows, for example request_id 'q1'",
    ),
    "an embedding has a null": ({"taste": taste([1, 2, 3], [1, None, 3], [1, 2, 3])}, "'q1'"),
    "candidates are no lists": (
        {"candidates": ["i1", "i2", "i3"]},
        "column 'candidates' has type string. Expected lists of item ids",
    ),
    "candidates are of another type": (
        {"candidates": [[1], [2], [3]]},
        "'candidates': column 'item_id' has type int64. Expected strings",
    ),
    "a candidate is absent": ({"candidates": [["i1", None], [], []]}, "'item_id' has no value"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests(case, ranker):
    columns, message = BAD_REQUESTS[case]
    with pytest.raises(InputError, match=message):
        ranker.rank(requests(**columns))


def test_a_column_that_is_there_twice(ranker):
    table = requests()
    twice = pa.Table.from_arrays(
        [*table.columns, table["country"]], names=[*table.column_names, "country"]
    )
    with pytest.raises(InputError, match=r"'country' is there twice. Expected it once"):
        ranker.rank(twice)


@pytest.mark.parametrize("value", [None, 3, "requests.parquet", [1, 2], {"request_id": "q1"}])
def test_what_is_no_table(ranker, value):
    with pytest.raises(InputError, match=r"requests (is of type|cannot be read as a table)"):
        ranker.rank(value)


@pytest.mark.parametrize("k", [0, -1, "5", 5.5, None, True])
def test_a_bad_number_of_items(ranker, k):
    with pytest.raises(InputError, match=r"k is .*Expected a whole number of items, at least 1"):
        ranker.rank(requests(), candidates(), k=k)


def test_further_columns_change_nothing(ranker):
    further = requests(clicked=[1, 0, 1], country_code=["x"] * 3)
    assert ranker.rank(further).equals(ranker.rank(requests()))


@pytest.mark.parametrize("name", ["user_id", "query_id", "country", "query_text"])
def test_what_is_not_known_of_a_request_may_be_absent(ranker, name):
    """One value, or all of them, in a column that then has no type."""
    table = requests()
    some = table[name].to_pylist()
    some[1] = None
    one = ranker.rank(requests(**{name: some}), candidates())
    expected = by_pair(ranker.rank(table, candidates()))
    for (request, item), score in by_pair(one).items():
        if request != "q1":
            assert score == pytest.approx(expected[request, item], abs=1e-5)
    nothing = ranker.rank(requests(**{name: pa.nulls(3)}), candidates())
    typed = ranker.rank(requests(**{name: pa.nulls(3, table[name].type)}), candidates())
    assert nothing.equals(typed)
    for (request, item), score in by_pair(nothing).items():
        if request == "q1":
            assert score == pytest.approx(by_pair(one)[request, item], abs=1e-5)


NO_REQUESTS = {
    "of the right types": requests(0),
    "without chunks": requests(1).schema.empty_table(),
    "without types": pa.table({name: pa.nulls(0) for name in requests(1).column_names}),
    "with lists": requests(1, candidates=[["i1"]]).slice(0, 0),
}


@pytest.mark.parametrize("kind", NO_REQUESTS)
@pytest.mark.parametrize("listed", [None, candidates(0)])
def test_no_requests_are_no_rows(ranker, kind, listed):
    ranked = ranker.rank_fully(NO_REQUESTS[kind], listed, events(), with_features=True)
    assert len(ranked.table) == len(ranked.left_out) == len(ranked.requests) == 0
    some = ranker.rank_fully(requests(), candidates())
    assert ranked.table.schema.field("item_id") == some.table.schema.field("item_id")
    for name, array in some.requests.arrays.items():
        assert ranked.requests.arrays[name].shape[1:] == array.shape[1:]


class TestCandidates:
    def test_of_a_request_that_is_not_there(self, ranker):
        table = pa.table({"request_id": ["q1", "zz"], "item_id": ["i1", "i1"]})
        with pytest.raises(InputError, match=r"1 rows are of requests that are not there.*'zz'"):
            ranker.rank(requests(), table)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"request": ["q1"], "item_id": ["i1"]}, "'request_id' is missing. Did you mean"),
            ({"request_id": ["q1"]}, "candidates: column 'item_id' is missing"),
            ({"request_id": [1], "item_id": ["i1"]}, "'request_id' has type int64"),
            ({"request_id": ["q1"], "item_id": [1]}, "'item_id' has type int64"),
            ({"request_id": ["q1"], "item_id": pa.nulls(1)}, "'item_id' has no value"),
            ({"request_id": pa.nulls(1), "item_id": ["i1"]}, "'request_id' has no value"),
            ({"request_id": ["q1"], "item_id": [1.5]}, "Expected a string or an integer"),
        ],
    )
    def test_columns(self, ranker, columns, message):
        with pytest.raises(InputError, match=message):
            ranker.rank(requests(), pa.table(columns))

    @pytest.mark.parametrize(
        "nothing",
        [
            candidates(0),
            pa.table({"request_id": pa.nulls(0), "item_id": pa.nulls(0)}),
            "lists",
            "lists without type",
            "no lists",
        ],
    )
    def test_an_empty_list_has_no_rows(self, ranker, nothing):
        """Neither do those of the whole corpus come instead."""
        lists = {"lists": [[], None, []], "lists without type": [[]] * 3, "no lists": [None] * 3}
        if isinstance(nothing, str):
            ranked = ranker.rank_fully(requests(candidates=pa.array(lists[nothing])))
        else:
            ranked = ranker.rank_fully(requests(), nothing)
        assert len(ranked.table) == len(ranked.left_out) == 0
        assert ranked.left_out.schema.field("item_id").type == pa.large_string()

    def test_a_request_without_any_is_left_out(self, ranker):
        few = pa.table({"request_id": ["q1"], "item_id": ["i1"]})
        assert list(by_pair(ranker.rank(requests(), few))) == [("q1", "i1")]

    def test_one_that_the_bundle_does_not_know_is_named(self, ranker):
        listed = pa.table(
            {"request_id": ["q2", "q1", "q0", "q1"], "item_id": ["x", "y", "i1", "i1"]}
        )
        ranked = ranker.rank_fully(requests(), listed)
        assert set(by_pair(ranked.table)) == {("q0", "i1"), ("q1", "i1")}
        assert ranked.left_out.to_pylist() == [
            {"request_id": "q1", "item_id": "y"},
            {"request_id": "q2", "item_id": "x"},
        ]

    def test_one_that_comes_again_is_ranked_once(self, ranker):
        once = pa.table({"request_id": ["q1", "q1"], "item_id": ["i1", "i2"]})
        ranked = ranker.rank_fully(requests(), pa.concat_tables([once, once, once.slice(0, 1)]))
        assert_scores(ranked.table, ranker.rank(requests(), once))
        assert ranked.repeated == 3

    def test_a_list_twice_as_long_as_the_corpus(self, ranker):
        items = [f"i{n}" for n in range(2 * ITEMS)]
        ranked = ranker.rank_fully(
            requests(1), pa.table({"request_id": ["q0"] * len(items), "item_id": items})
        )
        assert_scores(ranked.table, ranker.rank(requests(1)))
        assert sorted(ranked.left_out["item_id"].to_pylist()) == sorted(items[ITEMS:])


class TestTimes:
    """Of requests that are not of the bundle's day."""

    @pytest.fixture
    def fresh(self, served):
        """A bundle is warned of once in a process that opened it once."""
        return Ranker(served.bundle)

    def test_before_it_a_request_is_the_days_first(self, fresh, caplog):
        asked = requests(timestamp=[BUNDLE_DAY - 5 * DAY - 1, BUNDLE_DAY, BUNDLE_DAY])
        with caplog.at_level(logging.WARNING):
            early = fresh.rank(asked, candidates(), events())
        assert "requests are from up to 6 days before it (1 of 3, the first of 2022-01-31)" in (
            caplog.text
        )
        assert_scores(
            early, fresh.rank(requests(timestamp=[BUNDLE_DAY] * 3), candidates(), events())
        )

    def test_a_week_after_it_the_staleness_is_named(self, fresh, caplog):
        asked = requests(timestamp=BUNDLE_DAY + np.array([0, 7 * DAY - 1, 9 * DAY]))
        with caplog.at_level(logging.WARNING):
            fresh.rank(asked, candidates())
            fresh.rank(asked, candidates())
        assert caplog.text.count("the bundle is of 2022-02-06, 9 days before the last") == 1

    def test_within_a_week_nothing_is_said(self, fresh, caplog):
        with caplog.at_level(logging.WARNING):
            fresh.rank(requests(timestamp=BUNDLE_DAY + np.array([0, 1, 7 * DAY - 1])), candidates())
        assert not caplog.text


BAD_EVENTS = {
    "an action that nobody knows": (
        {"action": ["clik"] * 40},
        "action 'clik'. Did you mean 'click'",
    ),
    "arrival before the event": (
        {"arrival_time": np.full(40, BUNDLE_DAY - 1)},
        "40 events arrived before they happened. Are event_time and arrival_time swapped",
    ),
    "milliseconds": (
        {"event_time": np.full(40, BUNDLE_DAY * 1000), "arrival_time": None},
        "events: column 'event_time' .*Expected UTC seconds",
    ),
    "an action without name": ({"action": pa.nulls(40)}, "'action' has no value"),
    "a user of another type": ({"user_id": np.arange(40)}, "'user_id' has type int64"),
    "an item of another type": ({"item_id": np.arange(40)}, "'item_id' has type int64"),
    "no user": ({"user_id": None}, "events: column 'user_id' is missing"),
    "fractions of seconds": ({"event_time": np.full(40, 1.5)}, "Expected an integer"),
}


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_bad_events(case, ranker):
    columns, message = BAD_EVENTS[case]
    with pytest.raises(InputError, match=message):
        ranker.rank(requests(), candidates(), events(**columns))


class TestEvents:
    def left_out(self, ranker, table) -> dict[str, int]:
        return ranker.ranking.read_events(table)[1]

    def test_without_arrival_they_arrive_when_they_happen(self, ranker):
        listed = candidates()
        expected = events(arrival_time=events()["event_time"])
        result = ranker.rank(requests(), listed, events(arrival_time=None))
        assert result.equals(ranker.rank(requests(), listed, expected))

    def test_copies_count_once_and_the_first_to_arrive_does(self, ranker):
        table = events()
        position = table.column_names.index("arrival_time")
        later = table.set_column(
            position, "arrival_time", pa.array(table["arrival_time"].to_numpy() + 9)
        )
        both = pa.concat_tables([later, table])
        assert self.left_out(ranker, both) == {"copies": len(table)}
        listed = candidates(14)
        result = ranker.rank(requests(14), listed, both)
        assert result.equals(ranker.rank(requests(14), listed, table))

    def test_rows_without_an_id_are_no_copies(self, ranker):
        assert self.left_out(ranker, events(event_id=None)) == {}
        assert self.left_out(ranker, events(event_id=pa.nulls(40))) == {}

    def test_what_arrived_before_the_day_is_in_the_bundle(self, ranker):
        early = events(event_time=BUNDLE_DAY - np.arange(40), arrival_time=None)
        assert self.left_out(ranker, early) == {"arrived before the bundle's day": 39}

    def test_an_event_that_state_has_does_not_count_again(self, ranker, served):
        import pyarrow.parquet as pq

        counted = pq.read_table(served.log / "events.parquet").slice(50, 40)["event_id"]
        assert self.left_out(ranker, events(event_id=counted.combine_chunks())) == {"copies": 40}

    def test_items_that_the_bundle_does_not_know(self, ranker):
        assert self.left_out(ranker, events(item_id=["zz"] * 40)) == {"unknown items": 40}
        listed = candidates()
        result = ranker.rank(requests(), listed, events(item_id=["zz"] * 40))
        assert result.equals(ranker.rank(requests(), listed))

    def test_none_are_as_if_there_were_none(self, ranker):
        listed = candidates()
        expected = ranker.rank(requests(), listed)
        for none in (events(0), pa.table({name: pa.nulls(0) for name in events().column_names})):
            assert ranker.rank(requests(), listed, none).equals(expected)

    def test_those_to_come_are_not_seen(self, ranker):
        """Nor those that arrived within the delay."""
        asked = requests(14, timestamp=np.full(14, BUNDLE_DAY + 1000))
        listed = candidates(14)
        expected = ranker.rank(asked, listed)
        later = events(event_time=np.full(40, BUNDLE_DAY + 941), arrival_time=None)
        assert ranker.rank(asked, listed, later).equals(expected)
        before = events(event_time=np.full(40, BUNDLE_DAY + 940), arrival_time=None)
        assert not ranker.rank(asked, listed, before).equals(expected)


BAD_ITEMS = {
    "a column is missing": ({"title": None}, "column 'title' is missing"),
    "an id comes twice": ({"item_id": ["a", "a"]}, "more than once, for example 'a'"),
    "an id is absent": ({"item_id": ["a", None]}, "'item_id' has no value"),
    "an id is of another type": ({"item_id": [1, 2]}, "'item_id' has type int64"),
    "a number is absent": ({"price": [1.0, None]}, "'price' has no value.*item_id 'new2'"),
    "a category is of another type": ({"brand": [1, 2]}, "'brand' has type int64"),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_bad_items(case, ranker):
    columns, message = BAD_ITEMS[case]
    with pytest.raises(InputError, match=message):
        ranker.encode_items(new_items(**columns))


class TestExplain:
    @pytest.mark.parametrize(
        ("asked", "items", "message"),
        [
            (requests(2), ["i1"], "takes one request. Got 2"),
            (requests(0), ["i1"], "takes one request. Got 0"),
            (requests(1), None, "explain needs candidates"),
            (requests(1), [1, 2], "'item_id' has type int64"),
            (requests(1), ["i1", 1], "cannot be read as a table"),
            (requests(1), "i1", "one string"),
        ],
    )
    def test_what_it_cannot(self, ranker, asked, items, message):
        with pytest.raises(InputError, match=message):
            ranker.explain(asked, items)

    @pytest.mark.parametrize("items", [[], ["zz"]])
    def test_of_nothing_there_is_nothing(self, ranker, items):
        assert len(ranker.explain(requests(1), items)) == 0
