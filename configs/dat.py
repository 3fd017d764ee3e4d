"""DAT: two towers whose augmented id vectors mimic the output of the other tower.

    interactrank prepare --config=configs/dat.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/dat.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :search, preset medium, 5 seeds
        ROC-AUC 0.6663 ± 0.0002, request AUC 0.6377, log loss 0.4693, 36,457 examples/s
        with train.epochs=1.0, loss.softmax_weight=0.1, loss.log_q=none
    :movielens_100k_random, 5 seeds
        ROC-AUC 0.8750 ± 0.0012, per-user AUC 0.8079, log loss 0.3698, 35,252 examples/s
        with tables.learning_rate=0.001
    :movielens_100k, 5 seeds
        ROC-AUC 0.7616 ± 0.0026, request AUC 0.7074, log loss 0.4650, 142,742 examples/s
        with tables.learning_rate=0.015, tower.dropout=0.0
    :movielens_1m, 5 seeds
        ROC-AUC 0.9017 ± 0.0004, per-user AUC 0.8406, log loss 0.3081, 11,445 examples/s
        with loss.softmax_weight=0.01
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.dat(argument)
