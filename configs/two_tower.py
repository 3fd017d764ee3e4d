"""The vanilla two-tower model (DSSM): MLP towers, histories averaged, no interaction.

    interactrank prepare --config=configs/two_tower.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/two_tower.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Quickstart".
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = common.base_config(argument)
    config.model = common.model_config("two_tower", pooling="mean", masknet_blocks=0)
    common.fit_to_data(config, argument)
    return config
