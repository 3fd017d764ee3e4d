"""A run's best model is calibrated on validation, whenever the run ends; no other split is used."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from interactrank_jax import metrics
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation import tables
from interactrank_jax.evaluation.evaluate import evaluate
from interactrank_jax.evaluation.platt import fit_calibration
from interactrank_jax.evaluation.rows import Rows
from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs import best
from interactrank_jax.runs.run import Run
from interactrank_jax.training import checkpoint
from interactrank_jax.training.train import train
from tests.faults.forging import at, reseal
from tests.synthetic import tiny_config, without_blocks

pytestmark = pytest.mark.long  # trains a model for itself


class Killed(BaseException):
    """What no handler catches."""


@pytest.fixture(scope="module")
def config():
    """A run of four validations, each of which is the best so far."""
    config = tiny_config("two_tower")
    without_blocks(config)
    config.train.update({"max_steps": 8, "eval_every": 2, "checkpoint_every": 4, "patience": 0})
    config.train.select_by = "logloss"
    config.train.tables.initial_accumulator = 0.1
    return config


@pytest.fixture(scope="module")
def run(config, examples_path, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("calibrated") / "run"
    train(config, examples_path, workdir)
    return Run.open(workdir)


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run.workdir, tmp_path / "copy"))


def rows_of(run, examples, split):
    model, _ = run.restore_model()
    parallel = DataParallel("pmap")
    scorer = ModelScorer(run, examples, split, parallel).use(parallel.replicate(model))
    return scorer, Rows(scorer, examples, split, 32)


def file_of(workdir):
    (path,) = (Path(workdir) / "best").glob("[0-9]*")
    return path / best.CALIBRATION.file


def test_it_is_the_fit_to_the_best_models_validation_rows(run, examples_path):
    examples = Examples(examples_path)
    scorer, rows = rows_of(run, examples, "validation")
    expected = fit_calibration(rows.logits, run.rule.labels(rows.actions), scorer.prior)
    calibration = run.calibration(run.restore_model()[1])
    assert calibration.fitted == expected.fitted == (True, True)
    assert calibration.offsets == run.prior_offsets()
    np.testing.assert_allclose(calibration.scale, expected.scale, rtol=1e-5)
    np.testing.assert_allclose(calibration.bias, expected.bias, atol=1e-5)


def test_the_log_loss_that_training_watches_is_that_of_evaluation(copy, examples_path):
    result = evaluate(copy, examples_path, "validation")
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").open()]
    of_step = {line["step"]: line for line in lines if "validation/logloss" in line}
    watched = of_step[result["step"]]["validation/logloss"]
    assert result["metrics"]["logloss"] == pytest.approx(watched, abs=1e-6)
    assert result["references"]["constant"]["metrics"]["logloss"] >= watched - 1e-6


def test_evaluation_of_a_split_fits_nothing(copy, examples_path):
    before = file_of(copy).read_bytes()
    result = evaluate(copy, examples_path, "test")
    assert file_of(copy).read_bytes() == before
    opened = Run.open(copy)
    calibration = opened.calibration(result["step"])
    _, rows = rows_of(opened, Examples(examples_path), "test")
    logits = calibration.logits(rows.logits)[:, 0]
    engaged = opened.rule.engaged(rows.actions)
    assert result["metrics"]["logloss"] == pytest.approx(metrics.logloss(logits, engaged))
    raw = metrics.roc_auc(rows.logits[:, 0], engaged)
    assert result["heads"]["engaged"]["roc_auc"][0] == raw
    assert result["calibration"] == calibration.to_json()
    words = f"engaged {calibration.scale[0]:.3f} (logit {-calibration.offsets[0]:+.3f})"
    assert words in tables.report([result])


@pytest.mark.long  # two trainings
def test_a_run_that_was_killed_before_it_was_calibrated(
    tmp_path, config, run, examples_path, monkeypatch, caplog
):
    """Its model is used with the prior correction alone; going on it ends as any other."""
    write, calls = checkpoint.write_calibration, []

    def killed(path, calibration):
        calls.append(path)
        if len(calls) == 2:
            raise Killed
        write(path, calibration)

    monkeypatch.setattr(checkpoint, "write_calibration", killed)
    with pytest.raises(Killed):
        train(config, examples_path, tmp_path / "run")
    monkeypatch.undo()
    opened = Run.open(tmp_path / "run")
    _, step = opened.restore_model()
    assert opened.calibration(step) == opened.prior_correction()
    assert "has no calibration.json" in caplog.text
    result = evaluate(tmp_path / "run", examples_path)
    assert result["calibration"]["fitted"] == [False, False]
    assert "engaged logit -" in tables.report([result]) or "logit +" in tables.report([result])
    assert "not fitted on validation" in tables.report([result])

    train(config, examples_path, tmp_path / "run")
    assert file_of(tmp_path / "run").read_bytes() == file_of(run.workdir).read_bytes()
    best.verify(file_of(tmp_path / "run").parent)
    before = file_of(tmp_path / "run").stat().st_mtime_ns
    train(config, examples_path, tmp_path / "run")  # nothing is left to do
    assert file_of(tmp_path / "run").stat().st_mtime_ns == before


def test_only_the_first_process_writes_it(run, tmp_path, monkeypatch):
    checkpoints = object.__new__(checkpoint.Checkpoints)
    checkpoints._root, checkpoints._is_proven = tmp_path, True
    state = type("State", (), {"step": 3, "params": {}, "tables": {}})
    checkpoints._best = type("Manager", (), {"latest_step": lambda self: 3})()
    (tmp_path / "best" / "3").mkdir(parents=True)
    for process, is_written in ((1, False), (0, True)):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        checkpoints.save_best(state, run.prior_correction())
        assert file_of(tmp_path).exists() == is_written


def test_a_calibration_that_does_not_fit_is_refused(copy):
    opened = Run.open(copy)
    _, step = opened.restore_model()
    reseal(file_of(copy), at("calibration", "scale", [0.0, 1.0]))
    with pytest.raises(InputError, match=r"calibration\.json: the calibration is .*scales > 0"):
        opened.calibration(step)
    reseal(file_of(copy), lambda value: value.update(format_version=7))
    with pytest.raises(InputError, match=r"format_version is 7, expected 1.*train"):
        opened.calibration(step)
    with pytest.raises(InputError, match=r"calibration\.json is damaged"):
        opened.restore_model()
    with pytest.raises(InputError, match="found a better model since"):
        opened.calibration(step + 1)


@pytest.mark.long  # a training
def test_a_validation_with_too_few_positives_leaves_a_head_as_it_is(
    tmp_path, config, examples_path, monkeypatch, caplog
):
    from interactrank_jax.evaluation import platt

    monkeypatch.setattr(platt, "LEAST_OF_CLASS", 10_000)
    platt.say_why_not.cache_clear()
    with caplog.at_level("INFO"):
        train(config, examples_path, tmp_path / "run")
    assert "head 'engaged' is not calibrated on validation" in caplog.text
    opened = Run.open(tmp_path / "run")
    assert opened.calibration(opened.restore_model()[1]) == opened.prior_correction()
    assert file_of(tmp_path / "run").exists()
