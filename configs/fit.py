"""FIT: meta queries inside the user tower, and a small network over heads in place of the dot.

    interactrank prepare --config=configs/fit.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/fit.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
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

from configs import common


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = common.base_config(argument)
    config.model = common.model_config("fit", pooling="mean", masknet_blocks=0)
    config.model.sequence.history = "target"
    add_fit(config, argument)
    common.fit_to_data(config, argument)
    return config


def add_fit(config: ConfigDict, argument: str) -> None:
    """Adds the fields of the meta queries and of the late interaction, and the contrast."""
    if argument == "search":
        # What the learned scorer is worth hangs on it. On validation, one seed, of the simulator's
        # medium log .6799, as the others .6666; of its small one .7038, as the others .6907.
        config.train.loss.update({"softmax_weight": 0.1, "log_q": "none"})
    model = config.model
    model.meta = ConfigDict(
        {
            "vectors": 8,  # N: the sampled softmax takes so many user vectors in training
            "attention_hidden": 16,
            "attention_softmax": False,
            "decay": 0.5,  # share of training over which the temperature falls from 1
            "temperature_min": 1e-3,
        }
    )
    # 4 heads of 16 take as much room in an index as one vector of 64.
    model.late = ConfigDict(
        {
            "user_heads": 4,
            "item_heads": 4,
            "width": 16,
            "hidden": (8, 8),
            "scale_init": 5.0,
        }
    )
