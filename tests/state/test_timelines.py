"""User timelines: what of a user's past a request may use, and in which order it stands."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.log.read import open_log
from interactrank_jax.state import engines
from interactrank_jax.state.build import build_store
from interactrank_jax.state.days import SECONDS_PER_DAY
from interactrank_jax.state.histories import IMPRESSION, NO_FOLD, Timelines, UserHistory
from interactrank_jax.state.source import Source
from interactrank_jax.state.spec import ITEM_ROW
from interactrank_jax.state.timelines import all_rows, read_timelines
from tests.log.handmade_log import ACTIONS, START, data_config, make_tables, replace, write_log

DAY = SECONDS_PER_DAY
USERS, FOLDS = 6, 5


def make_arrays(count: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    """Random engagements by user and arrival, many of one second."""
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(0, USERS, count).astype(np.int32))
    time = rng.integers(0, 20, count) * DAY + rng.integers(0, 5, count)
    time = time[np.lexsort((time, user))]
    return {
        "user": user,
        "item": rng.integers(1, 15, count).astype(np.int32),
        "action": rng.integers(0, 3, count).astype(np.int8),
        "time": time,
        "event_time": time - rng.integers(0, DAY, count),
        "period": rng.integers(0, FOLDS, count).astype(np.int32),
    }


def make_history(arrays: dict[str, np.ndarray], **overrides) -> UserHistory:
    options = {"actions": (0, 2), "length": 5, "delay_s": 60, **overrides}
    return UserHistory(Timelines(arrays, USERS), **options)


def _no_fold(count: int) -> np.ndarray:
    return np.full(count, NO_FOLD)


def test_histories_equal_a_loop_over_everything():
    arrays = make_arrays()
    rng = np.random.default_rng(1)
    user, timestamp = rng.integers(0, USERS, 150), rng.integers(-5, 21, 150) * DAY + 62
    history = make_history(arrays)
    result = history.last(user, timestamp, _no_fold(150))
    counts = history.counts(user, timestamp, _no_fold(150), (0, 1, 2))
    for row in range(150):
        past = np.flatnonzero(
            (arrays["user"] == user[row]) & (arrays["time"] <= timestamp[row] - 60)
        )
        assert counts[row].tolist() == np.bincount(arrays["action"][past], minlength=3).tolist()
        past = past[arrays["action"][past] != 1][::-1][:5]
        padding = [0] * (5 - len(past))
        assert result.item[row].tolist() == arrays["item"][past].tolist() + padding
        assert result.action[row].tolist() == (arrays["action"][past] + 1).tolist() + padding
        age = (timestamp[row] - arrays["event_time"][past]) / 3600
        np.testing.assert_allclose(result.age[row], [*age, *padding], rtol=1e-6)


@pytest.mark.parametrize(("gap", "is_visible"), [(59, False), (60, True), (61, True)])
def test_an_engagement_is_known_once_it_arrived_delay_s_before(gap, is_visible):
    arrays = {name: values[:1].copy() for name, values in make_arrays(1).items()}
    arrays["user"][0], arrays["action"][0], arrays["time"][0] = 3, 0, 1000
    result = make_history(arrays).last(np.array([3]), np.array([1000 + gap]), _no_fold(1))
    assert bool(result.item[0, 0]) == is_visible


def test_a_user_without_a_past_has_an_empty_history():
    nothing = {name: values[:0] for name, values in make_arrays().items()}
    history = make_history(nothing)
    args = np.arange(USERS), np.full(USERS, 10**6), _no_fold(USERS)
    result = history.last(*args)
    assert not result.item.any()
    assert not result.age.any()
    assert not history.counts(*args, (0, 1, 2)).any()


def test_timeless_histories_hold_the_training_rows_of_other_folds():
    arrays = make_arrays()
    history = make_history(arrays, delay_s=None, folds=FOLDS, length=400)
    user, fold = np.repeat(np.arange(USERS), 6), np.tile(np.arange(NO_FOLD, FOLDS), USERS)
    zeros = np.zeros(len(user), np.int64)
    result, counts = history.last(user, zeros, fold), history.counts(user, zeros, fold, (0, 1, 2))
    for row in range(len(user)):
        visible = (arrays["user"] == user[row]) & (arrays["period"] != fold[row])
        assert counts[row].sum() == visible.sum()
        expected = arrays["item"][visible & (arrays["action"] != 1)]
        assert result.item[row][result.item[row] > 0].tolist() == expected[::-1].tolist()


# --- Read from STATE -----------------------------------------------------------------------------


def read(tables: dict[str, pa.Table], directory: Path, through: int | None = None) -> Timelines:
    """Builds STATE of a log and reads the timelines of all its users, by number."""
    log = open_log(write_log(directory / "log", tables))
    config = data_config(**{"cross.features": ("share:click:7",)})
    users = sorted(set(tables["requests"]["user_id"].to_pylist()))
    with engines.connect("duckdb", directory / "scratch") as backend:
        store = build_store(config, log, directory / "state", backend, through)
        asked = pa.table({"user_id": users, "user": np.arange(len(users), dtype=np.int32)})
        rows = np.arange(1, len(tables["items"]) + 1, dtype=np.int32)
        items = pa.table({"item_id": tables["items"]["item_id"], ITEM_ROW: rows})
        return read_timelines(
            backend,
            all_rows(Source(log, store.recipe, backend), store),
            log.schema.actions,
            engines.write_arrow(backend, asked, directory / "users"),
            engines.write_arrow(backend, items, directory / "items"),
            len(users),
            directory / "arrays",
        )


def lines(timelines: Timelines) -> list[tuple]:
    columns = (timelines.item, timelines.action, timelines.time, timelines.event_time)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def of_events(tables: dict[str, pa.Table]) -> list[tuple]:
    """By user: what arrived, and what the user was shown, as a plain reading has it."""
    rows, seen = [], set()
    events = tables["events"].to_pylist()
    for event in sorted(events, key=lambda row: (row["arrival_time"], row["event_time"])):
        if event["event_id"] not in seen:
            seen.add(event["event_id"])
            rows.append((
                event["user_id"], event["arrival_time"], event["event_time"], event["event_id"],
                event["item_id"], ACTIONS.index(event["action"]),
            ))  # fmt: skip
    requests = {row["request_id"]: row for row in tables["requests"].to_pylist()}
    for row in tables["impressions"].to_pylist():
        if row["stage"] == "shown":
            request = requests[row["request_id"]]
            time = request["timestamp"]
            rows.append((request["user_id"], time, time, None, row["item_id"], IMPRESSION))
    return sorted(
        (row for row in rows if row[0] in {request["user_id"] for request in requests.values()}),
        key=lambda row: (*row[:3], row[3] is None, row[3] or "", *row[4:]),
    )


def crowded(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """The same with all times on one of a few seconds a day: ties everywhere."""

    def at_noon(table: pa.Table, column: str) -> pa.Table:
        return replace(table, column, table[column].to_numpy() // DAY * DAY + DAY // 2)

    return tables | {
        "requests": at_noon(tables["requests"], "timestamp"),
        "events": at_noon(at_noon(tables["events"], "event_time"), "arrival_time"),
    }


def shuffled(tables: dict[str, pa.Table], seed: int) -> dict[str, pa.Table]:
    rng = np.random.default_rng(seed)
    return {
        name: table if name == "items" else table.take(pa.array(rng.permutation(len(table))))
        for name, table in tables.items()
    }


def test_timelines_hold_each_event_once_at_its_arrival_and_what_was_shown(tmp_path):
    tables = crowded(make_tables(80))
    timelines = read(tables, tmp_path)
    row_of = {item: row + 1 for row, item in enumerate(tables["items"]["item_id"].to_pylist())}
    expected = [
        (row_of[item], action, time, event_time)
        for _, time, event_time, _, item, action in of_events(tables)
    ]
    assert lines(timelines) == expected


@pytest.mark.parametrize("with_events", [True, False])
def test_ties_do_not_depend_on_the_order_of_rows(with_events, tmp_path):
    tables = crowded(make_tables(80))
    if not with_events:
        del tables["events"]
    first, second = (read(shuffled(tables, seed), tmp_path / str(seed)) for seed in (1, 2))
    assert lines(first) == lines(second)
    assert len(np.unique(first.time)) < len(first.time) / 10  # ties there were


def test_ties_of_a_log_without_events_are_broken_by_request_and_position(tmp_path):
    tables = crowded(make_tables(80))
    del tables["events"]
    requests = {row["request_id"]: row for row in tables["requests"].to_pylist()}
    row_of = {item: row + 1 for row, item in enumerate(tables["items"]["item_id"].to_pylist())}
    expected = []
    for row in tables["impressions"].to_pylist():
        request = requests[row["request_id"]]
        codes = [code for code, action in enumerate(ACTIONS) if row[action]]
        codes += [IMPRESSION] * (row["stage"] == "shown")
        key = (request["user_id"], request["timestamp"], row["request_id"], row["position"])
        expected += [(*key, code, row_of[row["item_id"]]) for code in codes]
    assert lines(read(tables, tmp_path)) == [
        (item, code, time, time) for _, time, _, _, code, item in sorted(expected)
    ]


def test_days_that_state_does_not_hold_yet_are_read_from_the_log(tmp_path):
    tables = make_tables(80)
    last = START // DAY + 29
    whole, part = (
        read(tables, tmp_path / name, through)
        for name, through in (("whole", last), ("part", last - 12))
    )
    assert lines(whole) == lines(part)
