"""IntTower: gated fields, heads of every layer compared with the item's, a contrast in the batch.

    interactrank prepare --config=configs/inttower.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/inttower.py --examples=EXAMPLES --workdir=RUN

Arguments: the data sets of `interactrank_jax/config/data_sets.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".

The authors' public PyTorch code has, for MovieLens-1M, towers and heads of another size:
`--config.model.tower.hidden=(300,300,300) --config.model.fe.heads=32 --config.model.fe.width=64`,
a step then takes ten times as long on CPU. These settings, and those of the argument
`movielens_1m_published`, are of the one version of that code that we read, and differ between
versions of it; that they are the ones behind the paper's figures is not known.
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.inttower(argument)
