"""The configs of these tests, as a file that the command line can read."""

from ml_collections import ConfigDict

from tests.log.handmade_log import data_config
from tests.synthetic import tiny_config, without_blocks


def get_config(name: str) -> ConfigDict:
    """'tiny' and 'long' train on the synthetic examples, 'log' prepares the handmade log."""
    config = tiny_config("interactrank")
    if name == "long":
        without_blocks(config)
        # Checkpoints fall between two lines of the metric file: sums are carried over a kill.
        config.train.update({"max_steps": 40, "checkpoint_every": 4, "log_every": 3})
        config.train.eval_every = 16
    elif name == "log":
        config.data = data_config(block_size=8)
    return config


def long_config() -> ConfigDict:
    return get_config("long")
