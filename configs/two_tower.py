"""The vanilla two-tower model (DSSM): MLP towers, histories averaged, no interaction.

    interactrank train --config=configs/two_tower.py --examples=EXAMPLES --workdir=RUN

Arguments: search (default), movielens_100k, movielens_1m.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = common.base_config(argument)
    config.model = ConfigDict(
        {
            "name": "two_tower",
            "exclude": (),  # embedded features the model shall not see
            "embedding_dim": 32,
            "embedding_scale": 0.05,
            "sequence": {
                "features": ("item_id",),
                "history": "mean",
                "query_history": "mean",
            },
            "tower": common.tower_config((256, 128), masknet_blocks=0),
            "dot_weight_init": 5.0,
        }
    )
    return config
