"""The config of `test_distributed.py`, as a file that the command line can read."""

from ml_collections import ConfigDict

from tests.synthetic import tiny_config, without_blocks


def get_config() -> ConfigDict:
    config = tiny_config("interactrank")
    without_blocks(config)
    config.train.update({"max_steps": 60, "eval_every": 20, "log_every": 10, "patience": 0})
    config.train.optimizer.update({"learning_rate": 1e-2, "warmup_steps": 5})
    config.train.loss.impression_sampling = 1.0
    return config
