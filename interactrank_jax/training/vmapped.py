"""Several small models trained at once: one compiled step on one device, one batch for all.

`train_many` trains S models that differ in seeds and rates alone, and leaves S ordinary runs, each
the one that `train` makes of its config. All name one `train.order_seed`: a seed then varies
initialisation, dropout and sampling, but not the order of examples.

The step is that of one model under `jax.vmap`: states and rates have an axis of models, the batch
has none. Everything around it (validation, best model, early stopping, checkpoints, curves) is each
run's own `Loop`, which follows its part of the stacked state. The part of a run that has ended
early, or is no longer finite, or was resumed at a later step than the others, goes unread.

`tests/training/test_vmapped.py` holds the models against those of `train`, in float32: after a few
steps 99% of the entries of a tensor differ by at most 1e-4 of its largest and 1e-6, all by 1e-3.
"""

import contextlib
import dataclasses
import functools
import logging
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from interactrank_jax.config import configuration, fields
from interactrank_jax.devices import distributed
from interactrank_jax.devices.parallel import all_devices
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.files import PathLike
from interactrank_jax.tables.optimizer import RowOptimizer
from interactrank_jax.training import loop
from interactrank_jax.training.checkpoint import Checkpoints
from interactrank_jax.training.loop import Loop
from interactrank_jax.training.optim import dense_optimizer
from interactrank_jax.training.state import TrainState
from interactrank_jax.training.trainer import Trainer, order_seed
from interactrank_jax.training.validation import Validation

logger = logging.getLogger(__name__)

Array = jax.Array

ORDER_SEED = "train.order_seed"
# Fields in which the models of a step may differ: what can be traced.
VARIED = (
    "train.seed",
    "train.optimizer.learning_rate",
    "train.optimizer.warmup_steps",
    "train.optimizer.decay",
    "train.optimizer.weight_decay",
    "train.affine.rate_scale",
    "train.affine.weight_decay",
    "train.tables.learning_rate",
    "train.tables.warmup_steps",
    "train.tables.decay",
    "train.tables.weight_decay",
)


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
      overrides: of each model, values of fields by name; what differs must be among `VARIED`.
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


def shared_part(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields by name that models must have in common to share a step."""
    values = dict(fields.leaves(configuration.to_json(config)))
    return {
        **{name: value for name, value in values.items() if name not in VARIED},
        ORDER_SEED: order_seed(config.train),
    }


def check_alike(configs: Sequence[ConfigDict]) -> None:
    """Refuses models that cannot share a step.

    Raises:
      InputError: they differ in more than seeds and rates, or need something of each one's own.
    """
    first, train = shared_part(configs[0]), configs[0].train
    for config in configs[1:]:
        other = shared_part(config)
        names = [name for name in sorted({*first, *other}) if first.get(name) != other.get(name)]
        if names == [ORDER_SEED]:
            raise InputError(
                f"config.train.seed is {train.seed} and {config.train.seed}, and "
                f"config.train.order_seed is none or another: each model would see other batches. "
                f"Set config.train.order_seed to one number for all of them."
            )
        if names:
            name = names[0]
            raise InputError(
                f"config.{name} is {first.get(name)} and {other.get(name)}. Models that share a "
                f"step may differ in {', '.join(VARIED)}: train these apart."
            )
    if int(train.loss.hard_negatives):
        raise InputError(
            f"config.train.loss.hard_negatives is {train.loss.hard_negatives}: each model would "
            f"need an index of all items of its own. Expected 0 where models share a step: train "
            f"them one by one."
        )
    if int(train.table_shards) > 1:
        raise InputError(
            f"config.train.table_shards is {train.table_shards}. Models that share a step train "
            f"on one device: set it to 1, or train them one by one."
        )


class Vmapped:
    """The trainings of models that share a step; see `train_many`.

    Attributes:
      trainers: of each model; its state is that of the last step that something was due after.
    """

    def __init__(self, trainers: Sequence[Trainer]):
        self.trainers = trainers
        self._first = trainers[0]
        self._parallel = self._first.parallel
        self._step = self._parallel.map_step(self.per_device)
        self._states: TrainState | None = None
        self._errors: dict[Path, str] = {}  # by run directory

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
            self._states = self._parallel.stack([each.placed for each in self.trainers])
        return self._states

    @functools.cached_property
    def _shared(self) -> dict[str, Any]:
        rates = [self._parallel.replicate(Rates.of(each)) for each in self.trainers]
        return {"store": self._first.store, "rates": self._parallel.stack(rates)}

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
            loops = []
            for trainer in self.trainers:
                stack.enter_context(trainer.run.claimed(trainer.examples))
                checkpoints = stack.enter_context(Checkpoints(trainer.run.workdir))
                loops.append(Loop(trainer, trainer.batches(), checkpoints))
            stop_requested = stack.enter_context(distributed.stop_requests())
            for each in loops:
                each.start(template, source, self.initial_state)
            self._run(loops, stop_requested)
            for each in loops:
                error = self._errors.get(each.trainer.workdir)
                each.trainer.summary = {"error": error} if error else each.conclude()
        return [trainer.summary for trainer in self.trainers]

    def _run(self, loops: Sequence[Loop], stop_requested: Callable[[int], bool]) -> None:
        """Makes the steps that are left."""
        timetable = self._first.timetable
        going_on = [each for each in loops if not each.progress.stopped]
        oldest = min(going_on, key=lambda each: each.first_step, default=loops[0])
        validation = Validation(self._first)
        with contextlib.ExitStack() as stack:
            profilers = {}
            for place, each in enumerate(loops):
                each.data = oldest.data
                profilers[place] = stack.enter_context(each.opened(validation, each is oldest))
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
        for place, each in enumerate(loops):
            if self._is_over(each) or done <= each.first_step:
                continue
            began = time.perf_counter()
            each.trainer.placed = self._parallel.unstack(self.states, place)
            try:
                each.follow(done, batch, is_stopping)
            except FloatingPointError as error:
                self._errors[each.trainer.workdir] = str(error)
                logger.warning("warning: %s: %s", each.trainer.workdir, error)
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
        for place, each in enumerate(loops):
            if done == each.first_step and not each.progress.stopped:
                self._states = self._parallel.put(self.states, place, each.trainer.placed)
