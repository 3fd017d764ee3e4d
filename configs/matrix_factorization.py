"""Matrix factorisation, 16 factors and biases: the reference line of every table.

    interactrank prepare --config=configs/matrix_factorization.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/matrix_factorization.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = common.base_config(argument)
    config.model = common.model_config("matrix_factorization", pooling="none", masknet_blocks=0)
    config.model.only = ("user_id", "item_id")
    config.model.embedding_dim = 16
    config.model.l2 = 0.02 if argument.startswith("movielens_100k") else 0.01
    if argument == "movielens_100k":
        # Ids are all that it has. On validation, one seed: .751, and .719 where items of less than
        # 30 ratings share rows.
        config.data.vocabulary.min_count = 2
    config.train.epochs = 10.0
    config.train.tables.update({"name": "adam", "learning_rate": 0.01, "decay": "cosine"})
    config.train.loss.softmax_weight = 0.0
    return config
