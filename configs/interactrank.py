"""InteractRank: two towers with real-time sequences, and ItemQueryPerf beside the dot product.

    interactrank train --config=configs/interactrank.py --examples=EXAMPLES --workdir=RUN

Arguments: search (default), movielens_100k, movielens_1m.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = common.base_config(argument)
    config.model = ConfigDict(
        {
            "name": "interactrank",
            "exclude": (),  # embedded features the model shall not see
            "embedding_dim": 32,
            "embedding_scale": 0.05,
            "sequence": {
                "features": ("item_id",),
                "history": "interactrank",
                "query_history": "interactrank",
                "action": True,
                "age_buckets": 16,
                "weighted_pooling": True,
                "query_attention": True,
            },
            "tower": common.tower_config((256, 128), masknet_blocks=4),
            "dot_weight_init": 5.0,
            "cross": {"transform": "log", "weight_init": 0.1},
        }
    )
    return config
