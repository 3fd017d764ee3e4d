"""AutoInt: self-attention over fields beside an MLP (the paper's AutoInt+).

    interactrank prepare --config=configs/autoint.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/autoint.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :movielens_100k_random, 3 seeds
        ROC-AUC 0.8710 ± 0.0006, per-user AUC 0.8076, log loss 0.3710, 3,985 examples/s
        with tables.learning_rate=0.03, model.l2=0.01, tower.dropout=0.0
    :movielens_100k, 3 seeds
        ROC-AUC 0.7891 ± 0.0031, request AUC 0.7531, log loss 0.4417, 8,918 examples/s
        with tables.learning_rate=0.00167, optimizer.learning_rate=0.009
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.autoint(argument)
