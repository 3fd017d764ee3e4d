"""Two runs on the same requests: each as by itself, and their differences paired."""

import numpy as np
import pytest

from interactrank_jax import cli, metrics
from interactrank_jax.evaluation import evaluate, uncertainty
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.synthetic import tiny_config


@pytest.fixture(scope="module")
def other_run(tmp_path_factory, examples_path):
    """A run of another model."""
    config = tiny_config("two_tower")
    config.train.update({"max_steps": 2, "eval_every": 2})
    workdir = tmp_path_factory.mktemp("runs") / "two_tower"
    train(config, examples_path, workdir)
    return workdir


@pytest.mark.long  # trains twice
def test_each_run_has_its_own_figures_and_their_differences_are_paired(
    trained_run, other_run, examples_path
):
    alone = [evaluate.evaluate(run, examples_path) for run in (trained_run, other_run)]
    result, other = evaluate.evaluate_pair(trained_run, other_run, examples_path)
    for each, expected in zip((result, other), alone, strict=True):
        assert each["metrics"] == expected["metrics"]
        assert each["intervals"] == expected["intervals"]
    examples = Examples(examples_path)
    of_a, of_b = (Run.open(run).saved_scores(examples, "test") for run in (trained_run, other_run))
    for name in ("roc_auc", "ndcg_at_10"):
        expected = uncertainty.paired_bootstrap(
            *(of_a["request_index"], of_a["score"], of_b["score"], of_a["engaged"], name),
            replicates=int(tiny_config("interactrank").evaluate.bootstrap),
        )
        assert result["differences"][name] == pytest.approx(list(expected), abs=1e-9)
    for name in metrics.METRICS:
        gap = result["metrics"][name] - other["metrics"][name]
        assert result["differences"][name][0] == pytest.approx(gap, abs=1e-9)
    assert result["differences"]["logloss"][1] < result["differences"]["logloss"][2]
    assert "differences" not in other


def test_a_run_does_not_differ_from_itself(trained_run, examples_path):
    result, _ = evaluate.evaluate_pair(trained_run, trained_run, examples_path)
    assert np.array(list(result["differences"].values())).tolist() == [[0, 0, 0]] * len(
        metrics.METRICS
    )


@pytest.mark.long  # trains a model for itself
def test_the_command_prints_and_writes_both(
    trained_run, other_run, examples_path, tmp_path, capsys
):
    flags = [f"--examples={examples_path}", f"--json={tmp_path / 'both.json'}"]
    pair = [f"--workdir={trained_run}", f"--against={other_run}"]
    assert cli.main(["evaluate", *pair, *flags]) == 0
    output = capsys.readouterr().out
    assert f"interactrank in {trained_run} minus two_tower in {other_run}" in output
    first, second = files.read_json(tmp_path / "both.json")
    assert set(first["differences"]) == set(metrics.METRICS)
    assert second["requests"] == first["requests"]
    for wrong in ([pair[1], "--scores=x.csv", pair[0]], [pair[1]]):
        assert cli.main(["evaluate", *wrong, *flags]) == 2
        assert "--against" in capsys.readouterr().err


@pytest.mark.long  # two trainings
def test_runs_that_learned_other_labels_are_not_compared(trained_run, examples_path, tmp_path):
    config = tiny_config("two_tower")
    config.label.positive = ("save",)
    config.train.update({"max_steps": 1, "eval_every": 1})
    train(config, examples_path, tmp_path / "run")
    with pytest.raises(InputError, match=r"what counts as engaged .* runs of one config\.label"):
        evaluate.evaluate_pair(trained_run, tmp_path / "run", examples_path)
