"""The loop of a training: one step after the other, and what is due after each."""

import contextlib
import dataclasses
import functools
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from interactrank_jax import metrics
from interactrank_jax.devices import distributed
from interactrank_jax.evaluation import evaluate
from interactrank_jax.evaluation.references import reference_figures
from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.examples.warnings import before_training
from interactrank_jax.io import interrupts
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run
from interactrank_jax.training import warnings, writers
from interactrank_jax.training.checkpoint import Checkpoints, Progress
from interactrank_jax.training.checks import check_memory
from interactrank_jax.training.state import HEALTHY, TrainState, count_parameters
from interactrank_jax.training.steps import health_checks
from interactrank_jax.training.trainer import Batch, Trainer
from interactrank_jax.training.warm_start import warm_start, warm_start_source

logger = logging.getLogger(__name__)


def run_to_end(trainer: Trainer) -> dict[str, Any]:
    """Trains to the end, or goes on with what the run directory holds; returns `Trainer.summary`.

    Raises:
      InputError: the directory holds another run; the state does not fit the memory.
      TrainingInterrupted: SIGINT or SIGTERM came; the state is saved.
      FloatingPointError: a loss or gradient is not finite; names the step and the tensor.
    """
    config, run, examples = trainer.config, trainer.run, trainer.examples
    source = warm_start_source(run, examples) if config.train.warm_start else None
    template = trainer.parallel.template(trainer.init)
    check_memory(template, trainer.parallel.devices[0].platform)
    data = trainer.batches()
    sizes = {
        "parameters": count_parameters(template.params),
        "table_parameters": count_parameters(template.tables),
    }
    announce(config, sizes, trainer.timetable.total, trainer.parallel.size)
    warn(before_training(examples.metadata, run.model.uses_cross))
    with (
        run.claimed(examples),
        Checkpoints(run.workdir) as checkpoints,
        distributed.stop_requests() as stop_requested,
    ):
        loop = Loop(trainer, data, checkpoints)
        loop.start(template, source)
        loop.run(stop_requested)
        loop.say_what_is_better()
        loop.say_what_is_wrong()
    return {
        "step": int(loop.progress.best_step),
        config.train.select_by: loop.progress.best_metric,
        "steps": int(trainer.parallel.unreplicate(trainer.placed.step)),
        **sizes,
    }


def announce(config: ConfigDict, sizes: Mapping[str, int], total_steps: int, devices: int) -> None:
    """Logs what is about to be trained."""
    sampling = float(config.train.loss.impression_sampling)
    if sampling < 1:
        logger.info("%g%% of candidates without any action are kept in training", 100 * sampling)
    logger.info(
        "%s: %s parameters, %s in tables, %d steps of %d requests on %d devices",
        config.model.name,
        f"{sizes['parameters']:,}",
        f"{sizes['table_parameters']:,}",
        total_steps,
        int(config.train.batch_size),
        devices,
    )


def warn(texts: Iterable[str]) -> None:
    """Logs warnings, in the first process alone."""
    for text in texts:
        if jax.process_index() == 0:
            logger.warning("warning: %s", text)


class Loop:
    """The steps of a run, on the state of its trainer.

    Attributes:
      progress: the best validation so far, and whether the run has ended early.
    """

    def __init__(self, trainer: Trainer, data: Iterator[Batch], checkpoints: Checkpoints):
        self._trainer, self._data, self._checkpoints = trainer, data, checkpoints
        self._run, self._parallel = trainer.run, trainer.parallel
        self.progress = Progress()
        self._has_validated = False

    def start(self, template: TrainState, source: Run | None) -> None:
        """Takes the state of the newest checkpoint, or that at step 0.

        Args:
          template: shapes and shardings of a state.
          source: the run that a new one starts from, if any.
        """
        trainer, parallel = self._trainer, self._parallel
        trainer.placed = None  # its memory is needed
        if self._checkpoints.latest_step() is None:
            state = trainer.initial_state()
            if source is not None:
                state = warm_start(state, source, parallel)
        else:
            state, self.progress = self._checkpoints.restore(template, self._data)
            self._checkpoints.check_best(self.progress)
            logger.info("resumed at step %d", int(state.step))
        self._first_step = int(state.step)
        self._carried = jax.device_get(state.sums)  # by steps before the run was interrupted
        trainer.placed = parallel.place(state)  # the first step takes the memory of `state` over

    def run(self, stop_requested: Callable[[int], bool]) -> None:
        """Makes the steps that are left, until early stopping ends the run.

        Args:
          stop_requested: asked after each step, with the number of steps done.

        Raises:
          TrainingInterrupted: it was; the state is saved.
          FloatingPointError: a loss or gradient is not finite; names the step and the tensor.
        """
        trainer, timetable = self._trainer, self._trainer.timetable
        trainer.mine_hard_negatives()
        self._validation = ModelScorer(self._run, trainer.examples, "validation", self._parallel)
        with self._instruments() as profiler:
            if not self._first_step and trainer.has_start:
                self._validate(0)  # the start is the best model until training passes it
            self._clock = time.perf_counter()
            for done in range(self._first_step + 1, timetable.total + 1):
                if self.progress.stopped:
                    break
                due = timetable.due(done)
                batch = self._parallel.shard(next(self._data))
                trainer.advance(batch)
                profiler.step(trainer.placed)
                is_stopping = stop_requested(done)
                if due.log or due.checkpoint or is_stopping:
                    health = self._parallel.unreplicate(trainer.placed.health)
                    check_health(trainer.placed, health, batch)
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
        resume_step = self._first_step or -1  # without a checkpoint step 0 is validated again
        with (
            writers.MetricWriter(self._run.workdir, resume_step=resume_step)
            if is_first
            else writers.NoMetricWriter() as self._writer,
            writers.ProgressBar(
                self._trainer.timetable.total,
                config.model.name,
                initial=self._first_step,
                enabled=is_first,
            ) as self._bar,
            writers.Profiler(
                self._run.workdir / "profile", int(config.train.profile_steps) * is_first
            ) as profiler,
        ):
            yield profiler

    def _log(self, done: int) -> None:
        """Writes the means since the last time, and begins their sums anew."""
        trainer = self._trainer
        sums = jax.device_get(self._parallel.unreplicate(trainer.placed.sums))
        scalars = summarise(sums, self._carried, time.perf_counter() - self._clock)
        scalars["train/learning_rate"] = float(trainer.schedule(done - 1))
        self._writer.write(done, scalars)
        self._bar.update(
            int(sums["steps"] - self._carried["steps"]),
            int(sums["candidates"] - self._carried["candidates"]),
        )
        self._carried = jax.tree.map(np.zeros_like, sums)
        zero = self._parallel.replicate(self._carried)
        trainer.placed = dataclasses.replace(trainer.placed, sums=zero)

    def _validate(self, done: int) -> None:
        """Evaluates the state on the validation split, and keeps it if it is the best so far.

        It is calibrated there each time, not at the end alone: the best model and its calibration
        are one checkpoint, whenever the run is killed.
        """
        placed = self._trainer.placed
        self._validation.use({"params": placed.params, "tables": placed.tables})
        self._has_validated = True
        figures, calibration = evaluate.validate(self._validation)
        scalars = {f"validation/{name}": value for name, value in figures.items()}
        select_by = self._run.config.train.select_by
        for name, values in self._references.items():
            if select_by in values:
                scalars[f"validation/{name}/{select_by}"] = values[select_by]
        self._writer.write(done, scalars)
        record_validation(self.progress, figures, done, self._run.config.train)
        if self.progress.best_step == done:
            self._checkpoints.save_best(self._trainer.state, calibration)

    @functools.cached_property
    def _references(self) -> dict[str, dict[str, float]]:
        """The figures of the reference lines on validation, by name; in the first process alone."""
        if jax.process_index():
            return {}
        return reference_figures(
            self._trainer.examples,
            self._run.rule,
            "validation",
            int(self._run.config.evaluate.batch_size),
        )

    def say_what_is_better(self) -> None:
        """Warns where a reference line has a better validation than the best model."""
        name, best = self._run.config.train.select_by, self.progress.best_metric
        if best is None:
            return
        sign = -1 if name in metrics.LOWER_IS_BETTER else 1
        for line, values in self._references.items():
            if name in values and sign * values[name] > sign * best:
                logger.warning(
                    "on validation %s has %s %.4f, the best model %.4f: it lies below its inputs",
                    *(line, name, values[name], best),
                )

    def say_what_is_wrong(self) -> None:
        """Warns of what the validations and the last scores show, see `warnings.py`."""
        trainer = self._trainer
        steps = int(self._parallel.unreplicate(trainer.placed.step))
        select_by = trainer.config.train.select_by
        figures = (self.progress, trainer.timetable, steps, select_by, trainer.has_start)
        warn(warnings.of_validations(*figures))
        if self._has_validated:  # else nothing was trained, and the step is not compiled
            warn(warnings.of_scores(self._validation))

    def _save(self) -> None:
        self._checkpoints.save(self._trainer.state, self._data, self.progress)
        self._trainer.mine_hard_negatives()


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


def check_health(state: TrainState, health: Any, batch: Any) -> None:
    """Raises FloatingPointError if any step so far saw a tensor that is not finite.

    Args:
      state, batch: for the names of their tensors alone.
      health: `TrainState.health`, unplaced.
    """
    step, position = (int(value) for value in jax.device_get(health))
    if step == HEALTHY:
        return
    # For the names alone: gradients are called after the parameters and tables they belong to.
    names = [name for name, _ in health_checks(batch, state.sums, state.params, state.tables)]
    raise FloatingPointError(
        f"step {step}: {names[position]} is not finite. Nothing was saved since; the last "
        f"checkpoint is sound. Look at that batch or lower config.train.optimizer.learning_rate."
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
