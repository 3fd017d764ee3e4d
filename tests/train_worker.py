"""Trains in a process of its own, to be killed: `python -m tests.train_worker EXAMPLES WORKDIR`."""

import sys

from interactrank_jax import cli
from tests.synthetic import tiny_config


def long_config():
    config = tiny_config("interactrank")
    config.train.update({"max_steps": 60, "checkpoint_every": 5, "eval_every": 20, "log_every": 5})
    return config


if __name__ == "__main__":
    from unittest import mock

    class Arguments:
        config = long_config()
        examples, workdir = sys.argv[1:]

    # Through the command line's own error handling, with a config that has no file.
    with mock.patch.object(cli, "_parse", return_value=Arguments):
        sys.exit(cli.main(["train"]))
