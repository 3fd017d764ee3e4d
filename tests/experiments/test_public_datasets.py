"""The comparison of models as a whole."""

import dataclasses
import json
import math
import shutil

import pyarrow as pa
import pytest

from experiments import comparison, contenders, jobs, public_datasets
from interactrank_jax import cli
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.simulator.simulate import simulate
from tests.experiments.test_comparison import FAIR, row


@pytest.fixture
def trained(monkeypatch):
    """Trains in this process, where compiled code is shared; what was trained within what time."""
    calls = []

    def run_here(queue, *, budget_s=math.inf, **_):
        for job in queue:
            if not job.record.exists():
                calls.append((job.name, budget_s))
                status = cli.main(job.command[3:])
                record = jobs.Record(jobs.FAILED if status else jobs.FINISHED, 1.0, "no" * status)
                files.write_json(job.record, dataclasses.asdict(record))
        return [jobs.read_record(job) for job in queue]

    monkeypatch.setattr(jobs, "run", run_here)
    return calls


@pytest.mark.long  # trains several models
def test_quick_comparison_of_the_simulated_log(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.efficiency.serving_flops", lambda run: 130.0)
    results = tmp_path / "out/search/clean_time-tiny-quick/public_datasets.json"
    comparison.merge(results, [row("two_tower"), row("fit", dataset="movielens_1m")])
    flags = ["--dataset=search", "--protocol=clean_time", "--quick", f"--out={tmp_path / 'out'}"]
    flags += ["--trials=1", "--budget_s=90", "--epochs=1"]
    flags += ["--models", "mean_lr", "one_hot_lr"]
    assert public_datasets.main(flags) == 0
    # One trial and the second seed, an equal share of the time for each.
    assert trained == [("as configured", 45.0), ("train.seed=1", 45.0)]
    held = json.loads(results.read_text())
    assert [each["model"] for each in held] == ["two_tower", "fit", "mean_lr", "one_hot_lr"]
    two_tower, kept, *lines = held
    assert kept == row("fit", dataset="movielens_1m")
    assert two_tower["seeds"] == 2
    assert two_tower["serving_flops_per_candidate"] == 130
    assert two_tower["parameters"] == two_tower["dense_parameters"] + two_tower["table_parameters"]
    assert two_tower["examples_per_s"] > 0
    assert two_tower["grouped_metric"] == "request AUC"
    for line in lines:
        difference = line["auc_mean"] - two_tower["auc_mean"]
        assert line["diff_vs_two_tower"] == pytest.approx(difference, abs=2e-6)
        assert line["diff_low"] < line["diff_high"]
    out = tmp_path / "out/search/clean_time-tiny-quick"
    assert (out / "figure.png").stat().st_size > 10_000
    assert (out / "table.md").read_text().strip() in capsys.readouterr().out
    assert "train.epochs=1.0" in (out / "table.md").read_text()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["configs"]["two_tower"]["model"]["name"] == "two_tower"
    assert len(list(out.glob("examples-*"))) == 2  # two-tower's serve one-hot regression too

    before = results.read_text()
    assert public_datasets.main(flags) == 0  # nothing is done again
    assert len(trained) == 2
    assert results.read_text() == before

    # Figures of a model that is not the one on disk, and examples of another log, are refused.
    (tested,) = out.glob("two_tower/trials/asconf*/test-*.npz")
    tested.unlink()
    metrics = tested.parent / "run/metrics.jsonl"
    said = metrics.read_text()
    better = {"step": 9, "validation/roc_auc": 0.9999}
    metrics.write_text(said + json.dumps(better) + "\n")
    assert public_datasets.main(flags) == 2
    assert "its best is of step 9" in capsys.readouterr().err
    metrics.write_text(said)
    (log,) = (tmp_path / "out/search").glob("log-*")
    shutil.rmtree(log)
    simulate("tiny", 1, log)
    assert public_datasets.main(flags) == 2
    assert "is not made of" in capsys.readouterr().err


def test_a_model_of_which_nothing_comes_leaves_the_others_alone(tmp_path, monkeypatch):
    def run(model, setting):
        if model == "fit":
            raise InputError("no trial of fit came to anything: exit status 3")
        further = {"parameters": 1, "serving_flops_per_candidate": 2.0, "examples_per_s": 3}
        return [FAIR], {**further, "trials": 1, "chosen": {}, "note": ""}

    class FakeExamples:
        def __init__(self, path):
            pass

        def raw_requests(self, split):
            return pa.table({"user_id": ["a", "b", "b"]})

    monkeypatch.setattr(contenders, "run", run)
    monkeypatch.setattr(contenders.Setting, "examples", lambda self, data: None)
    monkeypatch.setattr(public_datasets, "Examples", FakeExamples)
    setting = contenders.Setting(
        "movielens_1m_published", tmp_path, tmp_path, (0, 1), 2, 1, math.inf, {"train.epochs": 1.0}
    )
    names = ("movielens_1m", "published")
    models = public_datasets.choose_models(["dat", "fit"], "published")
    assert models == ["two_tower", "dat", "fit"]
    rows, failed = public_datasets.compare(names, models, setting, [tmp_path / "results.json"])
    assert [each["model"] for each in rows] == ["two_tower", "dat"]
    assert all(each["leaks"] for each in rows)
    assert [each["overrides"] for each in rows] == [{"train.epochs": 1.0}] * 2
    assert rows[0]["versus"] == rows[1]["versus"] == {}
    assert rows[1]["published_auc"] == 0.8712
    assert rows[1]["grouped_metric"] == "per-user AUC"
    assert rows[1]["grouped_auc_mean"] == pytest.approx((1 + 0.25) / 2)  # users, not requests
    text = public_datasets.report(names, rows, failed, setting)
    assert "LEAKS THE LABEL" in text
    assert "fit has no row: no trial of fit came to anything" in text


def test_published_figures_and_models_are_those_of_the_paper():
    assert public_datasets.PUBLISHED["inttower"] == (0.8974, 0.3128)
    chosen = public_datasets.choose_models(None, "published")
    assert set(chosen) - set(contenders.REFERENCE_LINES) == {
        *("two_tower", "dat", "cold", "inttower", "fit", "interactfit")
    }
    assert public_datasets.choose_models(None, "clean_time") == list(contenders.MODELS)
    setting = contenders.Setting("", None, None, (0, 1, 2, 3, 4), 8, 1, 1.0, {})
    assert [len(setting.seeds_of(model)) for model in ("fit", "deepfm")] == [5, 3]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=movielens_1m", "--protocol=clean_time"], "only by: clean_random, published"),
        (["--dataset=search", "--protocol=clean_time", "--models", "fitt"], "Did you mean 'fit'?"),
        (["--dataset=movielens_1m", "--protocol=published"], "needs --source"),
        (["--dataset=search", "--protocol=clean_time", "--quick", "--json=x"], "--json=x with"),
    ],
)
def test_wrong_flags_are_named(flags, message, tmp_path, capsys):
    assert public_datasets.main([*flags, f"--out={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
