"""From a run and STATE to a bundle, and from a bundle to one with further items."""

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
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.export import export as export_module
from interactrank_jax.export.export import export
from interactrank_jax.export.replay import arrived_events
from interactrank_jax.export.update import update_items
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.ranking.explain import explain
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.runs.run import Run
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.state.days import SECONDS_PER_DAY, date
from interactrank_jax.state.store import open_without_log
from tests.conftest import REPOSITORY
from tests.log.handmade_log import make_tables, random_config, write_log
from tests.serving.making import (
    ITEMS,
    Made,
    assert_scores,
    by_pair,
    candidates,
    events,
    make_config,
    make_run,
    new_items,
    requests,
)
from tests.synthetic import tiny_config

NOTHING = {"added": 0, "replaced": 0, "deleted": 0, "unknown": 0}


@pytest.fixture(scope="module")
def items_path(tmp_path_factory, served):
    """Two new items, and one of the log as it never was."""
    path = tmp_path_factory.mktemp("items") / "items.parquet"
    old = new_items(item_id=["i3", "x"], title=["other words", ""]).slice(0, 1)
    pq.write_table(pa.concat_tables([new_items(), old]), path)
    return path


@pytest.fixture(scope="module")
def updated(tmp_path_factory, served, items_path):
    path = tmp_path_factory.mktemp("updated") / "bundle"
    figures = update_items(served.bundle, items_path, path)
    assert figures == NOTHING | {"added": 2, "replaced": 1, "items": ITEMS + 2}
    return path


class TestUpdate:
    def test_new_items_are_ranked_and_others_as_before(self, ranker, updated):
        opened = Ranker(updated)
        # Whose histories are empty: that of i3 is looked up in those of others.
        nobody = {"user_id": [f"nobody {n}" for n in range(20)], "query_id": np.arange(20)}
        asked = requests(20, **nobody)
        corpus = opened.rank(asked, k=100)
        scores, before = by_pair(corpus), by_pair(ranker.rank(asked, k=100))
        assert {item for _, item in scores} == {item for _, item in before} | {"new1", "new2"}
        for (request, item), score in before.items():
            if item == "i3":
                assert score != scores[request, item]
            else:
                assert score == pytest.approx(scores[request, item], abs=1e-5)
        listed = opened.rank(asked, corpus.select(["request_id", "item_id"]), k=100)
        assert_scores(listed, corpus)

    def test_it_is_a_whole_bundle(self, updated):
        Ranker(updated, verify=True)

    def test_without_jax(self, updated, reader):
        assert_scores(
            type(reader)(updated, verify=True).rank(requests()), Ranker(updated).rank(requests())
        )

    def test_its_vectors_are_those_of_its_items(self, updated):
        check_vectors(updated, "npy")

    def test_twice_is_once(self, updated, items_path, tmp_path):
        figures = update_items(updated, items_path, tmp_path / "again")
        assert figures == NOTHING | {"replaced": 3, "items": ITEMS + 2}
        assert_scores(Ranker(tmp_path / "again").rank(requests()), Ranker(updated).rank(requests()))

    def test_no_items_change_nothing(self, served, ranker, items_path, tmp_path):
        pq.write_table(pq.read_table(items_path).slice(0, 0), tmp_path / "none.parquet")
        figures = update_items(served.bundle, tmp_path / "none.parquet", tmp_path / "same")
        assert figures == NOTHING | {"items": ITEMS}
        assert_scores(Ranker(tmp_path / "same").rank(requests()), ranker.rank(requests()))

    def test_the_command(self, served, items_path, tmp_path, capsys):
        flags = [f"--bundle={served.bundle}", f"--items={items_path}", f"--out={tmp_path}/out"]
        assert cli.main(["index", "update", *flags]) == 0
        assert "added: 2" in capsys.readouterr().out
        assert cli.main(["index", "update", *flags]) == 2
        assert "exists already" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"title": None}, r"items \(.*\): column 'title' is missing"),
            ({"item_id": ["a", "a"]}, "more than once"),
            ({"price": ["1", "2"]}, "'price' has type string"),
            ({"price": [1.0, float("nan")]}, "none that is finite"),
        ],
    )
    def test_bad_items(self, served, tmp_path, columns, message):
        pq.write_table(new_items(**columns), tmp_path / "items.parquet")
        with pytest.raises(InputError, match=message):
            update_items(served.bundle, tmp_path / "items.parquet", tmp_path / "out")
        with pytest.raises(InputError, match=message):
            export(served.run, served.state, tmp_path / "out", items=tmp_path / "items.parquet")
        assert [path.name for path in tmp_path.iterdir()] == ["items.parquet"]


class TestItems:
    @pytest.mark.long  # exports a bundle for itself
    def test_items_that_the_log_lacks(self, served, updated, items_path, tmp_path):
        """Those given to export are those of an update, in the order of all ids."""
        path = tmp_path / "bundle"
        export(served.run, served.state, path, items=items_path, onnx=False)
        opened = Ranker(path)
        ids = opened.bundle.items.ids.to_pylist()
        assert ids == sorted(ids)
        assert_scores(opened.rank(requests(20), k=100), Ranker(updated).rank(requests(20), k=100))

    @pytest.mark.long  # makes a bundle of its own
    def test_nothing_need_be_known_of_them(self, served, tmp_path):
        unknown = new_items(title=pa.nulls(2), brand=pa.nulls(2))
        pq.write_table(unknown, tmp_path / "items.parquet")
        path = tmp_path / "bundle"
        export(served.run, served.state, path, items=tmp_path / "items.parquet", onnx=False)
        update_items(served.bundle, tmp_path / "items.parquet", tmp_path / "updated")
        given, updated = (Ranker(p).rank(requests(), k=100) for p in (path, tmp_path / "updated"))
        assert_scores(given, updated)


def check_vectors(path, form: str) -> None:
    """A score is the dot product of two vectors, the request's offset, and the cross terms."""
    opened = Ranker(path)
    if form == "npy":
        ids = pq.read_table(path / "vectors" / "ids.parquet")["item_id"].to_pylist()
        vectors = np.load(path / "vectors" / "vector.npy")
    else:
        table = pq.read_table(path / "vectors" / "items.parquet")
        ids, vectors = table["item_id"].to_pylist(), np.array(table["vector"].to_pylist())
    if (path / "vectors" / "changed.parquet").exists():
        vector_of = dict(zip(ids, vectors, strict=True))
        changed = pq.read_table(path / "vectors" / "changed.parquet").to_pylist()
        vector_of |= {row["item_id"]: row["vector"] for row in changed}
        ids, vectors = list(vector_of), np.array(list(vector_of.values()))
    assert ids == opened.bundle.items.ids.to_pylist()
    asked = requests(12)
    encoded = opened.ranking.encoder.encode(asked)
    wanted = opened.bundle["graphs"]["query_vector"]["inputs"]
    batch = {name: array for name, array in encoded.arrays.items() if name in wanted}
    query = opened.ranking.graphs.run("query_vector", batch)
    assert len(np.unique(query["offset"])) > 1  # users have pasts of their own
    dots = query["vector"] @ vectors.T + query["offset"][:, None]
    for row in range(3):
        parts = opened.explain(asked.slice(row, 1), ids)
        cross = sum(parts[n].to_numpy() for n in parts.column_names if n.endswith(" part"))
        order = [ids.index(item) for item in parts["item_id"].to_pylist()]
        np.testing.assert_allclose(parts["towers"].to_numpy(), dots[row, order], atol=1e-5)
        np.testing.assert_allclose(parts["score"].to_numpy(), dots[row, order] + cross, atol=1e-4)


def test_vectors_as_arrays(served):
    check_vectors(served.bundle, "npy")


@pytest.mark.long  # makes a bundle of its own
def test_vectors_as_a_table(served, tmp_path):
    export(served.run, served.state, tmp_path / "bundle", vectors="parquet", onnx=False)
    check_vectors(tmp_path / "bundle", "parquet")


@pytest.mark.long  # makes a bundle of its own
def test_explain_is_what_the_command_says_of_a_request_of_the_log(served, tmp_path):
    """The same parts of the same score, from the run and from the bundle of the request's day."""
    asked = Examples(served.examples).raw_requests("test").slice(5, 1)
    number = asked["timestamp"][0].as_py() // SECONDS_PER_DAY
    opened = Ranker(served.export(f"of-{number}", as_of=date(number), onnx=False))
    request = asked["request_id"][0].as_py()
    expected = explain(served.run, served.examples, request)
    happened = arrived_events(open_log(served.log), make_config().data, number, tmp_path)
    parts = opened.explain(asked, expected.item_id.tolist(), happened)
    position = [parts["item_id"].to_pylist().index(item) for item in expected.item_id]
    parts = parts.take(position)
    np.testing.assert_allclose(parts["score"].to_numpy(), expected.score, atol=1e-5)
    np.testing.assert_allclose(parts["towers"].to_numpy(), expected.towers, atol=1e-5)
    assert expected.part.any()
    for column, name in enumerate(expected.features):
        np.testing.assert_array_equal(parts[name].to_numpy(), expected.value[:, column])
        result = parts[f"{name} part"].to_numpy()
        np.testing.assert_allclose(result, expected.part[:, column], atol=1e-5)
    total = parts["towers"].to_numpy() + sum(
        parts[f"{name} part"].to_numpy() for name in expected.features
    )
    np.testing.assert_allclose(total, parts["score"].to_numpy(), atol=1e-5)


@pytest.mark.thorough  # a run of its own
def test_timeless_data(tmp_path):
    """A random split: users have pasts, but nothing happens after anything."""
    config = make_config()
    config.data = random_config(block_size=16)
    made = make_run(tmp_path / "made", config, make_tables(120, timeless=True))
    opened = Ranker(made.export("bundle", onnx=False), verify=True)
    asked = requests(20, timestamp=None)
    corpus = opened.rank(asked, k=ITEMS)
    assert_scores(opened.rank(asked, candidates(20, ITEMS)), corpus)
    assert opened.bundle["as_of"] is None
    with pytest.raises(InputError, match=r"the bundle is of timeless data.*Leave them out"):
        opened.rank(asked, events=events())
    with pytest.raises(InputError, match="--as_of=2022-02-06: the data is timeless"):
        made.export("other", as_of="2022-02-06")


class TestRefusals:
    def refused(self, made: Made, message: str, tmp_path, **changed) -> None:
        given = {"workdir": made.run, "state": made.state, "out": tmp_path / "out", **changed}
        with pytest.raises(InputError, match=message):
            export(given.pop("workdir"), given.pop("state"), given.pop("out"), **given)
        assert not (tmp_path / "out").exists()

    def test_days(self, served, tmp_path):
        self.refused(
            served, "'tomorrow' is no date. Expected one such as", tmp_path, as_of="tomorrow"
        )
        for day in ("2022-01-08", "2022-02-07", "1999-01-01"):
            message = rf"--as_of={day}: .* holds the days 2022-01-08 to 2022-02-05, so that"
            self.refused(served, message, tmp_path, as_of=day)

    def test_paths(self, served, tmp_path):
        self.refused(served, "holds no run|no run", tmp_path, workdir=served.log)
        self.refused(served, "STATE|state", tmp_path, state=served.log)
        self.refused(served, "expected a Parquet file", tmp_path, items=tmp_path / "nowhere")
        self.refused(served, "which is only read", tmp_path, out=served.run / "bundle")
        self.refused(served, "which is only read", tmp_path, out=served.state)
        self.refused(served, "exists already", tmp_path, out=served.log)

    def test_vectors(self, served, tmp_path):
        self.refused(served, "--vectors=pq. .*parquet", tmp_path, vectors="pq")

    def test_state_of_another_config(self, served, tmp_path):
        made = Made(tmp_path / "other")
        write_log(made.log, make_tables(80))
        prepare(make_config(**{"cross.lag_days": 2}).data, made.log, made.examples)
        self.refused(
            served, "was built with .*lag_days.*Name the STATE", tmp_path, state=made.state
        )

    def test_a_log_without_one_of_the_features(self, served, tmp_path):
        state = shutil.copytree(served.state, tmp_path / "state")
        _, schema = open_without_log(state)
        features = tuple(f for f in schema.features if f.name != "price")
        with pytest.raises(
            InputError, match="was trained with 'price', a numeric feature of items"
        ):
            export_module._features(Run.open(served.run), state, features)
        more = (*schema.features, type(features[0])("later", "user", "categorical"))
        kept = export_module._features(Run.open(served.run), state, more)
        assert kept == schema.features

    def test_a_model_that_does_not_decouple(self, served, examples_path, tmp_path):
        examples = Examples(examples_path)
        Run(tmp_path / "run", tiny_config("deepfm"), examples.metadata).claim(examples)
        self.refused(served, "'deepfm' model, a network over each pair", tmp_path,
                     workdir=tmp_path / "run")  # fmt: skip

    def test_by_the_command(self, served, tmp_path, capsys):
        flags = [f"--workdir={served.run}", f"--out={tmp_path / 'out'}"]
        assert cli.main(["export", *flags]) == 2
        assert "missing --state" in capsys.readouterr().err
        assert cli.main(["export", *flags, f"--state={tmp_path}"]) == 2
        assert capsys.readouterr().err.startswith("interactrank: ")
        assert not list(tmp_path.iterdir())


@pytest.mark.thorough  # a process of its own, which is interrupted at each phase
@pytest.mark.parametrize("phase", ["history", "graphs", "golden requests"])
def test_an_interruption_leaves_nothing(served, tmp_path, phase):
    command = [
        *(sys.executable, "-u", "-c", "from interactrank_jax import cli; cli.run()", "export"),
        *(
            f"--workdir={served.run}",
            f"--state={served.state}",
            f"--out={tmp_path}/out",
            "--onnx=0",
        ),
    ]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith(phase):
            break
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to processes that it started too
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "interrupted; nothing half-written was left" in said
    assert not list(tmp_path.iterdir())


def test_the_bundle_says_what_it_is(served):
    bundle = Bundle.open(served.bundle)
    assert bundle["model"] == "interactrank"
    assert bundle["as_of"] == "2022-02-06"
    assert bundle["versions"]["jax"]
    assert bundle["items"] == ITEMS + 1
    assert not (served.bundle / "scratch").exists()
