"""No model is worth less than what it is given: trained briefly, tested on the simulated log."""

import pytest

from interactrank_jax.evaluation.evaluate import evaluate
from interactrank_jax.examples.format import Examples
from interactrank_jax.models.registry import MODELS
from interactrank_jax.training.train import train
from tests.synthetic import tiny_config, without_blocks

ECE = 0.06  # of 15 bins of few rows: all models have .02 to .045 here, .01 on a longer log
SEES_CROSS = [name for name, entry in MODELS.items() if entry.model.uses_cross]


@pytest.mark.thorough  # a training of each model, most of which is to compile it
@pytest.mark.parametrize("name", MODELS)
def test_no_model_lies_below_the_reference_lines(name, tiny_examples, tmp_path):
    """By more than the paired interval; those without cross features are held to the constant."""
    config = tiny_config(name)
    without_blocks(config)
    config.data = Examples(tiny_examples).metadata.config
    config.label.update({"heads": ("engaged",), "utility": (1.0,)})
    config.train.loss.head_weights = (20.0,)
    config.train.update({"batch_size": 64, "max_steps": 50, "eval_every": 25})
    config.train.checkpoint_every = 50
    for part in ("optimizer", "tables"):
        config.train[part].warmup_steps = 5
    train(config, tiny_examples, tmp_path / "run")
    result = evaluate(tmp_path / "run", tiny_examples)
    assert result["calibration"]["fitted"] == [True]
    assert result["metrics"]["logloss"] <= result["references"]["constant"]["metrics"]["logloss"]
    assert result["heads"]["engaged"]["ece"][0] < ECE
    words = [line for line in result["below"] if "constant, which has logloss" in line]
    assert not (result["below"] if name in SEES_CROSS else words)
