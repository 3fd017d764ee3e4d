"""AutoInt: self-attention over fields beside an MLP (the paper's AutoInt+).

    interactrank prepare --config=configs/autoint.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/autoint.py --examples=EXAMPLES --workdir=RUN

Arguments: the data sets of `interactrank_jax/config/data_sets.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.autoint(argument)
