"""DCN-V2: a cross network beside an MLP.

    interactrank prepare --config=configs/dcn_v2.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/dcn_v2.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from configs import wide_deep


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = wide_deep.joint_config("dcn_v2", argument)
    config.model.cross_layers = 2
    return config
