"""Several small models trained at once: one compiled step on one device, one batch for all.

`train_many` trains S models that differ in seeds and rates alone, and leaves S ordinary runs, each
the one that `train` makes of its config. All name one `train.order_seed`: a seed then varies
initialisation, dropout and sampling, but not the order of examples.

The step is that of one model under `jax.vmap`: states and rates have an axis of models, the batch
has none. Everything around it (validation, best model, early stopping, checkpoints, curves) is each
run's own `Loop`. Where something is due it is given a copy of its part of the stacked state, one
run after the other: a device holds the stack and one state. The part of a run that has ended early,
or is no longer finite, or was resumed at a later step than the others, goes unread; the state of
such a run waits in the memory of the host.

`tests/training/test_vmapped.py` holds the models against those of `train`, in float32: after a few
steps 99% of the entries of a tensor differ by at most 1e-4 of its largest and 1e-6, all by 1e-3.
"""

import contextlib
import dataclasses
import functools
import logging
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from interactrank_jax.config import configuration
from interactrank_jax.devices import distributed
from interactrank_jax.devices.parallel import all_devices
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.files import PathLike
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.optimizer import RowOptimizer
from interactrank_jax.training import loop
from interactrank_jax.training.checkpoint import Checkpoints
from interactrank_jax.training.loop import Loop
from interactrank_jax.training.optim import dense_optimizer
from interactrank_jax.training.shared_step import check_alike
from interactrank_jax.training.state import TrainState
from interactrank_jax.training.trainer import Trainer
from interactrank_jax.training.validation import Validation

logger = logging.getLogger(__name__)

Array = jax.Array


@struct.dataclass
class Rates:
    """The numbers of the optimizers of one model, to be traced.

    Attributes:
      dense, tables: learning rate by step, `[steps]`.
      weight_decay, table_weight_decay: of either.
      affine_scale, affine_weight_decay: `config.train.affine`'s.
    """

    dense: Array
    tables: Array
    weight_decay: Array
    table_weight_decay: Array
    affine_scale: Array
    affine_weight_decay: Array

    @classmethod
    def of(cls, trainer: Trainer) -> "Rates":
        """Reads them from a training."""
        steps, train = jnp.arange(trainer.timetable.total), trainer.config.train
        return cls(
            dense=jax.vmap(trainer.schedule)(steps),
            tables=jax.vmap(trainer.row_optimizer.schedule)(steps),
            weight_decay=jnp.float32(train.optimizer.weight_decay),
            table_weight_decay=jnp.float32(train.tables.weight_decay),
            affine_scale=jnp.float32(train.affine.rate_scale),
            affine_weight_decay=jnp.float32(train.affine.weight_decay),
        )


def train_many(
    config: ConfigDict,
    examples_path: PathLike | Examples,
    overrides: Sequence[Mapping[str, Any]],
    workdirs: Sequence[PathLike],
    device: jax.Device | None = None,
) -> list[dict[str, Any]]:
    """Trains several models in one step, or resumes what is in their run directories.

    Args:
      config: a whole config; set its `train.order_seed` where seeds differ.
      examples_path: output of `prepare`, or the opened examples.
      overrides: of each model, values of fields by name; what differs must be among
        `shared_step.VARIED`.
      workdirs: the run directory of each.
      device: to train on; the first by default.

    Returns:
      the best validation record of each, as `train` returns it. A model with a loss or gradient
      that is not finite ends there and the others go on; its record is {"error": what it was}.

    Raises:
      InputError: models that cannot share a step, or examples or a workdir that do not fit.
      TrainingInterrupted: SIGINT or SIGTERM came; the states are saved.
    """
    if len(overrides) != len(workdirs) or not workdirs:
        raise InputError(
            f"{len(overrides)} sets of overrides and {len(workdirs)} run directories. Expected one "
            f"of each for every model, and at least one model."
        )
    if len({Path(path).resolve() for path in workdirs}) < len(workdirs):
        raise InputError("two models have one run directory. Expected one for each of them.")
    if jax.process_count() > 1:
        raise InputError(
            f"{jax.process_count()} processes train together. Models that share a step train on "
            f"one device of one process: train them one by one."
        )
    examples = examples_path
    if not isinstance(examples, Examples):
        examples = Examples(outputs.from_user(str(examples), "examples"))
    configs = [configuration.with_values(config, values) for values in overrides]
    check_alike(configs)
    devices = [all_devices()[0] if device is None else device]
    trainers = [
        Trainer(each, examples, workdir, devices, overrides=values)
        for each, values, workdir in zip(configs, overrides, workdirs, strict=True)
    ]
    return Vmapped(trainers).fit()


class Vmapped:
    """The trainings of models that share a step; see `train_many`.

    Attributes:
      trainers: of each model; none has a state of its own while `states` has them.
    """

    def __init__(self, trainers: Sequence[Trainer]):
        self.trainers = trainers
        self._first = trainers[0]
        self._parallel = self._first.parallel
        self._step = self._parallel.map_step(self.per_device)
        self._states: TrainState | None = None
        self._validation: Validation | None = None
        # By run directory; host states of models that ended, or join the steps later.
        self._errors: dict[Path, str] = {}
        self._apart: dict[Path, Any] = {}

    def per_device(
        self, states: TrainState, batch: Mapping[str, Array], shared: dict[str, Any]
    ) -> TrainState:
        """The step of one device: that of each model, vmapped.

        Args:
          states: with an axis of models before those of each leaf.
          batch: of all models.
          shared: the item 'store', and the 'rates' of each model: what a step leaves as it is.
        """
        train = self._first.config.train

        def step(state: TrainState, rates: Rates) -> TrainState:
            optimizer = dense_optimizer(
                types.SimpleNamespace(
                    weight_decay=rates.weight_decay, clip_norm=train.optimizer.clip_norm
                ),
                lambda count: rates.dense[count],
                types.SimpleNamespace(
                    weight_decay=rates.affine_weight_decay, rate_scale=rates.affine_scale
                ),
            )
            row_optimizer = RowOptimizer(
                train.tables.name,
                lambda count: rates.tables[count],
                weight_decay=rates.table_weight_decay,
            )
            return self._first.make_step(optimizer, row_optimizer)(state, batch, shared["store"])

        return jax.vmap(step)(states, shared["rates"])

    def initial_state(self, trainer: Trainer) -> TrainState:
        """Returns the canonical state of a model at step 0: one start is fitted, one compiled."""
        return self._parallel.initialise(self._init, int(trainer.config.train.seed))

    @functools.cached_property
    def _init(self) -> Callable[[Array], TrainState]:
        affine = self._first.affine
        return lambda seed: self._first.init(affine, seed)

    @property
    def states(self) -> TrainState:
        """The states as of the last step: of each leaf those of all models, placed."""
        if self._states is None:
            self._states = self._stack(lambda number: None)
        return self._states

    def _stack(self, start: Callable[[int], None]) -> TrainState:
        """Returns the states of all models, each taken from its trainer once it was started."""

        def placed() -> Iterator[TrainState]:
            for number, trainer in enumerate(self.trainers):
                start(number)
                yield trainer.placed
                trainer.placed = None

        return self._parallel.stack(placed(), len(self.trainers))

    @contextlib.contextmanager
    def _state_of(self, number: int) -> Iterator[TrainState]:
        """Lets a trainer have the state of its model, placed, within the block."""
        trainer = self.trainers[number]
        on_host = self._apart.get(trainer.workdir)
        if on_host is None:
            trainer.placed = self._parallel.unstack(self.states, number)
        else:
            trainer.placed = self._parallel.replicate(on_host)
        try:
            yield trainer.placed
        finally:
            trainer.placed = None
            if self._validation is not None:
                self._validation.release()

    def _set_apart(self, number: int) -> None:
        """Keeps the state that a trainer has now, whatever steps make of its part of the stack."""
        trainer = self.trainers[number]
        state = self._parallel.unreplicate(trainer.placed)
        self._apart[trainer.workdir] = jax.device_get(state)

    @functools.cached_property
    def _shared(self) -> dict[str, Any]:
        rates = [self._parallel.replicate(Rates.of(each)) for each in self.trainers]
        return {"store": self._first.store, "rates": self._parallel.stack(rates, len(rates))}

    def advance(self, batch: Mapping[str, jax.Array]) -> None:
        """Dispatches one step of all models on a batch of `parallel.shard`.

        Raises:
          InputError: the model or a loss has something that cannot be vmapped.
        """
        try:
            self._states = self._step(self.states, batch, self._shared)
        except NotImplementedError as error:
            raise InputError(
                f"{self._first.config.model.name} cannot share a step with others: {error}. Give "
                f"that function a batching rule (a callback: `vmap_method`), or train the models "
                f"one by one."
            ) from error

    # --- training --------------------------------------------------------------------------------

    def fit(self) -> list[dict[str, Any]]:
        """Trains to the end; see `train_many`."""
        template, source = loop.prepare(self._first, len(self.trainers))
        with contextlib.ExitStack() as stack:
            data, loops = self._first.batches(), []
            for trainer in self.trainers:
                stack.enter_context(trainer.run.claimed(trainer.examples))
                checkpoints = stack.enter_context(Checkpoints(trainer.run.workdir))
                loops.append(Loop(trainer, data, checkpoints))
            stop_requested = stack.enter_context(distributed.stop_requests())
            oldest = self._start(loops, template, source)
            self._run(loops, oldest, stop_requested)
            for number, each in enumerate(loops):
                error = self._errors.get(each.trainer.workdir)
                with self._state_of(number):
                    each.trainer.summary = {"error": error} if error else each.conclude()
        return [trainer.summary for trainer in self.trainers]

    def _start(self, loops: Sequence[Loop], template: TrainState, source: Run | None) -> Loop:
        """Stacks the states that models start at, or go on from.

        Returns:
          the loop that has the most steps left, at whose position the data then is.
        """
        data: Any = loops[0].data  # of all of them
        beginning, positions = data.get_state(), []

        def start(number: int) -> None:
            data.set_state(beginning)
            loops[number].start(template, source, self.initial_state)
            positions.append(data.get_state())

        self._states = self._stack(start)
        going_on = [each for each in loops if not each.progress.stopped]
        oldest = min(going_on, key=lambda each: each.first_step, default=loops[0])
        data.set_state(positions[loops.index(oldest)])
        for number, each in enumerate(loops):
            if each.progress.stopped or each.first_step > oldest.first_step:
                with self._state_of(number):
                    self._set_apart(number)
        return oldest

    def _run(
        self, loops: Sequence[Loop], oldest: Loop, stop_requested: Callable[[int], bool]
    ) -> None:
        """Makes the steps that are left, from those of the loop that has the most left on."""
        timetable = self._first.timetable
        self._validation = validation = Validation(self._first)
        with contextlib.ExitStack() as stack:
            profilers = []
            for number, each in enumerate(loops):
                with self._state_of(number):
                    opened = each.opened(validation, each is oldest)
                    profilers.append(stack.enter_context(opened))
            profiler = profilers[loops.index(oldest)]
            for each in loops:
                each.start_clock()
            for done in range(oldest.first_step + 1, timetable.total + 1):
                if all(map(self._is_over, loops)):
                    break
                batch = self._parallel.shard(next(oldest.data))
                self.advance(batch)
                profiler.step(self.states)
                is_stopping = stop_requested(done)
                if any(timetable.due(done)) or is_stopping:
                    self._follow(loops, done, batch, is_stopping)
                self._join(loops, done)
                if is_stopping:
                    raise loop.interrupted(done)

    def _is_over(self, each: Loop) -> bool:
        return each.progress.stopped or each.trainer.workdir in self._errors

    def _follow(
        self, loops: Sequence[Loop], done: int, batch: Mapping[str, Any], is_stopping: bool
    ) -> None:
        """Does what is due after a step, for each model that took it."""
        jax.block_until_ready(self.states.step)
        for number, each in enumerate(loops):
            if self._is_over(each) or done <= each.first_step:
                continue
            began = time.perf_counter()
            with self._state_of(number):
                try:
                    each.follow(done, batch, is_stopping)
                except FloatingPointError as error:
                    self._errors[each.trainer.workdir] = str(error)
                    logger.warning("warning: %s: %s", each.trainer.workdir, error)
                if each.progress.stopped:
                    self._set_apart(number)
            for other in loops:  # the time of one's validation is not that of the others' steps
                if other is not each:
                    other.pause(time.perf_counter() - began)
        due = self._first.timetable.due(done)
        if due.log:  # the sums were written, and begin anew
            zeros = {name: np.zeros(len(loops), np.float32) for name in self.states.sums}
            sums = self._parallel.replicate(zeros)
            self._states = dataclasses.replace(self.states, sums=sums)

    def _join(self, loops: Sequence[Loop], done: int) -> None:
        """Gives models that were resumed at this step, and others before it, their own state."""
        for number, each in enumerate(loops):
            if done == each.first_step and not each.progress.stopped:
                with self._state_of(number) as placed:
                    self._states = self._parallel.put(self.states, number, placed)
                del self._apart[each.trainer.workdir]
