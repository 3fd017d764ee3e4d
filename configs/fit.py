"""FIT: meta queries inside the user tower, and a small network over heads in place of the dot.

    interactrank prepare --config=configs/fit.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/fit.py --examples=EXAMPLES --workdir=RUN

Argument: a data set of `interactrank_jax/config/data_sets.py`, as in FILE:movielens_100k.

Switches: model.meta.vectors=0 (no meta queries) and model.meta.attention_hidden=0 (no target
attention), each with a pooling other than 'target' in model.sequence.history;
model.late.user_heads=0 (a dot product). What each is worth: experiments/fit_ablation.py.
model.meta.attention_softmax=True normalizes the attention weights, which by default do not sum to
one, as in DIN. ROC-AUC on validation of MovieLens-100K, clean_random, seeds 0 and 1: .8679 and
.8695 without the softmax, .8685 and .8664 with it; in towers without layer norms .8710 and .8664
without, .8694 and .8650 with it.

Expected on the test split, mean ± deviation over seeds; docs/results.md says by which code.
Hardware: two CPU cores of a shared machine, two trainings at once. Time: training
examples/s, that is candidates. Not measured: seconds of whole runs, GPUs and TPUs.

    :search, preset medium, 5 seeds
        ROC-AUC 0.6772 ± 0.0009, request AUC 0.6495, log loss 0.4653, 17,055 examples/s
        with train.epochs=1.0
    :movielens_100k_random, 5 seeds
        ROC-AUC 0.8794 ± 0.0026, per-user AUC 0.8220, log loss 0.3655, 14,464 examples/s
        with loss.softmax_weight=1.0, loss.log_q=none, tables.learning_rate=0.009
    :movielens_100k, 5 seeds
        ROC-AUC 0.7560 ± 0.0052, request AUC 0.7095, log loss 0.4691, 95,745 examples/s
        with tables.learning_rate=0.015, optimizer.learning_rate=0.009, tower.dropout=0.0
    :movielens_1m, 5 seeds
        ROC-AUC 0.9037 ± 0.0008, per-user AUC 0.8439, log loss 0.3087, 4,309 examples/s
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.fit(argument)
