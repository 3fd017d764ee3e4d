"""Logistic regression: a weight per id, numbers and cross features linear.

    interactrank prepare --config=configs/lr.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/lr.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = common.base_config(argument)
    config.model = common.model_config("lr", pooling="none", masknet_blocks=0)
    is_search = argument == "search"
    config.model.cross = ConfigDict(
        {"transform": "log" if is_search else "linear", "weight_init": 0.0}
    )
    config.model.tower.numeric_views = ("gaussian",)
    config.train.loss.softmax_weight = 0.0
    common.fit_to_data(config, argument)
    if argument in ("movielens_100k_random", "movielens_1m"):
        config.train.tables.update({"name": "adam", "learning_rate": 0.01, "decay": "cosine"})
    return config
