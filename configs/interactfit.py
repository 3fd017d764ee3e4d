"""InteractFIT: FIT's learned interaction, with ItemQueryPerf and InteractRank's towers.

    interactrank prepare --config=configs/interactfit.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/interactfit.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :search, preset medium, 5 seeds
        ROC-AUC 0.6843 ± 0.0014, request AUC 0.6598, log loss 0.4709, 13,360 examples/s
        with train.epochs=1.0
    :movielens_100k_random, 5 seeds
        ROC-AUC 0.8794 ± 0.0018, per-user AUC 0.8192, log loss 0.3670, 16,559 examples/s
        with loss.softmax_weight=1.0, tables.learning_rate=0.009
    :movielens_100k, 5 seeds
        ROC-AUC 0.7798 ± 0.0037, request AUC 0.7427, log loss 0.4474, 52,818 examples/s
        with tables.learning_rate=0.015, optimizer.learning_rate=0.009
    :movielens_1m, 5 seeds
        ROC-AUC 0.9050 ± 0.0005, per-user AUC 0.8435, log loss 0.3068, 5,335 examples/s
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.interactfit(argument)
