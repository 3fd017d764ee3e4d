"""Contenders: a trained model is evaluated once, and its scores are those of its step."""

import shutil
import types
from pathlib import Path

import numpy as np
import pytest

from experiments import contenders
from interactrank_jax import metrics
from interactrank_jax.evaluation import evaluate as evaluation
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run


@pytest.fixture
def evaluations(monkeypatch):
    """Counts the models that are evaluated."""
    workdirs = []
    evaluate = evaluation.evaluate

    def counted(workdir, examples):
        workdirs.append(workdir)
        return evaluate(workdir, examples)

    monkeypatch.setattr(evaluation, "evaluate", counted)
    return workdirs


@pytest.mark.long  # trains a model for itself
def test_a_model_is_evaluated_once(trained_run, examples_path, tmp_path, evaluations):
    shutil.copytree(trained_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/eval", ignore_errors=True)
    _, step = Run.open(tmp_path / "run").restore_model()
    trial = types.SimpleNamespace(workdir=tmp_path / "run", examples=Path(examples_path))
    outcome = types.SimpleNamespace(trial=trial, best=(step, {}))
    first = contenders.evaluated(outcome)
    second = contenders.evaluated(outcome)
    assert len(evaluations) == 1
    np.testing.assert_equal(second, first)
    scored = contenders.saved_scores(outcome, 0.5)
    auc = metrics.roc_auc(scored.score, scored.engaged)
    assert auc == pytest.approx(first["metrics"]["roc_auc"])
    # What is of another step, or of other examples, is not taken for it.
    file = tmp_path / "run/eval/test.json"
    for name, value in (("step", step + 1), ("examples_digest", "another")):
        files.write_json(file, {**files.read_json(file), name: value})
        np.testing.assert_equal(contenders.evaluated(outcome), first)
    assert len(evaluations) == 3
    arrays = dict(np.load(tmp_path / "run/eval/test.npz"))
    np.savez(tmp_path / "run/eval/test.npz", **{**arrays, "examples": np.array("another")})
    with pytest.raises(InputError, match="has scores of other examples"):
        contenders.saved_scores(outcome, 0.5)
