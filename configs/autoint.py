"""AutoInt: self-attention over fields beside an MLP (the paper's AutoInt+).

    interactrank prepare --config=configs/autoint.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/autoint.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from configs import wide_deep


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    config = wide_deep.joint_config("autoint", argument)
    config.model.interacting = ConfigDict({"layers": 3, "heads": 2, "width": 16})
    return config
