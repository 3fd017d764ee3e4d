"""`score --bundle`: new requests from files, in parts, and whatever may be wrong with them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.examples.format import Examples
from interactrank_jax.export import replay
from interactrank_jax.export.export import write_record
from interactrank_jax.io import artifact
from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking import requests as station
from interactrank_jax.ranking.requests import score_requests
from interactrank_jax.serving.bundle import KIND
from tests.conftest import REPOSITORY
from tests.log.handmade_log import DAY
from tests.serving.making import BUNDLE_DAY, assert_scores, candidates, events, requests

COUNT, SIZE = 40, 9


@pytest.fixture(scope="module")
def tables():
    unknown = pa.table({"request_id": ["q3", "q1"], "item_id": ["zz", "yy"]})
    again = candidates(COUNT, SIZE).slice(0, 5)
    return {
        "requests": requests(COUNT),
        "candidates": pa.concat_tables([candidates(COUNT, SIZE), unknown, again]),
        "events": events(),
    }


@pytest.fixture(scope="module")
def paths(tables, tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for name, table in tables.items():
        pq.write_table(table, root / f"{name}.parquet")
    return {name: root / f"{name}.parquet" for name in tables}


@pytest.fixture(scope="module")
def expected(tables, ranker):
    return ranker.rank_fully(*tables.values(), with_features=True)


def run(served, paths, out, *flags: str, **changed) -> int:
    given = {**paths, **changed}
    arguments = [f"--{name}={path}" for name, path in given.items() if path]
    return cli.main(["score", f"--bundle={served.bundle}", *arguments, f"--out={out}", *flags])


def read(out, name="scores") -> pa.Table:
    return pq.read_table(out / f"{name}.parquet")


def test_the_command_ranks_as_the_ranker_does(served, paths, expected, tmp_path, capsys):
    assert run(served, paths, tmp_path / "out") == 0
    assert read(tmp_path / "out").equals(expected.table)
    assert read(tmp_path / "out", "left_out").equals(expected.left_out)
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert metadata["left out"] == 2
    assert metadata["repeated"] == 5
    assert metadata["rows"] == COUNT * SIZE
    assert metadata["k"] == 500
    assert f"requests: {COUNT}" in capsys.readouterr().out


def test_the_corpus(served, paths, tables, ranker, tmp_path):
    assert run(served, paths, tmp_path / "out", "--k=4", candidates="") == 0
    corpus = ranker.rank(tables["requests"], None, tables["events"], k=4)
    assert read(tmp_path / "out").equals(corpus)


@pytest.mark.parametrize("flags", [("--scan=int8",), ("--recall=0.9",)])
def test_a_quicker_scan_finds_the_same_few_items(served, paths, tables, ranker, tmp_path, flags):
    assert run(served, paths, tmp_path / "out", "--k=1", *flags, candidates="") == 0
    corpus = ranker.rank(tables["requests"], None, tables["events"], k=1)
    scanned = read(tmp_path / "out")
    assert scanned["item_id"].equals(corpus["item_id"])
    np.testing.assert_allclose(scanned["score"], corpus["score"], rtol=1e-5)


def split_into_files(table: pa.Table, directory, sizes) -> None:
    directory.mkdir()
    first = 0
    for number, size in enumerate(sizes):
        pq.write_table(table.slice(first, size), directory / f"{number}.parquet")
        first += size
    assert first == len(table)


@pytest.mark.parametrize("rows", [7, 50, 371])
def test_scores_do_not_depend_on_parts(
    served, paths, tables, expected, tmp_path, monkeypatch, rows
):
    monkeypatch.setattr(station, "ROWS_IN_PART", rows)
    monkeypatch.setattr(station, "ROWS_AT_ONCE", 16)
    split_into_files(tables["requests"], tmp_path / "requests", (0, 13, 27))
    split_into_files(tables["candidates"], tmp_path / "candidates", (200, 0, 167))
    directories = {name: tmp_path / name for name in ("requests", "candidates")}
    assert run(served, paths, tmp_path / "out", "--log_features=1", **directories) == 0
    assert_scores(read(tmp_path / "out"), expected.table)
    left_out = read(tmp_path / "out", "left_out").sort_by("request_id")
    assert left_out.to_pylist() == expected.left_out.to_pylist()
    logged = read(tmp_path / "out" / "features", "requests")
    assert sorted(logged["request_id"].to_pylist()) == sorted(
        tables["requests"]["request_id"].to_pylist()
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("scores.parquet", "left_out.parquet", "metadata.json", "features")
    }


@pytest.mark.parametrize("rows", [50, 10**6])
def test_files_of_several_types_are_one_table(served, paths, expected, tmp_path, monkeypatch, rows):
    """As writers of several days leave them: narrower integers, dictionaries, no type at all."""
    monkeypatch.setattr(station, "ROWS_IN_PART", rows)
    table = pq.read_table(paths["requests"])
    head, tail = table.slice(0, 10), table.slice(10)
    for name, kind in (("query_id", pa.int32()), ("hour", pa.int16())):
        head = head.set_column(head.column_names.index(name), name, head[name].cast(kind))
    position = head.column_names.index("country")
    head = head.set_column(position, "country", head["country"].dictionary_encode())
    (tmp_path / "requests").mkdir()
    pq.write_table(head, tmp_path / "requests" / "a.parquet")
    pq.write_table(tail, tmp_path / "requests" / "b.parquet")
    assert run(served, paths, tmp_path / "out", requests=tmp_path / "requests") == 0
    assert_scores(read(tmp_path / "out"), expected.table)


def test_no_requests_make_empty_scores(served, paths, tables, tmp_path):
    for name in ("requests", "candidates"):
        pq.write_table(tables[name].slice(0, 0), tmp_path / f"{name}.parquet")
    none = {name: tmp_path / f"{name}.parquet" for name in ("requests", "candidates")}
    assert run(served, paths, tmp_path / "out", "--log_features=1", **none) == 0
    assert read(tmp_path / "out").num_rows == 0
    columns = ["request_id", "item_id", "rank", "score"]
    probabilities = ["probability_engaged", "probability_save"]
    assert read(tmp_path / "out").schema.names == columns + probabilities
    assert read(tmp_path / "out" / "features", "requests").num_rows == 0


def test_logged_features_are_those_of_examples(served, tmp_path):
    """Of the requests of the log that came on the bundle's day, prepared afterwards."""
    from interactrank_jax.examples.prepare import prepare
    from interactrank_jax.examples.splits import Days
    from interactrank_jax.log.read import open_log
    from interactrank_jax.serving.bundle import Bundle
    from tests.serving.making import make_config

    bundle, data, number = Bundle.open(served.bundle), make_config().data, BUNDLE_DAY // DAY
    days = Days(number, number)
    prepare(data, served.log, tmp_path / "later", encoder=bundle.encoder, days=days)
    examples = Examples(tmp_path / "later")
    rebuilt = list(replay.rebuilt_examples(examples, "test"))
    assert rebuilt
    listed = {
        "request_id": [example.request for example in rebuilt for _ in example.items],
        "item_id": [item for example in rebuilt for item in example.items],
    }
    happened = replay.arrived_events(open_log(served.log), data, number, tmp_path / "engine")
    for name, table in (
        ("requests", examples.raw_requests("test")),
        ("candidates", pa.table(listed)),
        ("events", happened),
    ):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    given = {name: tmp_path / f"{name}.parquet" for name in ("requests", "candidates", "events")}
    assert run(served, {}, tmp_path / "out", "--log_features=1", **given) == 0
    logged = {
        row.pop("request_id"): row
        for row in read(tmp_path / "out" / "features", "requests").to_pylist()
    }
    cross = {
        (row.pop("request_id"), row.pop("item_id")): row
        for row in read(tmp_path / "out" / "features", "candidates").to_pylist()
    }
    compared = set()
    for example in rebuilt:
        for name, value in logged[example.request].items():
            expected = np.asarray(example.arrays[name])
            kind = expected.dtype if expected.dtype.kind in "if" else None
            np.testing.assert_array_equal(np.asarray(value, kind), expected, err_msg=name)
            compared.add(name)
        for item, values in zip(example.items, example.cross, strict=True):
            row = cross[example.request, item]
            assert list(row) == list(examples.metadata.cross)
            np.testing.assert_array_equal(np.array([*row.values()], np.float32), values)
    assert {"user", "query", "history_item", "history_age", "request_numeric"} <= compared
    assert {"request/country", "request/query_text", "request/taste"} <= compared


class TestRefusals:
    """Each is one line, and leaves nothing."""

    def refused(self, capsys, tmp_path, served, paths, *flags, **changed) -> str:
        before = sorted(tmp_path.iterdir())
        assert run(served, paths, tmp_path / "out", *flags, **changed) == 2
        assert sorted(tmp_path.iterdir()) == before
        *_, last = capsys.readouterr().err.splitlines()
        assert last.startswith("interactrank: ")
        return last

    @pytest.mark.parametrize("name", ["requests", "candidates", "events"])
    def test_a_path_that_leads_nowhere(self, capsys, tmp_path, served, paths, name):
        said = self.refused(capsys, tmp_path, served, paths, **{name: tmp_path / "nowhere"})
        assert f"--{name}={tmp_path}/nowhere: expected a Parquet file, or a directory" in said
        (tmp_path / "text.parquet").write_text("no")
        said = self.refused(capsys, tmp_path, served, paths, **{name: tmp_path / "text.parquet"})
        assert f"--{name}: {tmp_path}/text.parquet is no readable Parquet file" in said
        (tmp_path / "empty").mkdir()
        said = self.refused(capsys, tmp_path, served, paths, **{name: tmp_path / "empty"})
        assert "expected a Parquet file, or a directory of some" in said

    def test_a_bundle_that_is_none(self, capsys, tmp_path, paths, served):
        for path in (served.run, served.examples, tmp_path / "nowhere"):
            arguments = [f"--{name}={path}" for name, path in paths.items()]
            flags = [f"--bundle={path}", *arguments, f"--out={tmp_path / 'out'}"]
            assert cli.main(["score", *flags]) == 2
            assert "holds no bundle" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("where", ["bundle", "bundle/inside", "requests"])
    def test_out_inside_what_is_read(self, capsys, tmp_path, served, paths, tables, where):
        (tmp_path / "requests").mkdir()
        pq.write_table(tables["requests"], tmp_path / "requests" / "0.parquet")
        out = tmp_path / "requests" / "out" if where == "requests" else served.root / where
        assert run(served, paths, out, requests=tmp_path / "requests") == 2
        assert "which is only read. Name a directory beside it" in capsys.readouterr().err

    def test_k(self, capsys, tmp_path, served, paths):
        said = self.refused(capsys, tmp_path, served, paths, "--k=0")
        assert "--k=0. Expected at least 1 item per request" in said

    def test_features_of_the_whole_corpus(self, capsys, tmp_path, served, paths):
        said = self.refused(capsys, tmp_path, served, paths, "--log_features=1", candidates="")
        assert "--log_features needs candidates" in said

    @pytest.mark.parametrize("flag", ["workdir", "index", "examples"])
    def test_flags_of_the_other_way(self, capsys, tmp_path, served, paths, flag):
        said = self.refused(capsys, tmp_path, served, paths, f"--{flag}={served.run}")
        assert f"--{flag} beside --bundle, which holds all it needs: leave it out" in said

    @pytest.mark.parametrize("rows", [50, 10**6])
    @pytest.mark.parametrize(
        ("name", "column", "values", "message"),
        [
            ("requests", "tenure", ["x"] * COUNT, "'tenure' has type string"),
            ("requests", "request_id", None, "column 'request_id' is missing"),
            ("candidates", "request_id", ["other"] * 367, "are of requests that are not there"),
            ("candidates", "request_id", list(range(367)), "'request_id' has type int64"),
            ("candidates", "request_id", pa.nulls(367, pa.string()), "column 'request_id' has"),
            ("candidates", "item_id", pa.nulls(367), "'item_id' has no value"),
            ("candidates", "request_id", None, "column 'request_id' is missing"),
            ("events", "action", ["x"] * 40, "action 'x'"),
        ],
    )
    def test_columns(
        self, capsys, tmp_path, served, paths, tables, monkeypatch, rows, name, column, values,
        message,
    ):  # fmt: skip
        monkeypatch.setattr(station, "ROWS_IN_PART", rows)
        table = tables[name]
        position = table.column_names.index(column)
        table = table.remove_column(position)
        if values is not None:
            table = table.add_column(position, column, pa.array(values))
        pq.write_table(table, tmp_path / "bad.parquet")
        said = self.refused(capsys, tmp_path, served, paths, **{name: tmp_path / "bad.parquet"})
        assert message in said

    @pytest.mark.parametrize("rows", [50, 10**6])
    def test_an_id_that_comes_twice(
        self, capsys, tmp_path, served, paths, tables, monkeypatch, rows
    ):
        monkeypatch.setattr(station, "ROWS_IN_PART", rows)
        (tmp_path / "requests").mkdir()
        for number, table in enumerate((tables["requests"], tables["requests"].slice(7, 1))):
            pq.write_table(table, tmp_path / "requests" / f"{number}.parquet")
        said = self.refused(capsys, tmp_path, served, paths, requests=tmp_path / "requests")
        assert "1 values of 'request_id' are there more than once, for example 'q7'" in said

    def test_without_requests(self, capsys, tmp_path, served):
        assert cli.main(["score", f"--bundle={served.bundle}", f"--out={tmp_path / 'out'}"]) == 2
        assert "missing --requests" in capsys.readouterr().err

    def test_without_anything(self, capsys, tmp_path):
        assert cli.main(["score", f"--out={tmp_path / 'out'}"]) == 2
        assert "Expected --bundle and --requests, to rank new requests" in capsys.readouterr().err

    def test_by_the_function(self, served, paths, tmp_path):
        with pytest.raises(InputError, match="Expected at least 1 item"):
            score_requests(served.bundle, paths["requests"], tmp_path / "out", k=0)


@pytest.mark.thorough  # a process of its own, which is interrupted
def test_an_interruption_leaves_nothing_and_it_runs_again(served, paths, tables, tmp_path):
    many = pa.concat_tables([tables["requests"]] * 2000)
    ids = pa.array([f"q{n}" for n in range(len(many))])
    pq.write_table(many.set_column(0, "request_id", ids), tmp_path / "many.parquet")
    command = [
        *(sys.executable, "-c", "from interactrank_jax import cli; cli.run()"),
        *("score", f"--bundle={served.bundle}"),
        *(f"--requests={tmp_path}/many.parquet", f"--out={tmp_path}/out/scores"),
    ]
    (tmp_path / "out").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob(".scores.partial-*/scores.parquet")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "interrupted; nothing half-written was left" in said
    assert not list((tmp_path / "out").iterdir())
    assert run(served, paths, tmp_path / "out" / "scores") == 0


def test_verify_ranks_the_golden_requests_before_any_work(served, paths, tmp_path, capsys):
    assert run(served, paths, tmp_path / "out", "--verify=1") == 0
    bundle = shutil.copytree(served.bundle, tmp_path / "bundle")
    scores = pq.read_table(bundle / "golden" / "scores.parquet")
    wrong = scores.set_column(3, "score", pa.array(scores["score"].to_numpy() + np.float32(0.1)))
    pq.write_table(wrong, bundle / "golden" / "scores.parquet")
    record = artifact.open_artifact(KIND, bundle).record
    write_record(bundle, record)  # whole, but for what its model gives
    arguments = [f"--bundle={bundle}", f"--requests={paths['requests']}"]
    assert cli.main(["score", *arguments, f"--out={tmp_path / 'unverified'}", "--k=1"]) == 0
    capsys.readouterr()
    assert cli.main(["score", *arguments, f"--out={tmp_path / 'no'}", "--verify=1"]) == 2
    assert "golden requests differ" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
