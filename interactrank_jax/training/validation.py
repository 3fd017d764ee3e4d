"""The validations of a training: what they score, and what follows from their figures."""

import functools

import jax
import numpy as np
from ml_collections import ConfigDict

from interactrank_jax import metrics
from interactrank_jax.evaluation.references import reference_figures
from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.io.errors import InputError
from interactrank_jax.training.checkpoint import Progress
from interactrank_jax.training.state import TrainState
from interactrank_jax.training.trainer import Trainer


class Validation:
    """The validation split, as one compiled step scores it: runs of one model can share it.

    Attributes:
      scorer: of the split.
    """

    def __init__(self, trainer: Trainer):
        self._run, self._examples = trainer.run, trainer.examples
        self.scorer = ModelScorer(self._run, self._examples, "validation", trainer.parallel)

    def use(self, placed: TrainState) -> ModelScorer:
        """Returns the scorer with the model of a state."""
        return self.scorer.use({"params": placed.params, "tables": placed.tables})

    def release(self) -> None:
        """Lets go of the model that `use` was given last: its memory is needed."""
        self.scorer.use({})

    @functools.cached_property
    def references(self) -> dict[str, dict[str, float]]:
        """The figures of the reference lines, by name; in the first process alone."""
        if jax.process_index():
            return {}
        size = int(self._run.config.evaluate.batch_size)
        return reference_figures(self._examples, self._run.rule, "validation", size)


def record_validation(
    progress: Progress, figures: dict[str, float], step: int, config: ConfigDict
) -> None:
    """Updates the best record; stops the run after `config.patience` worse ones (0: never).

    Step 0 can be the best, but training is not stopped for being worse than where it started: only
    where it no longer gets better itself.

    Raises:
      InputError: the metric to select by is not defined on the validation split.
    """
    name = config.select_by
    metric, sign = figures[name], -1 if name in metrics.LOWER_IS_BETTER else 1
    if np.isnan(metric):
        raise InputError(
            f"{name} is not defined on the validation split, so no best model can be selected: set "
            f"config.train.select_by to another metric."
        )

    def is_better(than: float | None) -> bool:
        return than is None or sign * metric > sign * than

    if is_better(progress.best_metric):
        progress.best_metric, progress.best_step = float(metric), step
    if step == 0:
        return
    if is_better(progress.best_trained):
        progress.best_trained, progress.evaluations_since_best = float(metric), 0
        return
    progress.evaluations_since_best += 1
    progress.stopped = 0 < int(config.patience) <= progress.evaluations_since_best
