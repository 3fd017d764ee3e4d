"""InteractFIT: FIT's learned interaction, with ItemQueryPerf and InteractRank's towers.

    interactrank prepare --config=configs/interactfit.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/interactfit.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from configs import common, fit, interactrank


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = common.base_config(argument)
    config.model = common.model_config("interactfit", pooling="interactrank", masknet_blocks=4)
    # On validation the target attention beats InteractRank's pooling of the user's history: .6787
    # and .6776 on the simulated log (medium), .7753 and .7738 on MovieLens-100K by time.
    config.model.sequence.history = "target"
    interactrank.add_cross_terms(config, argument)
    fit.add_fit(config, argument)
    common.fit_to_data(config, argument)
    return config
