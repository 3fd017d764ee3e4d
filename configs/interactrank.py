"""InteractRank: two towers with real-time sequences, and ItemQueryPerf beside the dot product.

    interactrank prepare --config=configs/interactrank.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/interactrank.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :search, preset medium, 5 seeds
        ROC-AUC 0.6762 ± 0.0006, request AUC 0.6507, log loss 0.4777, 25,751 examples/s
        with train.epochs=1.0, loss.softmax_weight=0.1, loss.log_q=none
    :movielens_100k_random, 5 seeds
        ROC-AUC 0.8778 ± 0.0013, per-user AUC 0.8114, log loss 0.3673, 37,948 examples/s
        with tables.learning_rate=0.009
    :movielens_100k, 5 seeds
        ROC-AUC 0.7840 ± 0.0057, request AUC 0.7412, log loss 0.4442, 169,918 examples/s
        with tables.learning_rate=0.00167, optimizer.learning_rate=0.009
    :movielens_1m, 5 seeds
        ROC-AUC 0.9028 ± 0.0007, per-user AUC 0.8421, log loss 0.3070, 14,336 examples/s
        with loss.softmax_weight=0.01
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.interactrank(argument)
