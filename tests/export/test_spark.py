"""Requests ranked on Spark, on this machine: the ids and scores that one process gives."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.export import spark
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking.requests import score_requests
from tests.log import spark_engine
from tests.serving.making import assert_scores, candidates, events, requests


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Requests in two files; their candidates, of which one is unknown and some come twice."""
    root = tmp_path_factory.mktemp("asked")
    (root / "requests").mkdir()
    for number, first in enumerate((0, 9)):
        part = requests(20).slice(first, (9, 11)[number])
        pq.write_table(part, root / "requests" / f"{number}.parquet")
    listed = candidates(19)  # the last request has none
    further = pa.table({"request_id": ["q3", "q5"], "item_id": ["nobody", "i1"]})
    listed = pa.concat_tables([listed, further, listed.slice(0, 2)])
    pq.write_table(listed, root / "candidates.parquet")
    pq.write_table(events(), root / "events.parquet")
    return root


@pytest.mark.filterwarnings("ignore")  # pyspark warns of pandas 3
@pytest.mark.thorough  # Spark starts, and its workers compile
def test_the_same_as_one_process(served, place, tmp_path, monkeypatch, capsys):
    spark_engine.require(monkeypatch)
    named = {"candidates": place / "candidates.parquet", "events": place / "events.parquet", "k": 4}
    asked = place / "requests"
    counts = score_requests(served.bundle, asked, tmp_path / "here", **named)
    command = [f"--{name}={value}" for name, value in named.items()]
    command += [f"--bundle={served.bundle}", f"--requests={asked}", f"--out={tmp_path / 'spark'}"]
    assert cli.main(["score", *command, "--engine=spark", "--memory=1GB", "--master=local[2]"]) == 0
    here, there = (pq.read_table(tmp_path / name / "scores.parquet") for name in ("here", "spark"))
    assert there.column_names == here.column_names
    assert_scores(there, here)
    order = [("request_id", "ascending"), ("rank", "ascending")]
    assert there.sort_by(order)["item_id"].to_pylist() == here.sort_by(order)["item_id"].to_pylist()
    for path in (tmp_path / "spark" / "scores.parquet").iterdir():
        ids = pq.read_table(path)["request_id"].to_pylist()
        starts = [i for i, one in enumerate(ids) if not i or ids[i - 1] != one]
        assert len(starts) == len(set(ids)), "a request's rows are not together"
    left_out = pq.read_table(tmp_path / "spark" / "left_out.parquet")
    assert left_out.to_pylist() == [{"request_id": "q3", "item_id": "nobody"}]
    records = [files.read_json(tmp_path / name / "metadata.json") for name in ("here", "spark")]
    assert records[0] == records[1]
    assert {name: records[1][name] for name in counts} == counts
    assert counts["repeated"] >= 2
    names = {path.name for path in (tmp_path / "spark").iterdir()}
    assert names == {"scores.parquet", "left_out.parquet", "metadata.json"}
    refuse_on_spark(served, place, tmp_path)


def refuse_on_spark(served, place, tmp_path):
    """What only the rows tell: found by Spark, or by a worker, and said as everywhere."""
    cases = {
        "request_id.* more than once": pa.concat_tables([requests(2), requests(1)]),
        "column 'timestamp' has no value": requests(2, timestamp=pa.array([None, 5], pa.int64())),
        "1 rows are of requests that are not there, for example 'q3'": requests(3),
    }
    pq.write_table(candidates(4).slice(0, 16), tmp_path / "listed.parquet")
    for message, table in cases.items():
        pq.write_table(table, tmp_path / "bad.parquet")
        listed = tmp_path / "listed.parquet" if "not there" in message else ""
        with pytest.raises(InputError, match=message):
            spark.score_requests(
                *(served.bundle, tmp_path / "bad.parquet", tmp_path / "out"),
                candidates=listed,
                memory="1GB",
                master="local[2]",
            )
        assert not (tmp_path / "out").exists()


def test_a_worker_opens_the_bundle_once(served, monkeypatch):
    opened = []

    class Counting(spark.Ranker):
        def __init__(self, *arguments, **named):
            opened.append(arguments)
            super().__init__(*arguments, **named)

    monkeypatch.setattr(spark, "Ranker", Counting)
    spark._opened.cache_clear()
    asked = requests(3, candidates=[["i1", "i2"], ["i3", "gone"], None])
    for _ in range(2):
        batches = spark._rank_batches(
            asked.to_batches(), spark.Opened(str(served.bundle), "float32", 1.0, ()), 5
        )
        rows = pa.Table.from_batches(batches).to_pylist()
    assert len(opened) == 1
    kinds = [(row["kind"], row["request_id"], row["item_id"]) for row in rows]
    assert ("left_out", "q1", "gone") in kinds
    assert [kind for kind, *_ in kinds].count("scores") == 3
    spark._opened.cache_clear()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine=ray"], "Expected spark, or none"),
        (["--engine=spark", "--log_features=1"], "--log_features does not go with"),
        (["--master=local"], "--master=local is for --engine=spark"),
        (["--memory=1GB"], "--memory=1GB is for --engine=spark"),
        (["--scan=int4"], "format='int4'"),
        (["--engine=spark", "--recall=1.5"], "recall=1.5. Expected a share above 0"),
        (["--engine=spark", "--memory=much"], "--memory=much. Expected a number"),
        (["--engine=spark", "--k=0"], "--k=0. Expected at least 1"),
    ],
)
def test_flags_that_do_not_go_together(served, place, flags, message, tmp_path, capsys):
    command = [f"--bundle={served.bundle}", f"--requests={place / 'requests'}"]
    assert cli.main(["score", *command, f"--out={tmp_path / 'out'}", *flags]) == 2
    assert message in capsys.readouterr().err


def test_files_of_other_columns(served, tmp_path):
    """One process reads them as what they are, Spark all as it reads the first."""
    (tmp_path / "requests").mkdir()
    for number, kind in enumerate((pa.int32(), pa.int64())):
        table = requests(2).cast(
            pa.schema([f.with_type(kind) if f.name == "hour" else f for f in requests(2).schema])
        )
        pq.write_table(table, tmp_path / "requests" / f"{number}.parquet")
    with pytest.raises(InputError, match=r"1\.parquet has other columns than .*0\.parquet"):
        spark.score_requests(served.bundle, tmp_path / "requests", tmp_path / "out")
