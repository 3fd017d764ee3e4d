"""What the simulated truth says must show in the models: the gain comes from where it should."""

import numpy as np
import pytest

from configs import interactrank
from interactrank_jax import evaluate
from interactrank_jax.data.prepare import prepare
from interactrank_jax.data.simulate import simulate
from interactrank_jax.train import train

SEEDS = (0, 1)


def gain(root, idiosyncratic: float | None) -> float:
    """InteractRank's request-AUC minus that of its own two towers, on test, mean over seeds.

    The towers are the same, start from the same weights and see the same batches: what differs is
    the interaction alone, and much of the noise between two trainings is gone from the difference.
    """
    overrides = {} if idiosyncratic is None else {"idiosyncratic": idiosyncratic}
    simulate("small", 0, root / "log", **overrides)
    prepare(interactrank.get_config().data, root / "log", root / "examples")
    gains = []
    for seed in SEEDS:
        auc = {}
        for name in ("interactrank", "two_tower"):
            config = interactrank.get_config()
            config.model.name = name
            config.train.seed = seed
            config.evaluate.bootstrap = 0
            workdir = root / f"{name}-{seed}"
            train(config, root / "examples", workdir)
            result = evaluate.evaluate(workdir, root / "examples", "test")
            auc[name] = result["metrics"]["request_auc"]
        gains.append(auc["interactrank"] - auc["two_tower"])
    return float(np.mean(gains))


@pytest.mark.slow  # trains eight models on the small preset: about twelve minutes on two cores
def test_without_idiosyncratic_appeal_the_gain_of_interactrank_at_least_halves(tmp_path, capsys):
    with_appeal = gain(tmp_path / "with", None)
    without = gain(tmp_path / "without", 0.0)
    with capsys.disabled():
        print(f"\nrequest-AUC gain: {with_appeal:.4f} with idiosyncratic appeal, {without:.4f} not")
    assert with_appeal > 0
    assert without <= 0.5 * with_appeal
