"""InteractRank: two towers with real-time sequences, and ItemQueryPerf beside the dot product.

    interactrank prepare --config=configs/interactrank.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/interactrank.py --examples=EXAMPLES --workdir=RUN

Arguments: the data sets of `interactrank_jax/config/data_sets.py`.
Hardware, time and expected metrics: README, "Quickstart" and "MovieLens".
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.interactrank(argument)
