"""IntTower: gated fields (Light-SE), heads of every layer (FE-block), an in-batch contrastive loss.

    interactrank prepare --config=configs/inttower.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/inttower.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

The authors' public PyTorch code has, for MovieLens-1M, towers and heads of another size:
`--config.model.tower.hidden=(300,300,300) --config.model.fe.heads=32 --config.model.fe.width=64`,
a step then takes ten times as long on CPU. These settings, and those of the argument
`movielens_1m_published`, are of the one version of that code that we read, and differ between
versions of it; that they are the ones behind the paper's figures is not known.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :search, preset medium, 5 seeds
        ROC-AUC 0.6770 ± 0.0003, request AUC 0.6495, log loss 0.4694, 43,528 examples/s
        with train.epochs=1.0
    :movielens_100k_random, 5 seeds
        ROC-AUC 0.8749 ± 0.0024, per-user AUC 0.8121, log loss 0.3671, 37,887 examples/s
        with loss.log_q=counts, tables.learning_rate=0.001
    :movielens_100k, 5 seeds
        ROC-AUC 0.7450 ± 0.0033, request AUC 0.6929, log loss 0.4715, 171,497 examples/s
        with loss.log_q=counts, loss.softmax_weight=1.0, tables.learning_rate=0.015,
        optimizer.learning_rate=0.009
    :movielens_1m, 5 seeds
        ROC-AUC 0.9048 ± 0.0003, per-user AUC 0.8442, log loss 0.3040, 13,747 examples/s
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.inttower(argument)
