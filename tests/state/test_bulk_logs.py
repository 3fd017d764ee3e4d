"""Logs of many rows: skew, ten million queries, and what of them a new day reads."""

import os
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.state import as_of, engines, snapshot
from interactrank_jax.state.build import build_store
from tests.log.handmade_log import START, write_log
from tests.state.conftest import state_config

DAY = 86_400
FIRST = START // DAY


def bulk_log(path, queries, items, rows, seed=0):
    """Writes a log of 30 days: one impression and one click per request, in the order of time."""
    rng = np.random.default_rng(seed)
    timestamp = START + np.sort(rng.integers(0, 30 * DAY, rows))
    number = np.arange(rows)
    names = pa.array([f"q{n}" for n in range(int(queries.max()) + 1)])
    item_names = pa.array([f"i{n}" for n in range(int(items.max()) + 1)])
    country = pa.array(["de", "fr"]).take(rng.integers(0, 2, rows))
    user = pa.array([f"u{n}" for n in range(1000)]).take(rng.integers(0, 1000, rows))
    keys = {"user_id": user, "query_id": names.take(queries), "country": country}
    request = {"request_id": number, **keys, "timestamp": timestamp}
    for feature in ("tenure", "hour"):
        request[feature] = np.zeros(rows)
    event = {"event_id": number, **keys, "item_id": item_names.take(items)}
    event |= {"event_time": timestamp + 1, "arrival_time": timestamp + 1}
    bulk = {
        "items": pa.table({"item_id": item_names}),
        "requests": pa.table(request),
        "impressions": pa.table(
            {
                "request_id": number,
                "item_id": item_names.take(items),
                "position": np.zeros(rows, np.int32),
                **{name: np.ones(rows, np.int8) for name in ("click", "save")},
            }
        ),
        "events": pa.table(event | {"action": pa.array(["click"] * rows)}),
    }
    return open_log(write_log(path, bulk))


CLICKS = {"cross.features": ("share:click:7", "item_share:click:30")}


def test_one_query_and_one_item_may_hold_a_fifth_of_the_log(backend, tmp_path):
    rows = 100_000
    rng = np.random.default_rng(0)
    queries, items = rng.integers(1, 5000, rows), rng.integers(1, 3000, rows)
    queries[rng.random(rows) < 0.2] = 0
    items[rng.random(rows) < 0.2] = 0
    log = bulk_log(tmp_path / "log", queries, items, rows)
    held = build_store(state_config(**CLICKS), log, tmp_path / "state", backend)
    requests = pq.read_table(log.path / "requests.parquet")["timestamp"].to_numpy() // DAY
    day = FIRST + 25
    as_of.write(log, held, backend, tmp_path / "features", day, day, rows_at_once=1000)
    assert len(list((tmp_path / "features" / "features").iterdir())) > 2
    table = pq.read_table(tmp_path / "features" / "features").to_pydict()
    found = dict(zip(table["request_id"], table["share:click:7"], strict=True))
    week = (requests >= day - 7) & (requests < day)
    for row in np.flatnonzero(requests == day)[::97]:
        alike = week & (queries == queries[row])
        count = (alike & (items == items[row])).sum()
        assert found[row] == np.float32(count / (alike.sum() + 5))


def test_a_new_day_needs_nothing_that_was_shown_before(backend, tmp_path):
    """What the files hold of the days before is made unreadable, and they look as they did."""
    rows = 20_000
    rng = np.random.default_rng(0)
    log = bulk_log(tmp_path / "log", rng.integers(0, 9, rows), rng.integers(0, 9, rows), rows)
    for name in ("impressions", "events"):
        table = pa.concat_tables([pq.read_table(path) for path in log.files(name)])
        path, *others = log.files(name)
        pq.write_table(table, path, row_group_size=1000)
        for other in others:
            other.unlink()
    log = open_log(log.path)
    config = state_config(**{"cross.features": ("rate:click:7",)})
    whole = build_store(config, log, tmp_path / "whole", backend)
    build_store(config, log, tmp_path / "state", backend, through=FIRST + 20)
    day = pq.read_table(log.path / "requests.parquet")["timestamp"].to_numpy() // DAY
    for name in ("impressions", "events"):
        spoil(log.files(name)[0], int((day <= FIRST + 20).sum()))
    other = open_log(log.path)
    held = build_store(config, other, tmp_path / "state", backend)
    counts = [
        backend.to_pyarrow(s.counts(("query", "item"), backend)).sort_by(
            [("query", "ascending"), ("item", "ascending"), ("period", "ascending")]
        )
        for s in (held, whole)
    ]
    assert counts[0] == counts[1]
    with pytest.raises(InputError, match=r"impressions .*: column 'click' cannot be read"):
        build_store(config, other, tmp_path / "again", backend)


def spoil(path, rows, group=1000):
    """Overwrites the groups of some of the first rows alone, and sets back the time of change."""
    status, held = path.stat(), pq.ParquetFile(path).metadata
    with path.open("r+b") as file:
        for number in range(rows // group):
            for column in range(held.num_columns):
                chunk = held.row_group(number).column(column)
                starts = (chunk.dictionary_page_offset, chunk.data_page_offset)
                file.seek(min(start for start in starts if start))
                file.write(b"\xff" * chunk.total_compressed_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.slow(reason="ten million queries take a minute")
def test_ten_million_queries(tmp_path):
    rows = 10_000_000
    rng = np.random.default_rng(0)
    log = bulk_log(tmp_path / "log", rng.permutation(rows), rng.integers(0, 1000, rows), rows)
    begin = time.monotonic()
    with engines.connect("duckdb", tmp_path / "scratch", memory="4GB") as backend:
        held = build_store(state_config(**CLICKS), log, tmp_path / "state", backend)
        snapshot.write(log, held, backend, tmp_path / "snapshot", held.next_day)
        assert held.figures()["rows"] > 0.9 * rows
    assert time.monotonic() - begin < 600
    found = pq.ParquetFile(tmp_path / "snapshot" / "query" / "part.parquet").metadata.num_rows
    arrived = pq.read_table(log.path / "events.parquet", columns=["arrival_time"])["arrival_time"]
    days = arrived.to_numpy() // DAY
    assert found == ((days >= held.next_day - 7) & (days < held.next_day)).sum()  # one item each
