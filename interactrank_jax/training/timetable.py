"""How long a training is, and what is due after each of its steps."""

import dataclasses
from typing import NamedTuple

from ml_collections import ConfigDict

from interactrank_jax.examples.format import Examples


class Due(NamedTuple):
    """What follows a step: a line of the log, a validation, a checkpoint."""

    log: bool
    validation: bool
    checkpoint: bool


@dataclasses.dataclass(frozen=True)
class Timetable:
    """How many steps a run has, and how many lie between two of what follows a step."""

    total: int
    log_every: int
    validate_every: int
    save_every: int

    @classmethod
    def from_config(cls, config: ConfigDict, examples: Examples) -> "Timetable":
        """Reads the `train` part of a config; 0 stands for what the epochs have."""
        steps_per_epoch = examples.split("train").examples // int(config.batch_size)
        return cls(
            total=int(config.max_steps) or max(1, int(config.epochs * steps_per_epoch)),
            log_every=int(config.log_every),
            validate_every=int(config.eval_every) or steps_per_epoch,
            save_every=int(config.checkpoint_every),
        )

    def due(self, done: int) -> Due:
        """Returns what follows when so many steps are done; the last is followed by everything."""
        is_last = done == self.total
        validation = done % self.validate_every == 0 or is_last
        return Due(
            log=done % self.log_every == 0 or is_last,
            validation=validation,
            checkpoint=done % self.save_every == 0 or validation,
        )
