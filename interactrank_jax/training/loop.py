"""The loop of a training: one step after the other, and what is due after each."""

import contextlib
import dataclasses
import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from interactrank_jax import metrics
from interactrank_jax.devices import distributed
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation import evaluate
from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import interrupts
from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking.index import encode_items
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.lookup import item_store
from interactrank_jax.training import writers
from interactrank_jax.training.checkpoint import Checkpoints, Progress
from interactrank_jax.training.objective import Objective
from interactrank_jax.training.state import HEALTHY, TrainState
from interactrank_jax.training.steps import HARD_INDEX, health_checks
from interactrank_jax.training.warm_start import warm_start

logger = logging.getLogger(__name__)


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


class Parts(NamedTuple):
    """What a training step is made of.

    Attributes:
      objective: the loss.
      schedule: learning rate of all but tables, by step.
      init: makes the state at step 0.
      step: of a placed state, a batch and the store; returns the next state.
    """

    objective: Objective
    schedule: optax.Schedule
    init: Callable[[], TrainState]
    step: Callable[..., TrainState]


class Loop:
    """The steps of a run.

    Attributes:
      placed: the state as of the last step, on the devices.
      progress: the best validation so far, and whether the run has ended early.
    """

    def __init__(
        self,
        run: Run,
        examples: Examples,
        parallel: DataParallel,
        timetable: Timetable,
        parts: Parts,
        data: grain.DatasetIterator,
        checkpoints: Checkpoints,
    ):
        self._run, self._examples, self._parallel = run, examples, parallel
        self._timetable, self._parts, self._data = timetable, parts, data
        self._checkpoints = checkpoints
        self.progress = Progress()

    def start(self, template: TrainState, source: Run | None) -> None:
        """Takes the state of the newest checkpoint, or that at step 0.

        Args:
          template: shapes and shardings of a state.
          source: the run that a new one starts from, if any.
        """
        parallel = self._parallel
        if self._checkpoints.latest_step() is None:
            state = parallel.initialise(self._parts.init)
            if source is not None:
                state = warm_start(state, source, parallel)
        else:
            state, self.progress = self._checkpoints.restore(template, self._data)
            self._checkpoints.check_best(self.progress)
            logger.info("resumed at step %d", int(state.step))
        self._first_step = int(state.step)
        self._carried = jax.device_get(state.sums)  # by steps before the run was interrupted
        self._store = parallel.replicate(item_store(self._examples.items))
        self.placed = parallel.place(state)  # the first step takes the memory of `state` over

    def run(self, stop_requested: Callable[[int], bool]) -> None:
        """Makes the steps that are left, until early stopping ends the run.

        Args:
          stop_requested: asked after each step, with the number of steps done.

        Raises:
          TrainingInterrupted: it was; the state is saved.
          FloatingPointError: a loss or gradient is not finite; names the step and the tensor.
        """
        self._mine_hard_negatives()
        self._validation = ModelScorer(self._run, self._examples, "validation", self._parallel)
        with self._instruments() as profiler:
            self._clock = time.perf_counter()
            for done in range(self._first_step + 1, self._timetable.total + 1):
                if self.progress.stopped:
                    break
                due = self._timetable.due(done)
                batch = self._parallel.shard(next(self._data))
                self.placed = self._parts.step(self.placed, batch, self._store)
                profiler.step(self.placed)
                is_stopping = stop_requested(done)
                if due.log or due.checkpoint or is_stopping:
                    health = self._parallel.unreplicate(self.placed.health)
                    check_health(self.placed, health, batch)
                if due.log:
                    self._log(done)
                if due.validation:
                    self._validate(done)
                if due.checkpoint or is_stopping:
                    self._save()
                if due.log or due.validation:
                    self._clock = time.perf_counter()
                if is_stopping:
                    raise distributed.TrainingInterrupted(
                        f"stopped after step {done}; the same command goes on from there.",
                        interrupts.requested() or signal.SIGTERM,
                    )

    @contextlib.contextmanager
    def _instruments(self) -> Iterator[writers.Profiler]:
        """Opens what shows and records the steps, in the first process alone."""
        config, is_first = self._run.config, jax.process_index() == 0
        with (
            writers.MetricWriter(self._run.workdir, resume_step=self._first_step)
            if is_first
            else writers.NoMetricWriter() as self._writer,
            writers.ProgressBar(
                self._timetable.total, config.model.name, initial=self._first_step, enabled=is_first
            ) as self._bar,
            writers.Profiler(
                self._run.workdir / "profile", int(config.train.profile_steps) * is_first
            ) as profiler,
        ):
            yield profiler

    def _log(self, done: int) -> None:
        """Writes the means since the last time, and begins their sums anew."""
        sums = jax.device_get(self._parallel.unreplicate(self.placed.sums))
        scalars = summarise(sums, self._carried, time.perf_counter() - self._clock)
        scalars["train/learning_rate"] = float(self._parts.schedule(done - 1))
        self._writer.write(done, scalars)
        self._bar.update(
            int(sums["steps"] - self._carried["steps"]),
            int(sums["candidates"] - self._carried["candidates"]),
        )
        self._carried = jax.tree.map(np.zeros_like, sums)
        self.placed = self.placed.replace(sums=self._parallel.replicate(self._carried))

    def _validate(self, done: int) -> None:
        """Evaluates the state on the validation split, and keeps it if it is the best so far."""
        self._validation.use({"params": self.placed.params, "tables": self.placed.tables})
        figures = evaluate.validate(self._validation)
        self._writer.write(done, {f"validation/{k}": v for k, v in figures.items()})
        record_validation(self.progress, figures, done, self._run.config.train)
        if self.progress.best_step == done:
            self._checkpoints.save_best(self._parallel.canonical(self.placed))

    def _save(self) -> None:
        self._checkpoints.save(self._parallel.canonical(self.placed), self._data, self.progress)
        self._mine_hard_negatives()

    def _mine_hard_negatives(self) -> None:
        """Encodes all items by the state's model, where the objective asks for hard negatives."""
        if self._parts.objective.hard_negatives:
            model = {"params": self.placed.params, "tables": self.placed.tables}
            items = item_store(self._examples.items)
            index = encode_items(self._run, self._parallel.unreplicate(model), items)
            self._store[HARD_INDEX] = self._parallel.replicate(index)


def record_validation(
    progress: Progress, figures: dict[str, float], step: int, config: ConfigDict
) -> None:
    """Updates the best record; stops the run after `config.patience` worse ones (0: never).

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
    if progress.best_metric is None or sign * metric > sign * progress.best_metric:
        progress.best_metric, progress.best_step = float(metric), step
        progress.evaluations_since_best = 0
        return
    progress.evaluations_since_best += 1
    progress.stopped = 0 < int(config.patience) <= progress.evaluations_since_best


def check_health(state: TrainState, health: Any, batch: Any) -> None:
    """Raises FloatingPointError if any step so far saw a tensor that is not finite.

    Args:
      state, batch: for the names of their tensors alone.
      health: `TrainState.health`, unplaced.
    """
    step, place = (int(value) for value in jax.device_get(health))
    if step == HEALTHY:
        return
    # For the names alone: gradients are called after the parameters and tables they belong to.
    names = [name for name, _ in health_checks(batch, state.sums, state.params, state.tables)]
    raise FloatingPointError(
        f"step {step}: {names[place]} is not finite. Nothing was saved since; the last checkpoint "
        f"is sound. Look at that batch or lower config.train.optimizer.learning_rate."
    )


def summarise(sums: dict[str, Any], carried: dict[str, Any], seconds: float) -> dict[str, float]:
    """Turns the sums of some steps into means and rates for the log.

    `carried` is what the sums held when the clock of these `seconds` started.
    """
    steps = max(float(sums["steps"]), 1.0)
    scalars = {
        f"train/{name}": float(value) / steps
        for name, value in sums.items()
        if name.startswith(("loss", "model/")) or name == "gradient_norm"
    }
    candidates = max(float(sums["candidates"]), 1.0)
    scalars["train/engagement_rate"] = float(sums["engaged"]) / candidates
    scalars["train/candidates_per_second"] = (
        float(sums["candidates"] - carried["candidates"]) / seconds
    )
    scalars["train/steps_per_second"] = float(sums["steps"] - carried["steps"]) / seconds
    return scalars
