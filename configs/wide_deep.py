"""Wide&Deep: a linear model of all inputs beside an MLP of their embeddings.

    interactrank prepare --config=configs/wide_deep.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/wide_deep.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :movielens_100k_random, 3 seeds
        ROC-AUC 0.8721 ± 0.0004, per-user AUC 0.8027, log loss 0.3667, 36,420 examples/s
        with tables.learning_rate=0.03, optimizer.learning_rate=0.015, tower.dropout=0.0
    :movielens_100k, 3 seeds
        ROC-AUC 0.7839 ± 0.0004, request AUC 0.7447, log loss 0.4446, 138,899 examples/s
        with tables.learning_rate=0.015, optimizer.learning_rate=0.009
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.wide_deep(argument)
