"""Replay: what a bundle serves is what the log tells afterwards; where it is not, it is named."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax import cli
from interactrank_jax.config import models
from interactrank_jax.examples.format import STATE, Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.export import replay
from interactrank_jax.export.export import export, write_record
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.simulator.simulate import simulate
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.state.days import SECONDS_PER_DAY, date
from interactrank_jax.training.train import train
from tests.synthetic import tiny_config, without_blocks

FEATURES = {
    *("user", "query", "request_numeric", "history_item", "history_action", "history_age"),
    *("query_history_item", "request/country", "request/query_text", "score"),
}


def assert_equal(figures: dict[str, dict]) -> None:
    for name, figure in figures.items():
        assert figure["rows"] > 0, name
        assert figure["equal"] == figure["rows"], f"{name}: {figure['first']}"


def run(bundle, log, workdir, file) -> int:
    flags = [f"--bundle={bundle}", f"--log={log}", f"--workdir={workdir}", f"--json={file}"]
    return cli.main(["replay", *flags])


def test_the_command(served, tmp_path, capsys):
    """A bundle of the handmade log's last day but one; events of the day arrive late."""
    assert run(served.bundle, served.log, served.run, tmp_path / "figures.json") == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert_equal(figures)
    assert set(figures) >= FEATURES | {"share:click:7", "share:save:30:country", "request/taste"}
    printed = capsys.readouterr().out
    assert "| history_item | " in printed
    assert "100.00%" in printed


@pytest.fixture(scope="module")
def copy(served, tmp_path_factory):
    """A bundle whose record may be sealed again."""

    def make(**changed):
        path = tmp_path_factory.mktemp("copy") / "bundle"
        shutil.copytree(served.bundle, path)
        record = Bundle.open(path).artifact.record

        def seal():
            write_record(path, {**record, **changed})
            return path

        return path, seal

    return make


class TestFaults:
    """Each is found at the feature where it arose, with an example."""

    def different(self, bundle, log) -> dict[str, replay.Difference]:
        differences = replay.replay(bundle, log)
        return {name: one for name, one in differences.items() if one.equal < one.rows}

    def test_a_count_that_is_off(self, served, copy):
        path, seal = copy()
        value = np.load(path / "cross" / "0" / "value.npy")
        names = Bundle.open(path)["cross"][0]["names"]
        value[:, 0] = np.nextafter(value[:, 0], 2)  # the last bit
        files.save_array(path / "cross" / "0" / "value.npy", value)
        different = self.different(seal(), served.log)
        assert set(different) == {names[0]}
        assert "request r" in different[names[0]].first
        assert ", item i" in different[names[0]].first
        assert 0 < different[names[0]].largest < 1e-6

    def test_an_event_that_was_withheld(self, served, monkeypatch):
        handed_over = replay.arrived_events
        monkeypatch.setattr(
            replay, "arrived_events", lambda *arguments: handed_over(*arguments).slice(0, 0)
        )
        different = self.different(served.bundle, served.log)
        assert {"history_item", "history_action", "history_age"} <= set(different)
        assert not {"user", "query", "share:click:7", "request/country"} & set(different)

    def test_another_delay(self, served, copy):
        _, seal = copy(delay_s=SECONDS_PER_DAY)
        different = self.different(seal(), served.log)
        assert "history_item" in different
        assert not {"user", "query", "share:click:7", "request/country"} & set(different)

    def test_queries_of_another_day(self, served, copy):
        path, seal = copy()
        item = np.load(path / "queries" / "item.npy")
        files.save_array(path / "queries" / "item.npy", item[:, ::-1].copy())
        assert "query_history_item" in self.different(seal(), served.log)

    def test_the_command_fails_and_names_them(self, served, copy, tmp_path, capsys):
        _, seal = copy(delay_s=SECONDS_PER_DAY)
        assert run(seal(), served.log, "", tmp_path / "figures.json") == 2
        captured = capsys.readouterr()
        assert "served and rebuilt differ in history_item" in captured.err
        assert "history_item: request r" in captured.out
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["history_item"]["equal"] < figures["history_item"]["rows"]


class TestRefusals:
    def test_a_log_without_the_day(self, served, tmp_path, copy):
        _, seal = copy(as_of="2030-01-01")
        with pytest.raises(InputError, match="2030-01-01"):
            replay.replay(seal(), served.log)

    def test_the_run_of_another_model(self, served, copy):
        _, seal = copy(fingerprint="of another")
        with pytest.raises(InputError, match="is a bundle of another model than the best of"):
            replay.replay(seal(), served.log, served.run)

    def test_timeless_data(self, served, copy):
        _, seal = copy(timeless=True, as_of=None)
        with pytest.raises(InputError, match="is of timeless data: there is no day to replay"):
            replay.replay(seal(), served.log)

    def test_paths(self, served, tmp_path, capsys):
        assert run(served.bundle, served.log, served.run, tmp_path) == 2
        assert "--json" in capsys.readouterr().err
        assert run(served.run, served.log, "", "") == 2
        assert "holds no bundle" in capsys.readouterr().err
        assert run(served.bundle, served.run, "", "") == 2
        assert "holds no log" in capsys.readouterr().err


def simulated(seed: int, root) -> tuple[list[int], object]:
    """Makes a log and a run; returns some days of its test split."""
    simulate("tiny", seed, root / "log", requests=2500, days=50, chunk_days=5)
    config = tiny_config("interactrank")
    config.data = models.build("interactrank", "search").data
    config.data.update({"slate": 6, "block_size": 64})
    config.data.history.update({"length": 8, "rates": ("save",)})
    config.data.query_history.length = 5
    without_blocks(config)
    prepare(config.data, root / "log", root / "examples")
    train(config, root / "examples", root / "run")
    raw = Examples(root / "examples").raw_requests("test")
    return sorted(set((raw["timestamp"].to_numpy() // SECONDS_PER_DAY).tolist()))


def check_seed(seed: int, days: int, root, capsys) -> None:
    tested = simulated(seed, root)
    chosen = np.linspace(0, len(tested) - 1, days).astype(int)
    for number in (tested[index] for index in chosen):
        bundle = root / f"bundle-{number}"
        export(root / "run", root / "examples" / STATE, bundle, as_of=date(number), onnx=False)
        assert run(bundle, root / "log", root / "run", root / f"{number}.json") == 0
        figures = json.loads((root / f"{number}.json").read_text())
        assert_equal(figures)
        assert set(figures) >= FEATURES
        assert figures["score"]["rows"] > 100


@pytest.mark.thorough  # logs, runs and bundles of three days each
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_the_simulators_days(seed, tmp_path, capsys):
    check_seed(seed, 3, tmp_path, capsys)


def test_differences_are_counted():
    one = replay.Difference()
    one.add("a", np.array([1, 2], np.int32), np.array([1, 2], np.int32))
    one.add("b", np.array([1, 3], np.int32), np.array([1, 1], np.int32))
    one.add("c", np.array([1]), np.array([1, 1]))
    one.add("d", ["x", None], ["x", None])
    one.add("e", ["x", None], ["x", "y"])
    assert (one.rows, one.equal, one.largest) == (5, 2, 2.0)
    assert one.first == "b: served [1, 3], rebuilt [1, 1]"
    score = replay.Difference()
    for served, rebuilt in ((1.0, 1.000001), (100.0, 100.0001), (1.0, 1.1)):
        score.add("", served, rebuilt, replay.TOLERANCE)
    assert score.equal == 2
    assert (
        pa.table({"name": [replay.table({"score": score})]})["name"][0].as_py().startswith("| fe")
    )
