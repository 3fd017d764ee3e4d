"""Logistic regression: a weight per id, numbers and cross features linear.

    interactrank prepare --config=configs/lr.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/lr.py --examples=EXAMPLES --workdir=RUN

Arguments: the data sets of `interactrank_jax/config/data_sets.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.lr(argument)
