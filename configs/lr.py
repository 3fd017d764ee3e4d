"""Logistic regression: a weight per id, numbers and cross features linear.

    interactrank prepare --config=configs/lr.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/lr.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :movielens_100k_random, 3 seeds
        ROC-AUC 0.8523 ± 0.0004, per-user AUC 0.7793, log loss 0.3897, 91,288 examples/s
        with optimizer.learning_rate=0.009
    :movielens_100k, 3 seeds
        ROC-AUC 0.7784 ± 0.0003, request AUC 0.7367, log loss 0.4499, 594,067 examples/s
        with tables.learning_rate=0.015, optimizer.learning_rate=0.009
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.lr(argument)
