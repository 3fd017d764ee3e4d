"""The loop of a training: one step after the other, and what is due after each."""

import contextlib
import dataclasses
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
from interactrank_jax.examples.warnings import before_training
from interactrank_jax.io import interrupts
from interactrank_jax.runs.run import Run
from interactrank_jax.training import warnings, writers
from interactrank_jax.training.checkpoint import Checkpoints, Progress
from interactrank_jax.training.checks import check_memory
from interactrank_jax.training.state import HEALTHY, TrainState, count_parameters
from interactrank_jax.training.steps import health_checks
from interactrank_jax.training.trainer import Batch, Trainer
from interactrank_jax.training.validation import Validation, record_validation
from interactrank_jax.training.warm_start import warm_start, warm_start_source

logger = logging.getLogger(__name__)


def run_to_end(trainer: Trainer) -> dict[str, Any]:
    """Trains to the end, or goes on with what the run directory holds; returns `Trainer.summary`.

    Raises:
      InputError: the directory holds another run; the state does not fit the memory.
      TrainingInterrupted: SIGINT or SIGTERM came; the state is saved.
      FloatingPointError: a loss or gradient is not finite; names the step and the tensor.
    """
    run = trainer.run
    template, source = prepare(trainer)
    with (
        run.claimed(trainer.examples),
        Checkpoints(run.workdir) as checkpoints,
        distributed.stop_requests() as stop_requested,
    ):
        loop = Loop(trainer, trainer.batches(), checkpoints)
        loop.start(template, source)
        loop.run(stop_requested)
        return loop.conclude()


def prepare(trainer: Trainer, models: int = 1) -> tuple[TrainState, Run | None]:
    """Says what is about to be trained, and refuses what cannot be.

    Args:
      trainer: of the model, or of one of several that differ only in seeds and rates.
      models: how many of them are trained at once.

    Returns:
      shapes and shardings of a state, and the run that it starts from, if any.

    Raises:
      InputError: no such run; the states do not fit the memory.
    """
    config, run, examples = trainer.config, trainer.run, trainer.examples
    source = warm_start_source(run, examples) if config.train.warm_start else None
    template = trainer.parallel.template(trainer.init)
    # Models that share a step have a stack of states, and beside it one that something is due for.
    states = models + (models > 1)
    check_memory([template] * states, trainer.parallel.devices[0].platform)
    announce(config, sizes(template), trainer.timetable.total, trainer.parallel.size, models)
    warn(before_training(examples.metadata, run.model.uses_cross))
    return template, source


def sizes(state: TrainState) -> dict[str, int]:
    """Returns the numbers of parameters and of table parameters."""
    return {
        "parameters": count_parameters(state.params),
        "table_parameters": count_parameters(state.tables),
    }


def announce(
    config: ConfigDict,
    sizes: Mapping[str, int],
    total_steps: int,
    devices: int,
    models: int = 1,
) -> None:
    """Logs what is about to be trained."""
    if models > 1:
        logger.info("%d models in one step, each of:", models)
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
      trainer: whose state.
      data: the training batches, whose position is part of a checkpoint.
      progress: the best validation so far, and whether the run has ended early.
      first_step: steps that were done before, by the run that this one resumes.
    """

    def __init__(self, trainer: Trainer, data: Iterator[Batch], checkpoints: Checkpoints):
        self.trainer, self.data, self._checkpoints = trainer, data, checkpoints
        self._run, self._parallel = trainer.run, trainer.parallel
        self.progress = Progress()
        self.first_step = 0
        self._has_validated = False
        self._sizes: dict[str, int] = {}

    def start(
        self,
        template: TrainState,
        source: Run | None,
        initial: Callable[[Trainer], TrainState] = Trainer.initial_state,
    ) -> None:
        """Takes the state of the newest checkpoint, or that at step 0.

        Args:
          template: shapes and shardings of a state.
          source: the run that a new one starts from, if any.
          initial: returns the state at step 0, canonical.
        """
        trainer, parallel = self.trainer, self._parallel
        trainer.placed = None  # its memory is needed
        self._sizes = sizes(template)
        if self._checkpoints.latest_step() is None:
            state = initial(trainer)
            if source is not None:
                state = warm_start(state, source, parallel)
        else:
            state, self.progress = self._checkpoints.restore(template, self.data)
            self._checkpoints.check_best(self.progress)
            logger.info("resumed at step %d", int(state.step))
        self.first_step = int(state.step)
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
        trainer = self.trainer
        trainer.mine_hard_negatives()
        with self.opened(Validation(trainer)) as profiler:
            for done in range(self.first_step + 1, trainer.timetable.total + 1):
                if self.progress.stopped:
                    break
                batch = self._parallel.shard(next(self.data))
                trainer.advance(batch)
                profiler.step(trainer.placed)
                is_stopping = stop_requested(done)
                self.follow(done, batch, is_stopping)
                if is_stopping:
                    raise interrupted(done)

    def follow(self, done: int, batch: Mapping[str, Any], is_stopping: bool) -> None:
        """Does what is due after a step.

        Args:
          done: number of steps done.
          batch: of the last of them.
          is_stopping: whether the run ends here, to be resumed.

        Raises:
          FloatingPointError: a loss or gradient is not finite; names the step and the tensor.
        """
        trainer, due = self.trainer, self.trainer.timetable.due(done)
        if due.log or due.checkpoint or is_stopping:
            health = self._parallel.unreplicate(trainer.placed.health)
            check_health(trainer.placed, health, batch)
        if due.log:
            self._log(done)
            self.start_clock()
        if not (due.validation or due.checkpoint or is_stopping):
            return
        jax.block_until_ready(trainer.placed.step)
        paused = time.perf_counter()
        if due.validation:
            self._validate(done)
        if due.checkpoint or is_stopping:
            self._save()
        self.pause(time.perf_counter() - paused)

    def start_clock(self) -> None:
        """Starts the time that the rates of the next line of the log are over."""
        self._clock = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Leaves out a time that no step was made in: rates are those of training alone."""
        self._clock += seconds

    @contextlib.contextmanager
    def opened(self, validation: Validation, is_shown: bool = True) -> Iterator[writers.Profiler]:
        """Opens what shows and records the steps, in the first process alone; validates the start.

        Args:
          validation: of this run's model, or of another of the same.
          is_shown: whether there is a progress bar, and a trace where the config asks for one.
        """
        config, is_first = self._run.config, jax.process_index() == 0
        resume_step = self.first_step or -1  # without a checkpoint step 0 is validated again
        self._validation = validation
        with (
            writers.MetricWriter(self._run.workdir, resume_step=resume_step)
            if is_first
            else writers.NoMetricWriter() as self._writer,
            writers.ProgressBar(
                self.trainer.timetable.total,
                config.model.name,
                initial=self.first_step,
                enabled=is_first and is_shown,
            ) as self._bar,
            writers.Profiler(
                self._run.workdir / "profile",
                int(config.train.profile_steps) * (is_first and is_shown),
            ) as profiler,
        ):
            if not self.first_step and self.trainer.has_start:
                self._validate(0)  # the start is the best model until training passes it
            self.start_clock()
            yield profiler

    def _log(self, done: int) -> None:
        """Writes the means since the last time, and begins their sums anew."""
        trainer = self.trainer
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
        self._has_validated = True
        figures, calibration = evaluate.validate(self._validation.use(self.trainer.placed))
        scalars = {f"validation/{name}": value for name, value in figures.items()}
        select_by = self._run.config.train.select_by
        for name, values in self._validation.references.items():
            if select_by in values:
                scalars[f"validation/{name}/{select_by}"] = values[select_by]
        self._writer.write(done, scalars)
        record_validation(self.progress, figures, done, self._run.config.train)
        if self.progress.best_step == done:
            self._checkpoints.save_best(self.trainer.state, calibration)

    def conclude(self) -> dict[str, Any]:
        """Says what went wrong; returns `Trainer.summary`."""
        self._say_what_is_better()
        self._say_what_is_wrong()
        return {
            "step": int(self.progress.best_step),
            self._run.config.train.select_by: self.progress.best_metric,
            "steps": int(self._parallel.unreplicate(self.trainer.placed.step)),
            **self._sizes,
        }

    def _say_what_is_better(self) -> None:
        """Warns where a reference line has a better validation than the best model."""
        name, best = self._run.config.train.select_by, self.progress.best_metric
        if best is None:
            return
        sign = -1 if name in metrics.LOWER_IS_BETTER else 1
        for line, values in self._validation.references.items():
            if name in values and sign * values[name] > sign * best:
                logger.warning(
                    "on validation %s has %s %.4f, the best model %.4f: it lies below its inputs",
                    *(line, name, values[name], best),
                )

    def _say_what_is_wrong(self) -> None:
        """Warns of what the validations and the last scores show, see `warnings.py`."""
        trainer = self.trainer
        steps = int(self._parallel.unreplicate(trainer.placed.step))
        select_by = trainer.config.train.select_by
        figures = (self.progress, trainer.timetable, steps, select_by, trainer.has_start)
        warn(warnings.of_validations(*figures))
        if self._has_validated:  # else nothing was trained, and the step is not compiled
            warn(warnings.of_scores(self._validation.use(trainer.placed)))

    def _save(self) -> None:
        self._checkpoints.save(self.trainer.state, self.data, self.progress)
        self.trainer.mine_hard_negatives()


def interrupted(done: int) -> distributed.TrainingInterrupted:
    """Returns the error of a training that was told to stop after a step."""
    return distributed.TrainingInterrupted(
        f"stopped after step {done}; the same command goes on from there.",
        interrupts.requested() or signal.SIGTERM,
    )


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
