"""The implementations that share nothing with the package, on data whose answer is known."""

import json

import numpy as np
import pytest

from experiments import independent
from interactrank_jax.examples.format import Examples


def made_up(seed, count=6000):
    """Rows whose label neither user nor item alone says anything about, only both together."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 20, count), rng.integers(0, 30, count)
    return independent.Rows(
        ids=np.stack([user, item], 1),
        numbers=np.zeros((count, 1), np.float32),
        history=np.zeros((count, 2, 2), np.int32),
        label=((user + item) % 2 == 0).astype(np.uint8),
    )


@pytest.mark.long  # trains three models
@pytest.mark.parametrize("model", ["mf", "cold", "dcn"])
def test_each_learns_what_only_a_pair_says(model):
    splits = {split: made_up(seed) for seed, split in enumerate(independent.SPLITS)}
    settings = independent.Settings(model, rate=0.02, l2=0.0, dropout=0.1)
    assert min(independent.train(settings, splits, seed=0)) > 0.95


def test_rows_are_those_of_a_loop_over_slates(examples_path):
    examples = Examples(examples_path)
    rows = independent.read_rows(examples)["validation"]
    expected = [
        (block["user"][slate], block["item"][slate, place], block["actions"][slate, place, 0])
        for block in examples.blocks("validation")
        for slate, place in np.argwhere(block["mask"])
    ]
    assert list(zip(rows.ids[:, 0], rows.ids[:, 1], rows.label, strict=True)) == expected


@pytest.mark.thorough  # five trainings
def test_the_command_tests_the_best_trial_with_every_seed(examples_path, capsys, monkeypatch):
    monkeypatch.setattr(independent, "EPOCHS", 2)
    arguments = [f"--examples={examples_path}", "--model=cold", "--dot", "--trials=2"]
    assert independent.main([*arguments, "--seeds", "3", "4"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    best = max(line["validation"] for line in lines[:2])
    assert [line["seed"] for line in lines[2:]] == [3, 4]
    assert lines[2]["validation"] == best
    assert 0 < lines[2]["test"] < 1
