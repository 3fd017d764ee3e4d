"""What the simulated truth says must show in the models: the gain comes from where it should."""

import numpy as np
import pytest

from configs import interactrank, two_tower
from interactrank_jax import evaluate
from interactrank_jax.data.prepare import prepare
from interactrank_jax.data.simulate import simulate
from interactrank_jax.train import train

SEEDS = (0, 1)


def gain(root, idiosyncratic: float | None) -> float:
    """InteractRank's request-AUC minus the two-tower's on the test split, mean over seeds."""
    overrides = {} if idiosyncratic is None else {"idiosyncratic": idiosyncratic}
    simulate("small", 0, root / "log", **overrides)
    prepare(interactrank.get_config().data, root / "log", root / "examples")
    gains = []
    for seed in SEEDS:
        auc = {}
        for name, module in (("interactrank", interactrank), ("two_tower", two_tower)):
            config = module.get_config()
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
