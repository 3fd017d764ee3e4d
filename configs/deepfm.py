"""DeepFM: first- and second-order terms of all inputs beside an MLP of their embeddings.

    interactrank prepare --config=configs/deepfm.py --log=LOG --out=EXAMPLES
    interactrank train   --config=configs/deepfm.py --examples=EXAMPLES --workdir=RUN

Arguments: those of `configs/common.py`.
Hardware, time and expected metrics: README, "Sweeps and comparisons".
"""

from ml_collections import ConfigDict

from configs import wide_deep


def get_config(argument: str = "search") -> ConfigDict:
    """Returns the config for a data set."""
    return wide_deep.joint_config("deepfm", argument)
