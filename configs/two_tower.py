"""The vanilla two-tower model (DSSM): MLP towers, histories averaged, no interaction.

    interactrank prepare --config=configs/two_tower.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/two_tower.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :search, preset medium, 5 seeds
        ROC-AUC 0.6658 ± 0.0005, request AUC 0.6373, log loss 0.4694, 41,784 examples/s
        with train.epochs=1.0, loss.softmax_weight=0.1, loss.log_q=none
    :movielens_100k_random, 5 seeds
        ROC-AUC 0.8751 ± 0.0006, per-user AUC 0.8106, log loss 0.3722, 41,030 examples/s
        with tables.learning_rate=0.009
    :movielens_100k, 5 seeds
        ROC-AUC 0.7609 ± 0.0028, request AUC 0.7144, log loss 0.4643, 249,891 examples/s
        with tables.learning_rate=0.015, optimizer.learning_rate=0.009, tower.dropout=0.0
    :movielens_1m, 5 seeds
        ROC-AUC 0.9014 ± 0.0002, per-user AUC 0.8386, log loss 0.3087, 14,971 examples/s
        with loss.softmax_weight=0.01
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.two_tower(argument)
