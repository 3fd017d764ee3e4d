"""DAT: two towers, each with a vector per id that has learned what the other tower makes of it.

    interactrank prepare --config=configs/dat.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/dat.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = common.base_config(argument)
    config.model = common.model_config("dat", pooling="mean", masknet_blocks=0)
    # What a query's engaged items look like says more than what its searcher's do. Where users are
    # left out, the query is a segment of them.
    request = "query_id" if argument in ("search", "movielens_100k") else "user_id"
    config.model.augment = ConfigDict({"request": request})
    config.model.mimic_weight = 0.5
    common.fit_to_data(config, argument)
    return config
