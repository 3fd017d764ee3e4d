"""COLD: one network over user, item and cross features, each weighed by its importance.

    interactrank prepare --config=configs/cold.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/cold.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :search, preset medium, 5 seeds
        ROC-AUC 0.6795 ± 0.0003, request AUC 0.6556, log loss 0.4643, 32,789 examples/s
        with train.epochs=1.0
    :movielens_100k_random, 5 seeds
        ROC-AUC 0.8695 ± 0.0012, per-user AUC 0.8044, log loss 0.3739, 43,989 examples/s
        with tables.learning_rate=0.03, model.l2=0.01, optimizer.learning_rate=0.015,
        tower.dropout=0.0
    :movielens_100k, 5 seeds
        ROC-AUC 0.7860 ± 0.0021, request AUC 0.7490, log loss 0.4422, 151,771 examples/s
        with tables.learning_rate=0.015, optimizer.learning_rate=0.009
    :movielens_1m, 5 seeds
        ROC-AUC 0.8974 ± 0.0005, per-user AUC 0.8342, log loss 0.3168, 8,020 examples/s
        with model.l2=0.01
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.cold(argument)
