"""Spark and DuckDB give the same, to the bit."""

import dataclasses
import shutil
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.state import as_of, engines, positions, report, snapshot, store
from interactrank_jax.state.build import build_store
from interactrank_jax.state.day_rows import day_rows
from interactrank_jax.state.source import Source
from interactrank_jax.state.store import Description
from tests.golden import canonical
from tests.golden.cases import CASES
from tests.log import spark_engine
from tests.log.handmade_log import START, make_tables, write_log
from tests.state.conftest import FULL, MEANS, by_pair, everything, state_config

FIRST = START // 86_400


def tell(log, backend, places):
    """Returns the weights of positions, and every figure of a report."""
    made = report.make(*places, backend)
    figures = []
    for feature in map(dataclasses.asdict, made.features):
        for value in feature.values():
            figures += value if isinstance(value, tuple) else [value]
    figures = [np.nan if value is None else value for value in figures]
    weights = positions.position_weights(log, backend, "click")
    return weights, [value for value in figures if not isinstance(value, str)]


def serve(log, place, backend):
    """Returns what a snapshot serves on its own day and on the next."""
    held = snapshot.open_snapshot(place, log)
    table = snapshot.served(log, held, backend, held.day, held.day + 1)
    return by_pair(backend.to_pyarrow(table)).to_pydict()


def source_without_events(tmp_path, backend) -> Source:
    """Returns a log whose labels are its impressions, as an engine reads it."""
    path = tmp_path / "without events"
    if not path.exists():
        write_log(path, make_tables(events=False))
    log = open_log(path)
    return Source(log, Description.from_config(state_config(**FULL), log).recipe, backend)


def refuse_damaged(config, log, backend, place):
    """A file that an engine cannot read is named, whatever that engine raises."""
    damaged = open_log(shutil.copytree(log.path, place / "damaged"))
    with damaged.files("events")[0].open("r+b") as file:
        file.seek(4)  # behind the first bytes, which say that this is Parquet
        file.write(bytes(200))
    with pytest.raises(InputError, match=r"events \(.*\): column '.*' cannot be read"):
        build_store(config, damaged, place / "of_damaged", backend)


@pytest.mark.filterwarnings("ignore")  # pyspark warns of pandas 3, and of each damaged byte
@pytest.mark.thorough  # Spark starts, and plans for longer than it runs
def test_spark_counts_and_serves_the_same(log, full, backend, tmp_path, monkeypatch):
    day, config = FIRST + 25, state_config(**FULL)
    places = [tmp_path / name for name in ("now", "then")]
    for place, first in zip(places, (FIRST + 20, FIRST + 12), strict=True):
        as_of.write(log, full, backend, place, first, first + 6, MEANS)
    with spark_engine.spark(tmp_path / "spark", monkeypatch) as spark:
        counted = build_store(config, log, tmp_path / "state", spark)
        held = everything(counted, spark)
        in_parts = tmp_path / "in_parts"
        as_of.write(log, counted, spark, in_parts, means=MEANS, rows_at_once=800)
        values = by_pair(pq.read_table(in_parts / "features"))
        snapshot.write(log, counted, spark, tmp_path / "snapshot", day, MEANS)
        served = serve(log, tmp_path / "snapshot", spark)
        told = tell(log, spark, places)
        shown = day_rows(source_without_events(tmp_path, spark))
        refuse_damaged(config, log, spark, tmp_path)
    by_duckdb = {day: rows for chunk in full.chunks for day, rows in chunk.days.items()}
    assert {day: rows for chunk in counted.chunks for day, rows in chunk.days.items()} == by_duckdb
    assert shown == day_rows(source_without_events(tmp_path, backend))
    assert any(any(rows.actions) for rows in shown.values())
    expected = everything(full, backend)
    assert held.keys() == expected.keys()
    for name, table in expected.items():
        assert held[name].to_pydict() == table.to_pydict(), name
    as_of.write(log, full, backend, tmp_path / "whole", means=MEANS)
    table = by_pair(pq.read_table(tmp_path / "whole" / "features"))
    assert len(list((in_parts / "features").iterdir())) > 1
    assert values.to_pydict() == table.to_pydict()
    snapshot.write(log, full, backend, tmp_path / "expected", day, MEANS)
    for place in (tmp_path / "expected").glob("*/"):
        found = pq.read_table(tmp_path / "snapshot" / place.name)
        assert found.to_pydict() == pq.read_table(place).to_pydict()
    assert served == serve(log, tmp_path / "expected", backend)
    expected = tell(log, backend, places)
    assert told[0] == expected[0]
    assert told[1] == pytest.approx(expected[1], rel=1e-12, nan_ok=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.thorough  # Spark plans for longer than it runs: a minute or two each
@pytest.mark.parametrize("case", ["everything, by position", "timeless"])
def test_spark_prepares_the_same_examples(case, backend, tmp_path, monkeypatch):
    """Every column, and every table of the STATE that lies in them."""
    spark_engine.require(monkeypatch)
    write, config = CASES[case]
    log = write(tmp_path / "log")
    prepare(config(), log, tmp_path / "duckdb")
    prepare(config(), log, tmp_path / "spark", engine="spark", memory="1GB")
    canonical.assert_equal(tmp_path / "spark", tmp_path / "duckdb")
    tables = [
        everything(store.open_store(tmp_path / name / "state", open_log(log)), backend)
        for name in ("spark", "duckdb")
    ]
    assert tables[0].keys() == tables[1].keys()
    for name, table in tables[1].items():
        assert tables[0][name].to_pydict() == table.to_pydict(), name


def test_an_unknown_one_is_refused(tmp_path):
    with (
        pytest.raises(InputError, match="Did you mean 'spark'"),
        engines.connect("sparc", tmp_path / "scratch"),
    ):
        pass


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_a_table_is_split_by_what_its_rows_are_alike_in(backend, tmp_path, parts):
    queries = [None, "", "ö/=&", *"abcabca"]
    rows = ibis.memtable({"query": pa.array(queries, pa.string()), "row": range(len(queries))})
    others = ibis.memtable({"query": pa.array(["c", "a"], pa.string())})
    found = engines.split(backend, rows, "query", parts, tmp_path / "rows")
    beside = engines.split(backend, others, "query", parts, tmp_path / "others")
    none = engines.split(backend, rows.filter(ibis._.row < 0), "query", parts, tmp_path / "none")
    assert len(found) == len(beside) == len(none) == parts
    held = [backend.to_pyarrow(table).to_pylist() for table in found]
    assert sorted((row["row"], row["query"]) for part in held for row in part) == list(
        enumerate(queries)
    )
    of = {}
    for part, table in enumerate(held):
        for row in table:
            assert of.setdefault(row["query"], part) == part
    for part, table in enumerate(beside):
        for row in backend.to_pyarrow(table).to_pylist():
            assert of[row["query"]] == part
    assert not any(backend.to_pyarrow(table).num_rows for table in none)


def test_rows_that_are_not_found_again_are_told(backend, tmp_path, monkeypatch):
    write = type(backend).to_parquet

    def lose_a_part(self, table, path, **options):
        write(self, table, path, **options)
        shutil.rmtree(sorted(Path(path).iterdir())[0])

    rows = ibis.memtable({"query": range(40)})
    with monkeypatch.context() as patch:
        patch.setattr(type(backend), "to_parquet", lose_a_part)
        with pytest.raises(InputError, match=r"rows has \d+ of the 40 rows .* Name an --out on"):
            engines.split(backend, rows, "query", 3, tmp_path / "rows")
