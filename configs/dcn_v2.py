"""DCN-V2: a cross network beside an MLP.

    interactrank prepare --config=configs/dcn_v2.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/dcn_v2.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :movielens_100k_random, 3 seeds
        ROC-AUC 0.8722 ± 0.0004, per-user AUC 0.8021, log loss 0.3690, 21,541 examples/s
        with tables.learning_rate=0.03, model.l2=0.09, tower.dropout=0.0
    :movielens_100k, 3 seeds
        ROC-AUC 0.7868 ± 0.0021, request AUC 0.7601, log loss 0.4440, 67,579 examples/s
        with tables.learning_rate=0.00167, optimizer.learning_rate=0.009
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.dcn_v2(argument)
