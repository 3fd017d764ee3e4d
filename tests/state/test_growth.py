"""STATE that grew day by day is that of one build; a day that was counted stays as it was."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.log.schema import Schema
from interactrank_jax.state import store
from interactrank_jax.state.build import build_store
from tests.log.handmade_log import (
    ACTIONS,
    START,
    data_config,
    make_tables,
    random_config,
    replace,
    write_log,
)
from tests.marks import some_quick
from tests.state.conftest import FULL, everything, state_config

DAY = 86_400
FIRST = START // DAY
NIGHTS = (FIRST + 4, FIRST + 5, FIRST + 17, FIRST + 24)


def until(tables, last):
    """Returns the log as it is in the night after a day."""

    def kept(name, column):
        return tables[name].filter(pc.less(tables[name][column], (last + 1) * DAY))

    requests = kept("requests", "timestamp")
    shown = pc.is_in(tables["impressions"]["request_id"], requests["request_id"])
    result = {"requests": requests, "impressions": tables["impressions"].filter(shown)}
    if "events" in tables:
        result["events"] = kept("events", "arrival_time")
    return tables | result


def disturbed(tables):
    """Returns a log of the same days, rows in another order and many events delivered again."""
    rng = np.random.default_rng(7)
    if "events" in tables:
        events = tables["events"]
        same_day = events.slice(30, 60)
        days_later = events.slice(100, 60)
        arrival = days_later["arrival_time"].to_numpy() + rng.integers(1, 9, 60) * DAY
        days_later = replace(days_later, "arrival_time", arrival)
        tables = tables | {"events": pa.concat_tables([days_later, events, same_day])}
    return {
        name: table.take(pa.array(rng.permutation(len(table)))) for name, table in tables.items()
    }


@pytest.mark.long  # builds a state several times
@pytest.mark.parametrize("events", some_quick([True, False], [True]), ids=["events", "no events"])
def test_days_in_any_order_twice_or_late_give_the_state_of_one_build(events, backend, tmp_path):
    """Every table to the bit; each night's build runs twice."""
    tables, config = make_tables(events=events), state_config(**FULL)
    nightly = disturbed(tables)
    for night in NIGHTS:
        log = open_log(write_log(tmp_path / f"log {night}", until(nightly, night)))
        for _ in range(2):
            grown = build_store(config, log, tmp_path / "grown", backend, through=night)
        assert grown.next_day == night + 1
    assert len(grown.chunks) == len(NIGHTS)
    log = open_log(write_log(tmp_path / "log", until(tables, NIGHTS[-1])))
    once = build_store(config, log, tmp_path / "once", backend, through=NIGHTS[-1])
    expected = everything(once, backend)
    assert everything(grown, backend) == expected
    assert len(expected) == len(once.counted_keys) + (5 if events else 4)
    assert all(len(table) for table in expected.values())
    dropped = [sum(chunk.duplicates for chunk in held.chunks) for held in (once, grown)]
    assert (dropped[1] > dropped[0] > 0) if events else dropped == [0, 0]


def test_timelines_have_impressions_where_rates_of_users_need_them(log, backend, tmp_path):
    kinds = {}
    for rates in ((), ("save",)):
        config = state_config(**{"history.rates": rates})
        held = build_store(config, log, tmp_path / f"state {rates}", backend)
        kinds[rates] = set(everything(held, backend)["timelines"]["action"].to_pylist())
    assert kinds == {(): set(ACTIONS), ("save",): {*ACTIONS, "impression"}}


class TestCatalogue:
    def test_the_next_day_takes_items_that_are_new_or_changed(self, backend, tmp_path):
        tables = make_tables(120)
        items = tables["items"]
        names = items["item_id"].to_pylist()
        early = items.filter(pc.not_equal(items["item_id"], "i24"))
        created = early["created_at"].to_pylist()
        late = replace(
            items, "price", [99.0 if n == "i5" else 1.5 * k for k, n in enumerate(names)]
        )
        # A time becomes known, and one item is sold no more.
        times = [*created, items["created_at"].to_pylist()[-1]]
        times[names.index("i3")] = START
        late = replace(late, "created_at", pa.array(times, pa.int64()))
        late = late.filter(pc.not_equal(late["item_id"], "i7"))

        def night(items, last):
            log = open_log(write_log(tmp_path / str(last), tables | {"items": items}))
            return build_store(state_config(), log, tmp_path / "state", backend, through=last)

        def catalogue(held):
            rows = backend.to_pyarrow(held.catalogue(backend)).to_pylist()
            return {row["item_id"]: row for row in rows}

        held = night(early, FIRST + 9)
        assert catalogue(held) == {row["item_id"]: row for row in early.to_pylist()}
        held = night(late, FIRST + 10)
        gone = {row["item_id"]: row for row in early.to_pylist() if row["item_id"] == "i7"}
        expected = {row["item_id"]: row for row in late.to_pylist()} | gone
        assert catalogue(held) == expected
        added = pq.read_table(held.path / store.CATALOGUE / held.chunks[1].name)
        assert sorted(added["item_id"].to_pylist()) == ["i24", "i3", "i5"]
        held = night(late, FIRST + 11)
        assert not pq.read_table(held.path / store.CATALOGUE / held.chunks[2].name).num_rows
        assert catalogue(held) == expected

    def test_numbers_may_differ_in_width_from_night_to_night(self, backend, tmp_path):
        tables = make_tables(120)
        prices = np.arange(len(tables["items"]))
        for last, kind in ((FIRST + 9, pa.int32()), (FIRST + 10, pa.float32())):
            items = replace(tables["items"], "price", pa.array(prices, kind))
            log = open_log(write_log(tmp_path / str(last), tables | {"items": items}))
            held = build_store(state_config(), log, tmp_path / "state", backend, through=last)
        rows = backend.to_pyarrow(held.catalogue(backend))
        assert rows.schema.field("price").type == pa.float64()
        assert sorted(rows["price"].to_pylist()) == prices.tolist()

    @pytest.mark.long  # counts a log several times
    @pytest.mark.parametrize("change", ["one more", "one less", "another kind"])
    def test_other_columns_are_refused_before_a_day_is_counted(self, change, backend, tmp_path):
        tables = make_tables(120)
        log = open_log(write_log(tmp_path / "before", tables))
        before = build_store(state_config(), log, tmp_path / "state", backend, through=FIRST + 9)
        items = tables["items"]
        if change == "one more":
            items = items.append_column("color", pa.array(["red"] * len(items)))
        elif change == "one less":
            items = items.drop_columns(["brand"])
        else:
            items = replace(items, "brand", pa.array(range(len(items))))
        path = write_log(tmp_path / "after", tables | {"items": items})
        schema = Schema.load(path)
        features = [
            f for f in schema.features if f.name in items.column_names or f.entity != "item"
        ]
        if change == "one more":
            features.append(dataclasses.replace(schema.features[-1], name="color"))
        dataclasses.replace(schema, features=tuple(features)).save(path)
        name = "color" if change == "one more" else "brand"
        with pytest.raises(InputError, match=rf"items .*'{name}'.*new --out"):
            build_store(state_config(), open_log(path), tmp_path / "state", backend)
        # What was complete can go on with the log that it was built from.
        assert store.open_store(tmp_path / "state", log).chunks == before.chunks
        assert len(build_store(state_config(), log, tmp_path / "state", backend).chunks) == 2


class TestCountedDays:
    """A day is over when it is counted; where it changed later, nobody knows which holds."""

    @pytest.fixture
    def counted(self, log, backend, tmp_path):
        """STATE through a day in the midst of the log."""
        return build_store(state_config(), log, tmp_path / "state", backend, through=FIRST + 12)

    def _build(self, tables, counted, backend, tmp_path):
        log = open_log(write_log(tmp_path / "changed", tables))
        return build_store(state_config(), log, counted.path, backend)

    @pytest.mark.long  # counts a log several times
    @pytest.mark.parametrize(
        ("table", "column"), [("requests", "timestamp"), ("events", "arrival_time")]
    )
    @pytest.mark.parametrize("what", ["added", "removed"])
    def test_rows_of_one_that_changed_are_refused(
        self, table, column, what, counted, backend, tmp_path
    ):
        tables = make_tables()
        rows = tables[table]
        of_day = pc.equal(pc.divide(rows[column], DAY), FIRST + 8)
        some = rows.filter(of_day)
        assert len(some) > 1
        name = {"requests": "request_id", "events": "event_id"}[table]
        if what == "added":
            tables[table] = pa.concat_tables([rows, replace(some[:1], name, ["new"])])
        else:
            tables[table] = rows.filter(pc.not_equal(rows[name], some[name][0]))
        after = len(some) + (1 if what == "added" else -1)
        expected = (
            rf"{table} of 2022-01-16: the log has {after}, but had {len(some)} when that day was "
            r"counted in .*state\. Either the day was not over then, .* another --out"
        )
        with pytest.raises(InputError, match=expected):
            self._build(tables, counted, backend, tmp_path)
        assert store.open_store(counted.path, open_log(tmp_path / "changed")).chunks == (
            counted.chunks
        )

    def test_events_before_the_first_of_them_are_refused(self, counted, backend, tmp_path):
        tables = make_tables()
        early = replace(tables["events"][:1], "event_id", ["new"])
        for column in ("event_time", "arrival_time"):
            early = replace(early, column, [(counted.chunks[0].first - 3) * DAY])
        tables["events"] = pa.concat_tables([tables["events"], early])
        with pytest.raises(InputError, match=r"events of .*: the log has 1, but had 0"):
            self._build(tables, counted, backend, tmp_path)

    @pytest.mark.long  # counts a log several times
    def test_days_that_were_thrown_away_change_nothing(self, log, counted, backend, tmp_path):
        """The rest is counted as before: what STATE has of those days is enough."""
        tables = make_tables()
        late = pc.greater_equal(tables["requests"]["timestamp"], (FIRST + 11) * DAY)
        tables["requests"] = tables["requests"].filter(late)
        shown = pc.is_in(tables["impressions"]["request_id"], tables["requests"]["request_id"])
        tables["impressions"] = tables["impressions"].filter(shown)
        events = tables["events"]
        late = pc.greater_equal(events["arrival_time"], (FIRST + 11) * DAY)
        tables["events"] = events.filter(late)
        grown = self._build(tables, counted, backend, tmp_path)
        once = build_store(state_config(), log, tmp_path / "once", backend)
        assert everything(grown, backend) == everything(once, backend)

    def test_a_log_without_any_of_them_is_another_one(self, counted, backend, tmp_path):
        tables = make_tables()
        for name, columns in (
            ("requests", ["timestamp"]),
            ("events", ["event_time", "arrival_time"]),
        ):
            for column in columns:
                values = tables[name][column].to_numpy() - 400 * DAY
                tables[name] = replace(tables[name], column, values)
        with pytest.raises(InputError, match=r"state counted 2022-.* none of those days"):
            self._build(tables, counted, backend, tmp_path)


def relabelled(rows, of_day, how, has_events):
    """Returns the events or impressions with other labels on a day, as many rows as before.

    `one`: one row has another label; `two`: two rows have each other's, so that no count tells.
    """
    actions = ["action"] if has_events else list(ACTIONS)
    labels = list(zip(*(rows[name].to_pylist() for name in actions), strict=True))
    first = next(row for row in of_day if any(labels[row]))
    second = next(row for row in of_day if labels[row] != labels[first])
    labels[first], before = labels[second], labels[first]
    if how == "two":
        labels[second] = before
    for name, column in zip(actions, zip(*labels, strict=True), strict=True):
        rows = replace(rows, name, pa.array(column, rows[name].type))
    return rows


@pytest.mark.parametrize("events", [True, False], ids=["events", "impressions"])
class TestLabelsEditedInPlace:
    """No day has other numbers of requests or of rows than it had."""

    @pytest.fixture
    def night(self, events, backend, tmp_path):
        """A log, its table with labels, the rows of a day, and STATE through a later one."""
        log = open_log(write_log(tmp_path / "log", make_tables(events=events)))
        config = state_config(**{"cross.features": ("share:click:30:country",)})
        build_store(config, log, tmp_path / "state", backend, through=FIRST + 12)
        file = log.path / ("events.parquet" if events else "impressions/0.parquet")
        rows = pq.read_table(file)
        if events:
            days = rows["arrival_time"].to_numpy() // DAY
        else:
            requests = pq.read_table(log.path / "requests.parquet")
            when = dict(
                zip(*(requests[c].to_pylist() for c in ("request_id", "timestamp")), strict=True)
            )
            days = np.array([when[request] // DAY for request in rows["request_id"].to_pylist()])
        return config, file, rows, np.flatnonzero(days == FIRST + 8).tolist()

    @pytest.mark.long  # counts a log several times
    @pytest.mark.parametrize(
        ("how", "expected"),
        [
            ("one", r"has \d+ click, \d+ save, but had \d+ click, \d+ save when that day"),
            ("two", r"that were counted are not there as they were, .* when that day"),
        ],
    )
    def test_are_refused(self, how, expected, night, events, backend, tmp_path):
        config, file, rows, of_day = night
        whole = file.read_bytes()
        pq.write_table(relabelled(rows, of_day, how, events), file)
        before = sorted(path.name for path in (tmp_path / "state" / "chunks").iterdir())
        table = "events" if events else "impressions"
        expected = rf"{table} of 2022-01-16: .*{expected}.*edited in place.*another --out"
        with pytest.raises(InputError, match=expected):
            build_store(config, open_log(tmp_path / "log"), tmp_path / "state", backend)
        with pytest.raises(InputError, match=expected):
            prepare(
                data_config(**{"cross.features": ("share:click:30:country",)}),
                tmp_path / "log",
                tmp_path / "examples",
                state=tmp_path / "state",
            )
        assert before == sorted(path.name for path in (tmp_path / "state" / "chunks").iterdir())
        file.write_bytes(whole)  # brought back, as the message asks
        grown = build_store(config, open_log(tmp_path / "log"), tmp_path / "state", backend)
        assert len(grown.chunks) == 2

    def test_a_file_written_again_with_its_rows_is_what_it_was(self, night, backend, tmp_path):
        """In another order, and changed by all that is seen of it from outside."""
        config, file, rows, _ = night
        pq.write_table(rows.take(pa.array(np.arange(len(rows))[::-1])), file)
        grown = build_store(config, open_log(tmp_path / "log"), tmp_path / "state", backend)
        assert len(grown.chunks) == 2


@pytest.mark.parametrize("timeless", [True, False], ids=["timeless", "with time"])
def test_a_log_whose_split_decides_what_counts_is_refused(timeless, backend, tmp_path):
    log = open_log(write_log(tmp_path / "log", make_tables(40, timeless=timeless)))
    expected = r"folds for days: the split decides what it counts, so `interactrank prepare` makes"
    with pytest.raises(InputError, match=expected):
        build_store(random_config(), log, tmp_path / "state", backend)
    assert not (tmp_path / "state").exists()


def test_a_cap_takes_the_same_rows_whatever_their_order(backend, tmp_path):
    """Also where a user was in two segments in one second."""
    tables = make_tables()
    event = tables["events"][:1]
    twin = replace(replace(event, "event_id", ["twin"]), "country", ["xx"])
    config = state_config(**{"cross.user_day_cap": 1})
    counts = []
    for number, events in enumerate(([event, twin], [twin, event])):
        path = write_log(tmp_path / f"log {number}", {**tables, "events": pa.concat_tables(events)})
        built = build_store(config, open_log(path), tmp_path / f"state {number}", backend)
        counts.append(everything(built, backend))
    assert counts[0] == counts[1]
