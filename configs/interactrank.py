"""InteractRank: two towers with real-time sequences, and ItemQueryPerf beside the dot product.

    interactrank prepare --config=configs/interactrank.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/interactrank.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Quickstart" and "MovieLens".
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = common.base_config(argument)
    config.model = common.model_config("interactrank", pooling="interactrank", masknet_blocks=4)
    add_cross_terms(config, argument)
    common.fit_to_data(config, argument)
    return config


def add_cross_terms(config: ConfigDict, argument: str) -> None:
    """Adds the fields of the cross features' affine projection."""
    # Shares are spread over decades, rates are not. The official code starts all weights at 1.
    is_search = argument == "search"
    config.model.cross = ConfigDict(
        {"transform": "log" if is_search else "linear", "weight_init": 1.0 if is_search else 0.5}
    )
