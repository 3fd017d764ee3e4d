"""Training: examples in, a run directory out. The parts are `trainer.py`, the steps `loop.py`.

RUN/config.json      the resolved config, and the examples it was trained on, without their arrays
RUN/encoder          a copy of their encoder
RUN/metrics.jsonl    training and validation figures, one line a write (also TensorBoard)
RUN/checkpoints, RUN/best    see `checkpoint.py`
RUN/profile                  a trace of `config.train.profile_steps` steps
"""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from interactrank_jax.io.files import PathLike
from interactrank_jax.training.trainer import Trainer


def train(
    config: ConfigDict,
    examples_path: PathLike,
    workdir: PathLike,
    devices: list[jax.Device] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains, or resumes what is in `workdir`; returns the best validation record.

    Args:
      config: a whole config, as `configs/*.py` give it; its `data` part gives way to that of the
        examples.
      examples_path: output of `prepare`.
      workdir: the run directory.
      devices: to train on; all of all processes by default.
      overrides: fields that were set by hand, by name; those of `data` must be the examples'.

    Raises:
      InputError: examples or a workdir that do not fit the config.
      TrainingInterrupted: SIGINT or SIGTERM came; the state is saved.
      FloatingPointError: a loss or gradient is not finite; names the step and the tensor.
    """
    return Trainer(config, examples_path, workdir, devices, overrides=overrides).fit().summary
