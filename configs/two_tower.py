"""The vanilla two-tower model (DSSM): MLP towers, histories averaged, no interaction.

    interactrank prepare --config=configs/two_tower.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/two_tower.py --examples=EXAMPLES --workdir=RUN

Arguments: the data sets of `interactrank_jax/config/data_sets.py`.
Hardware, time and expected metrics: README, "Quickstart".
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.two_tower(argument)
