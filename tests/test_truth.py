"""What the simulated truth says must show in the models: the gain comes from where it should."""

import pytest

from interactrank_jax.config import models
from interactrank_jax.evaluation import evaluate
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.log.simulator.simulate import simulate
from interactrank_jax.training.train import train

# Enough for the towers to learn what features explain: with the 50 thousand of the preset, history
# tells them that too, and its gain without any idiosyncratic appeal is more than half of that with.
REQUESTS, EPOCHS = 200_000, 3.0


def gain(root, idiosyncratic: float | None) -> float:
    """InteractRank's request-AUC minus that of its own two towers, on 20 thousand test requests.

    The towers are the same, start from the same weights and see the same batches: what differs is
    the interaction alone, and much of the noise between two trainings is gone from the difference.
    """
    overrides = {} if idiosyncratic is None else {"idiosyncratic": idiosyncratic}
    simulate("small", 0, root / "log", requests=REQUESTS, **overrides)
    prepare(models.interactrank().data, root / "log", root / "examples")
    auc = {}
    for name in ("interactrank", "two_tower"):
        config = models.interactrank()
        config.model.name = name
        config.train.update({"epochs": EPOCHS, "eval_every": 500})
        config.evaluate.update({"bootstrap": 0, "corpus_requests": 10})
        train(config, root / "examples", root / name)
        result = evaluate.evaluate(root / name, root / "examples", "test")
        auc[name] = result["metrics"]["request_auc"]
    return auc["interactrank"] - auc["two_tower"]


@pytest.mark.slow  # trains four models on 1.6 million impressions: about ten minutes on two cores
def test_without_idiosyncratic_appeal_the_gain_of_interactrank_at_least_halves(tmp_path, capsys):
    with_appeal = gain(tmp_path / "with", None)
    without = gain(tmp_path / "without", 0.0)
    with capsys.disabled():
        print(f"\nrequest-AUC gain: {with_appeal:.4f} with idiosyncratic appeal, {without:.4f} not")
    assert with_appeal > 0
    assert without <= 0.5 * with_appeal
