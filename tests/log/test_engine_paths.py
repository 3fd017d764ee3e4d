"""A path is one file and no pattern, whatever engine reads or writes it."""

import os
import shutil

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log import engine_paths
from interactrank_jax.log.read import open_log
from interactrank_jax.log.validate import validate
from interactrank_jax.state import as_of, engines, snapshot
from interactrank_jax.state.build import build_store
from tests.log.handmade_log import make_tables, write_log
from tests.log.spark_engine import spark
from tests.state.conftest import MEANS, everything, state_config

NAMES = (
    *("log[12]", "log1", "log2", "a*b", "a?b", "axb", "**", "[!a]", "[a-z]", "[", "]", "a]b"),
    *("a{b,c}d", "abd", "a b", " a", "it's", 'q"q', "100%", "%41", "A", "a#b", "ü漢", "log:1"),
    *("country=de", "__part=1", "s3:", "~x", "$HOME", ".hidden", "_x", "a;b", "a&b", "-x", "t,u"),
)
# Spark escapes a backslash; DuckDB cannot.
BACKSLASHES = ("a\\b", "a\\*b", "a\\[1]b")


def check(backend, root, names):
    """Reads and writes in directories of all names, which lie beside each other."""
    for name in names:
        (root / name).mkdir(parents=True)
        pq.write_table(pa.table({"name": [name]}), root / name / "0.parquet")
    for name in names:
        table = engine_paths.read_parquet(backend, [root / name / "0.parquet"])
        assert backend.to_pyarrow(table).to_pylist() == [{"name": name}]
        new = root / name / name
        engines.write_parquet(backend, table.mutate(more=ibis.literal(1)), new)
        assert list(new.glob("*.parquet"))
        written = backend.to_pyarrow(engines.read_parquet(backend, [new]))
        assert written.to_pylist() == [{"name": name, "more": 1}]
    # Nothing was written anywhere else.
    assert sorted(path.name for path in root.iterdir()) == sorted(names)
    for name in names:
        assert sorted(path.name for path in (root / name).iterdir()) == sorted([name, "0.parquet"])


def test_duckdb_takes_no_path_for_a_pattern(backend, tmp_path):
    check(backend, tmp_path / "files", NAMES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.thorough
def test_spark_takes_no_path_for_a_pattern(tmp_path, monkeypatch):
    with spark(tmp_path / "spark", monkeypatch) as backend:
        check(backend, tmp_path / "files", NAMES + BACKSLASHES)
        for name in ("_hidden.parquet", ".hidden.parquet"):
            with pytest.raises(InputError, match=r"begins with a dot or an underscore\. Rename"):
                engine_paths.to_read(backend, tmp_path / name)
        monkeypatch.setattr("locale.getencoding", lambda: "ANSI_X3.4-1968")
        with pytest.raises(InputError, match=r"rename .* or set .* LC_ALL to C\.UTF-8"):
            engine_paths.to_read(backend, tmp_path / "ü")


@pytest.mark.parametrize("name", [*BACKSLASHES, "a\nb", "a\u00a0b", "'\"", os.fsdecode(b"\xff")])
def test_what_duckdb_cannot_be_told_of_is_refused(name, backend, tmp_path):
    with pytest.raises(InputError, match=r"rename the file|Choose another directory"):
        engine_paths.to_write(backend, tmp_path / name)
    if name in BACKSLASHES:
        with pytest.raises(InputError, match="cannot read a path with a backslash"):
            engine_paths.to_read(backend, tmp_path / name)


def test_a_table_is_split_in_a_directory_of_any_name(backend, tmp_path):
    rows = ibis.memtable({"query": range(40)})
    for name in NAMES:
        parts = engines.split(backend, rows, "query", 3, tmp_path / name)
        values = [row["query"] for part in parts for row in backend.to_pyarrow(part).to_pylist()]
        assert sorted(values) == list(range(40))


@pytest.mark.long  # prepares a log several times
def test_a_log_is_read_wherever_it_lies(backend, tmp_path, monkeypatch):
    """Its own rows, not those of a neighbour, and by a relative path with a colon too."""
    neighbour = open_log(write_log(tmp_path / "log1", make_tables(80, seed=1)))
    plain = open_log(write_log(tmp_path / "plain", make_tables(120)))
    expected = (
        validate(plain),
        everything(build_store(state_config(), plain, tmp_path / "state", backend), backend),
    )
    assert validate(neighbour) != expected[0]
    monkeypatch.chdir(tmp_path)
    for name in ("log[12]", "log:1", "country=de", "a*b"):
        shutil.copytree("plain", name)
        log = open_log(name)
        state = build_store(state_config(), log, f"state of {name}", backend)
        assert (validate(log), everything(state, backend)) == expected
        day = state.next_day
        record = snapshot.write(log, state, backend, f"snapshot {name}", day, MEANS)
        assert sum(record["rows"].values()) > 0
        record = as_of.write(log, state, backend, name + " features", means=MEANS)
        assert record["rows"] == expected[0]["impressions"]
