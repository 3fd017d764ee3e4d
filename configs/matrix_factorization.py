"""Matrix factorisation, 16 factors and biases: the reference line of every table.

    interactrank prepare --config=configs/matrix_factorization.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/matrix_factorization.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :search, preset medium, 5 seeds
        ROC-AUC 0.6505 ± 0.0002, request AUC 0.6289, log loss 0.4743, 423,984 examples/s
        with train.epochs=1.0
    :movielens_100k_random, 5 seeds
        ROC-AUC 0.8733 ± 0.0011, per-user AUC 0.8042, log loss 0.3691, 119,220 examples/s
        with optimizer.learning_rate=0.001
    :movielens_100k, 5 seeds
        ROC-AUC 0.7783 ± 0.0022, request AUC 0.7379, log loss 0.4485, 419,798 examples/s
        with optimizer.learning_rate=0.003
    :movielens_1m, 5 seeds
        ROC-AUC 0.9001 ± 0.0003, per-user AUC 0.8363, log loss 0.3119, 160,482 examples/s
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.matrix_factorization(argument)
