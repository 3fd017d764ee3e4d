"""Logs that nobody wants and everybody has: each gets a defined result, or an error that says why.

Duplicates and late events are in `test_store.py`, kills in `test_kills.py`, skew and ten million
queries in `test_bulk_logs.py`, bots in `test_recipe.py`.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.state import as_of, snapshot, store
from interactrank_jax.state.build import build_store
from tests.log.handmade_log import START, make_tables, replace, write_log
from tests.state.conftest import MEANS, features_of, state_config

DAY = 86_400
FIRST = START // DAY
BY_WORDS = {
    "cross.features": ("share:click:30",),
    "cross.backoff.strength": 3.0,
    "cross.backoff.query_form": "query_text",
}


def shift(tables, column, rows, seconds):
    """Moves a time of some events."""
    values = tables["events"][column].to_numpy().copy()
    values[rows] += seconds
    return tables | {"events": replace(tables["events"], column, values)}


class TestClocks:
    def test_an_event_that_arrives_before_it_happens_is_refused(self, backend, tmp_path):
        tables = shift(make_tables(120), "event_time", [0, 7], 9 * DAY)
        log = open_log(write_log(tmp_path / "log", tables))
        with pytest.raises(InputError, match=r"events: column 'arrival_time'.*event_id='e\d+'"):
            build_store(state_config(), log, tmp_path / "state", backend)
        # What was complete before stays; nothing of the days with the fault is there.
        held = store.open_store(tmp_path / "state", log)
        with pytest.raises(InputError, match="holds no day yet"):
            held.counts(("query",), backend)

    def test_milliseconds_are_refused(self, backend, tmp_path):
        """They would lie in days that never come, and no event would ever count."""
        tables = make_tables(120)
        events = tables["events"]
        for column in ("event_time", "arrival_time"):
            events = replace(events, column, events[column].to_numpy() * 1000)
        log = open_log(write_log(tmp_path / "log", tables | {"events": events}))
        with pytest.raises(InputError, match=r"events: column 'event_time'.*milliseconds"):
            build_store(state_config(), log, tmp_path / "state", backend)

    def test_one_clock_ahead_closes_no_days(self, backend, tmp_path):
        """An event from the next year arrives: days up to then have not come, and stay open."""
        honest = make_tables(120)
        ahead = shift(shift(honest, "arrival_time", [5], 400 * DAY), "event_time", [5], 400 * DAY)
        log = open_log(write_log(tmp_path / "log", ahead))
        held = build_store(state_config(), log, tmp_path / "state", backend)
        requests = pq.read_table(log.path / "requests.parquet")["timestamp"].to_numpy()
        assert held.next_day == requests.max() // DAY

    def test_a_request_far_ahead_does_not_close_the_days_before_it(self, backend, tmp_path):
        tables = make_tables(120)
        times = tables["requests"]["timestamp"].to_numpy().copy()
        newest = int(times.max())
        times[3] = newest + 400 * DAY
        tables["requests"] = replace(tables["requests"], "timestamp", times)
        log = open_log(write_log(tmp_path / "log", tables))
        with pytest.raises(InputError, match=r"requests\.timestamp: there is no request between"):
            build_store(state_config(), log, tmp_path / "state", backend)
        last = newest // DAY
        held = build_store(state_config(), log, tmp_path / "state", backend, through=last)
        assert held.next_day == last + 1
        with pytest.raises(InputError, match="there is no request between"):
            build_store(state_config(), log, tmp_path / "state", backend)

    @pytest.mark.parametrize(
        ("table", "column"), [("events", "arrival_time"), ("requests", "timestamp")]
    )
    @pytest.mark.parametrize("value", [None, 10**13])
    def test_a_missing_or_impossible_time_is_named(self, table, column, value, backend, tmp_path):
        tables = make_tables(120)
        times = tables[table][column].to_pylist()
        times[3] = value
        tables[table] = replace(tables[table], column, pa.array(times, pa.int64()))
        log = open_log(write_log(tmp_path / "log", tables))
        with pytest.raises(InputError, match=rf"{table}.*{column}"):
            build_store(state_config(), log, tmp_path / "state", backend)

    def test_events_before_their_item_are_counted_and_told(self, log, whole):
        """A clock or a catalogue is wrong, nobody knows which: the engagement is still one."""
        events = pq.read_table(log.path / "events.parquet").to_pylist()
        items = pq.read_table(log.path / "items.parquet").to_pylist()
        created = {row["item_id"]: row["created_at"] for row in items}
        early = {
            row["event_id"]
            for row in events
            if created[row["item_id"]] is not None
            and row["event_time"] // DAY < created[row["item_id"]] // DAY
            and row["arrival_time"] // DAY < whole.next_day
        }
        assert whole.figures()["early"] == len(early) > 0


@pytest.mark.long  # counts a log several times
def test_empty_days_are_days_without_counts(backend, tmp_path):
    tables = make_tables(200)
    gap = (FIRST + 10) * DAY, (FIRST + 17) * DAY

    def outside(column):
        values = column.to_numpy()
        return pa.array((values < gap[0]) | (values >= gap[1]))

    requests = tables["requests"].filter(outside(tables["requests"]["timestamp"]))
    known = pa.compute.is_in(tables["impressions"]["request_id"], requests["request_id"])
    tables |= {
        "requests": requests,
        "impressions": tables["impressions"].filter(known),
        "events": tables["events"].filter(outside(tables["events"]["arrival_time"])),
    }
    log = open_log(write_log(tmp_path / "log", tables))
    once = build_store(state_config(), log, tmp_path / "once", backend)
    for day in (FIRST + 9, FIRST + 12, FIRST + 14, once.next_day - 1):
        grown = build_store(state_config(), log, tmp_path / "grown", backend, through=day)
        assert grown.next_day == day + 1
    counts = [
        backend.to_pyarrow(held.counts(("query",), backend)).sort_by(
            [("period", "ascending"), ("query", "ascending")]
        )
        for held in (once, grown)
    ]
    assert counts[0] == counts[1]
    assert not set(range(FIRST + 10, FIRST + 17)) & set(counts[0]["period"].to_pylist())
    # A window that lies in the gap holds nothing; one that reaches over it does.
    config = state_config(**{"cross.features": ("share:click:3", "share:click:30")})
    held = build_store(config, log, tmp_path / "windows", backend)
    day = FIRST + 17
    rows = features_of(log, held, backend, {}, since=day, until=day)
    assert not any(rows["share:click:3"].to_pylist())
    assert any(rows["share:click:30"].to_pylist())


def test_days_without_events_at_the_end_are_closed(backend, tmp_path):
    """Requests go on, nobody does anything: there is nothing to wait for."""
    tables = make_tables(200)
    events = tables["events"]
    early = pa.array(events["arrival_time"].to_numpy() < (FIRST + 20) * DAY)
    log = open_log(write_log(tmp_path / "log", tables | {"events": events.filter(early)}))
    config = state_config(**{"cross.features": ("share:click:7",)})
    build_store(config, log, tmp_path / "state", backend, through=FIRST + 19)
    held = build_store(config, log, tmp_path / "state", backend)
    assert held.next_day == tables["requests"]["timestamp"].to_numpy().max() // DAY
    assert as_of.write(log, held, backend, tmp_path / "features")["rows"] > 0


def test_a_query_is_known_by_its_words_from_its_first_request_on(backend, tmp_path):
    """The first request comes days before the first event, and before anything is counted."""
    tables = make_tables(200)
    events, config = tables["events"], state_config(**BY_WORDS)
    late = pa.array(events["arrival_time"].to_numpy() >= (FIRST + 9) * DAY)
    log = open_log(write_log(tmp_path / "log", tables | {"events": events.filter(late)}))
    held = build_store(config, log, tmp_path / "state", backend)
    forms = backend.to_pyarrow(held.forms(backend)).to_pylist()
    assert min(row["period"] for row in forms) < FIRST + 9 <= held.chunks[0].first
    assert len(forms) == 5


@pytest.mark.long  # prepares a log several times
def test_texts_without_words_have_no_history_in_common(backend, tmp_path):
    tables = make_tables(200)
    query = tables["requests"]["query_id"].to_numpy()
    texts = [["!!!", "\U0001f525", "???", "red shoes", "Shoes RED"][n - 100] for n in query]
    tables["requests"] = replace(tables["requests"], "query_text", texts)
    log = open_log(write_log(tmp_path / "log", tables))
    config = state_config(**BY_WORDS)
    held = build_store(config, log, tmp_path / "state", backend)
    counted = backend.to_pyarrow(held.counts(("query_form",), backend))
    assert set(counted["query_form"].to_pylist()) == {"red shoes"}
    prepare(config, log.path, tmp_path / "examples")
    table = features_of(log, held, backend, {}).to_pylist()
    found = {(row["request_id"], row["item_id"]): row["share:click:30"] for row in table}
    examples = Examples(tmp_path / "examples")
    raw = examples.raw_requests("test")["request_id"].to_pylist()
    for block in examples.blocks("test"):
        for row, column in zip(*np.nonzero(block["mask"]), strict=True):
            item = examples.item_ids[block["item"][row, column]]
            value = block["cross"][row, column, 0]
            assert found[raw[block["request_index"][row]], item] == value


ODD = (
    *("e\u0301", "\u00e9", "\u202e\u05d0", "\U0001f525", "\ufeff"),
    *(" ", "a\nb", "it's", '"', "%_\\"),
)


def test_ids_of_any_text_are_told_apart(log, whole, backend, tmp_path):
    """Two spellings of one letter are two ids; quotes, blanks and line ends are letters."""
    tables = make_tables()
    names = {f"i{n}": f"{text}{n // 10}" for n, text in enumerate(3 * ODD)}
    for name in ("items", "impressions", "events"):
        ids = [names[item] for item in tables[name]["item_id"].to_pylist()]
        tables[name] = replace(tables[name], "item_id", ids)
    other = open_log(write_log(tmp_path / "log", tables))
    held = build_store(state_config(), other, tmp_path / "state", backend)
    for keys in held.counted_keys:
        mine, plain = (backend.to_pyarrow(s.counts(keys, backend)) for s in (held, whole))
        if "item" in plain.column_names:
            plain = replace(plain, "item", [names[item] for item in plain["item"].to_pylist()])
        mine, plain = (sorted(map(str, table.to_pylist())) for table in (mine, plain))
        assert mine == plain
    snapshot.write(other, held, backend, tmp_path / "odd", FIRST + 25, MEANS)
    snapshot.write(log, whole, backend, tmp_path / "plain", FIRST + 25, MEANS)
    served = pq.read_table(tmp_path / "odd" / "query")["item"].to_pylist()
    plain = pq.read_table(tmp_path / "plain" / "query")["item"].to_pylist()
    assert sorted(served) == sorted(names[item] for item in plain)


def test_queries_and_users_of_any_text_are_told_apart(whole, backend, tmp_path):
    tables = make_tables()
    queries = {100 + n: text for n, text in enumerate(ODD[:5])}
    for name in ("requests", "events"):
        columns = {
            "query_id": [queries.get(n) for n in tables[name]["query_id"].to_pylist()],
            "user_id": [f"{ODD[int(n[1:]) % 10]}{n}" for n in tables[name]["user_id"].to_pylist()],
        }
        for column, ids in columns.items():
            tables[name] = replace(tables[name], column, ids)
    log = open_log(write_log(tmp_path / "log", tables))
    held = build_store(state_config(), log, tmp_path / "state", backend)
    assert held.figures() == whole.figures()
    for keys in held.counted_keys:
        mine, plain = (backend.to_pyarrow(s.counts(keys, backend)) for s in (held, whole))
        if "query" in keys:
            plain = replace(plain, "query", [queries[n] for n in plain["query"].to_pylist()])
        mine, plain = (sorted(map(str, table.to_pylist())) for table in (mine, plain))
        assert mine == plain
    snapshot.write(log, held, backend, tmp_path / "snapshot", FIRST + 25, MEANS)
    served = pq.read_table(tmp_path / "snapshot" / "query")["query"].to_pylist()
    assert set(served) == set(queries.values())


def test_a_log_without_requests_is_refused(backend, tmp_path):
    tables = make_tables(120)
    log = open_log(write_log(tmp_path / "log", tables | {"requests": tables["requests"][:0]}))
    with pytest.raises(InputError, match=r"requests .*: the table is empty"):
        build_store(state_config(), log, tmp_path / "state", backend)


def test_what_was_shown_twice_is_refused(backend, tmp_path):
    """An impression has no id of its own: of two rows nobody knows whether they are one."""
    tables = make_tables(120)
    config = state_config(**{"cross.features": ("rate:click:7",)})
    for name, expected in (
        ("impressions", r"impressions: column 'request_id' and 'item_id' repeats"),
        ("requests", r"requests: column 'request_id' repeats: 3 of"),
    ):
        twice = pa.concat_tables([tables[name], tables[name].slice(20, 3)])
        log = open_log(write_log(tmp_path / name, tables | {name: twice}))
        with pytest.raises(InputError, match=expected):
            build_store(config, log, tmp_path / f"state of {name}", backend)


def test_an_impossible_impression_is_refused(backend, tmp_path):
    tables = make_tables(120)
    position = tables["impressions"]["position"].to_numpy().copy()
    position[7] = -1
    tables["impressions"] = replace(tables["impressions"], "position", position)
    log = open_log(write_log(tmp_path / "log", tables))
    config = state_config(**{"cross.features": ("rate:click:7",)})
    with pytest.raises(InputError, match=r"impressions: column 'position'.*request_id='r\d+'"):
        build_store(config, log, tmp_path / "state", backend)


def test_items_that_nobody_knows_are_counted_and_told(log, whole, backend, tmp_path):
    """A catalogue that lags behind, or one without what is no longer sold."""
    tables = make_tables()
    known = pa.compute.not_equal(tables["items"]["item_id"], "i4")
    other = open_log(write_log(tmp_path / "log", tables | {"items": tables["items"].filter(known)}))
    held = build_store(state_config(), other, tmp_path / "state", backend)
    clicks = backend.to_pyarrow(held.counts(("item",), backend)).to_pylist()
    saves = [row for row in clicks if row["item"] == "i4"]
    assert whole.figures()["unknown"] == 0
    assert held.figures()["unknown"] >= len(saves) > 0
    for keys in held.counted_keys:
        order = [(name, "ascending") for name in (*keys, "period")]
        counts = [backend.to_pyarrow(s.counts(keys, backend)).sort_by(order) for s in (held, whole)]
        assert counts[0] == counts[1]


def test_columns_that_nobody_declared_change_nothing(log, whole, backend, tmp_path):
    tables = make_tables()
    impressions = tables["impressions"]
    for name in ("query", "country", "period", "time", "user"):
        impressions = impressions.append_column(name, pa.array(["x"] * len(impressions)))
    other = open_log(write_log(tmp_path / "log", tables | {"impressions": impressions}))
    held = build_store(state_config(), other, tmp_path / "state", backend)
    assert held.figures() == whole.figures()
    for keys in held.counted_keys:
        order = [(name, "ascending") for name in (*keys, "period")]
        counts = [backend.to_pyarrow(s.counts(keys, backend)).sort_by(order) for s in (held, whole)]
        assert counts[0] == counts[1]
