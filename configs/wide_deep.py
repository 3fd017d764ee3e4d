"""Wide&Deep: a linear model of all inputs beside an MLP of their embeddings.

    interactrank prepare --config=configs/wide_deep.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/wide_deep.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return joint_config("wide_deep", argument)


def joint_config(name: str, argument: str) -> ConfigDict:
    """Returns what the models that run a network for each pair share.

    Of `model.tower` they read numeric_views, hidden, layer_norm and dropout.
    """
    config = common.base_config(argument)
    config.model = common.model_config(name, pooling="mean", masknet_blocks=0)
    config.model.cross = ConfigDict({"transform": "log" if argument == "search" else "linear"})
    config.model.tower.dropout = 0.1
    # As in their papers. DeepFM on MovieLens-100K, validation, two seeds: .8688, with it .8682.
    config.model.tower.layer_norm = False
    config.model.l2 = 0.0
    # Every request with the items of the whole batch would be a network run for each of them.
    config.train.loss.softmax_weight = 0.0
    config.evaluate.corpus_requests = 200
    common.fit_to_data(config, argument)
    if argument in ("movielens_100k_random", "movielens_1m"):
        # ROC-AUC on validation of MovieLens-100K, one seed: DeepFM .861 to .868, COLD .853 to .857.
        config.model.l2 = 0.03
        config.train.epochs = 5.0
        config.train.optimizer.learning_rate = 5e-3
        config.train.tables.update({"name": "adam", "learning_rate": 0.01, "decay": "cosine"})
    return config
