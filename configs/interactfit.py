"""InteractFIT: FIT's learned interaction, with ItemQueryPerf and InteractRank's towers.

    interactrank prepare --config=configs/interactfit.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/interactfit.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`. Hardware and time: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from configs import fit, interactrank


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = interactrank.get_config(argument)
    config.model.name = "interactfit"
    fit.add_fit(config, argument)
    return config
