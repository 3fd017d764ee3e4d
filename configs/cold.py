"""COLD: one network over user, item and cross features, each weighed by its importance.

    interactrank prepare --config=configs/cold.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/cold.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from configs import wide_deep


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return wide_deep.joint_config("cold", argument)
