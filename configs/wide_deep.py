"""Wide&Deep: a linear model of all inputs beside an MLP of their embeddings.

    interactrank prepare --config=configs/wide_deep.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/wide_deep.py --examples=EXAMPLES --workdir=RUN

Arguments: the data sets of `interactrank_jax/config/data_sets.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.wide_deep(argument)
