"""FIT: meta queries inside the user tower, and a small network over heads in place of the dot.

    interactrank prepare --config=configs/fit.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/fit.py --examples=EXAMPLES --workdir=RUN

Arguments: the data sets of `interactrank_jax/config/data_sets.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
Switches: model.meta.vectors=0 (no meta queries) and model.meta.attention_hidden=0 (no target
attention), each with another pooling than 'target' in model.sequence.history;
model.late.user_heads=0 (a dot product). What each is worth: experiments/sweeps/fit_parts.py.
model.meta.attention_softmax=True makes the target attention an average of the events; DIN's own
weights, the default, are no shares. ROC-AUC on validation of MovieLens-100K, clean_random, seeds 0
and 1: .8679 and .8695 without, .8685 and .8664 with a softmax; without layer norms in the towers
.8710 and .8664 without, .8694 and .8650 with one.
"""

from ml_collections import ConfigDict

from interactrank_jax.config import models


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return models.fit(argument)
