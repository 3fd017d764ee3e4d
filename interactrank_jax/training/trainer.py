"""One object that puts a training together: model, loss, optimizers, step, state and data.

The training command, the benchmarks, the tests and notebooks all train by it. This module imports
neither grain nor what reads logs: a step can be taken on batches that come from elsewhere.
"""

import contextlib
import functools
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from interactrank_jax.config import fields
from interactrank_jax.devices import cuda
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.io.files import PathLike
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.lookup import item_store
from interactrank_jax.tables.optimizer import RowOptimizer
from interactrank_jax.training import reports
from interactrank_jax.training.checks import check_config, with_data_of
from interactrank_jax.training.objective import Objective
from interactrank_jax.training.optim import dense_optimizer, learning_rate
from interactrank_jax.training.start import AffineStart, affine_start, has_affine_start
from interactrank_jax.training.state import TrainState, init_state
from interactrank_jax.training.steps import HARD_INDEX, make_train_step
from interactrank_jax.training.timetable import Timetable

logger = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]


class Trainer:
    """A training of one model on one set of examples.

    `fit` trains as `interactrank train` does: it validates, keeps the best model, saves checkpoints
    and writes curves into `workdir`, and goes on from what is there. Without a `workdir` that is a
    temporary directory, which is removed with the trainer.

    Example:
      >>> import interactrank_jax as ir
      >>> from interactrank_jax.log.simulator.simulate import simulate
      >>> sizes = simulate("tiny", 0, "log")
      >>> config = ir.configs.lr("search")
      >>> examples = ir.prepare("log", config)
      >>> trainer = ir.Trainer(config, examples)
      >>> trainer.loss(next(trainer.batches())) > 0
      True
      >>> figures = trainer.fit(steps=3).evaluate("test").table()
      >>> list(figures.columns)
      ['metric', 'value', 'low', 'high']
      >>> trainer.history["step"].tolist()
      [0, 3]

    Attributes:
      config: the whole config, resolved; its `data` part is that of the examples.
      examples: what is trained on.
      workdir: the run directory, as `training/train.py` describes it.
      run: the model, its inputs and the label rule.
      parallel: the devices.
      timetable: number of steps, and what follows which.
      objective: the loss.
      schedule: learning rate of all but the tables, by step.
      optimizer, row_optimizer: of the parameters, and of the tables.
      per_device: the step of one device, `steps.make_train_step`.
      step: the same mapped over the devices, `step(placed, batch, store) -> placed`.
      summary: what the last `fit` came to: the best `step` and its metric, `steps` done, numbers
        of `parameters` and `table_parameters`; {} before.
    """

    def __init__(
        self,
        config: ConfigDict,
        examples: Examples | PathLike,
        workdir: PathLike | None = None,
        devices: Sequence[jax.Device] | None = None,
        *,
        overrides: Mapping[str, Any] | None = None,
        optimizer: optax.GradientTransformation | None = None,
    ):
        """Puts the parts together; nothing is compiled or written yet.

        Args:
          config: a whole config; it is copied, and its `data` part gives way to that of the
            examples.
          examples: prepared examples, or their directory.
          workdir: the run directory, new or of the same run; None for a temporary one.
          devices: to train on; all of all processes by default.
          overrides: fields that were set by hand, by name; those of `data` must be the examples'.
          optimizer: of the parameters, in place of `config.train.optimizer`. A run that goes on
            must be given the same again.

        Raises:
          InputError: config, examples and devices do not fit each other.
        """
        cuda.avoid_slow_scatter(os.environ)  # before jax starts
        fields.check(config)
        if not isinstance(examples, Examples):
            examples = Examples(outputs.from_user(os.fspath(examples), "examples"))
        self.examples = examples
        given = None if workdir is None else outputs.from_user(os.fspath(workdir), "workdir")
        self.workdir = self._temporary() if given is None else Path(given)
        self._given_optimizer = optimizer
        self._placed: TrainState | None = None
        self.summary: dict[str, Any] = {}
        self._assemble(with_data_of(self.examples, config, overrides or {}), devices)

    def _temporary(self) -> Path:
        """Returns a run directory that is removed with this trainer.

        Raises:
          InputError: there are several processes, which have to write into one directory.
        """
        if jax.process_count() > 1:
            raise InputError(
                f"{jax.process_count()} processes train together. Expected a workdir that all of "
                f"them can write to."
            )
        stack = contextlib.ExitStack()
        scratch = stack.enter_context(outputs.scratch_directory())
        weakref.finalize(self, stack.close)
        return scratch / "run"

    def _assemble(self, config: ConfigDict, devices: Sequence[jax.Device] | None) -> None:
        """Sets all that follows from a config."""
        train, examples = config.train, self.examples
        self.config = config
        self.run = run = Run(self.workdir, config, examples.metadata)
        self.parallel = DataParallel(
            train.parallel,
            devices,
            shards=int(train.table_shards),
            tables=examples.metadata.tables,
        )
        check_config(config, examples, run.rule, self.parallel.size)
        self.timetable = Timetable.from_config(train, examples)
        self.objective = Objective.from_config(
            config,
            run.rule,
            examples.metadata,
            examples.num_items,
            run.model,
            offset=run.prior_offsets(examples)[0],
        )
        total = self.timetable.total
        warn_of_warmup(train, total)
        self.schedule = learning_rate(train.optimizer, total)
        self.optimizer = self._given_optimizer or dense_optimizer(
            train.optimizer, self.schedule, train.affine
        )
        self.row_optimizer = RowOptimizer(
            train.tables.name,
            learning_rate(train.tables, total),
            train.tables.initial_accumulator,
            train.tables.weight_decay,
        )
        self.per_device = self.make_step(self.optimizer, self.row_optimizer)
        self.step: Callable[..., TrainState] = self.parallel.map_step(self.per_device)

    def make_step(
        self, optimizer: optax.GradientTransformation, row_optimizer: RowOptimizer
    ) -> Callable[..., TrainState]:
        """Returns the step of one device with these optimizers, see `steps.make_train_step`."""
        train = self.config.train
        return make_train_step(
            *(self.run.model, self.objective, optimizer, row_optimizer),
            *(self.parallel.layout, self.timetable.total),
            microbatches=int(train.microbatches),
            id_dropout=float(train.id_dropout),
            out_of_vocabulary=self.examples.metadata.out_of_vocabulary,
        )

    def init(
        self, affine: AffineStart | None = None, seed: int | jax.Array | None = None
    ) -> TrainState:
        """Returns a state at step 0; to be traced, see `state.init_state`.

        Args:
          affine: what the terms of history start with; shapes do not depend on it.
          seed: in place of the config's.
        """
        return init_state(
            *(self.run.model, self.config, self.examples.metadata.tables),
            *(self.optimizer, self.row_optimizer, self.objective),
            affine=affine,
            seed=seed,
        )

    def initial_state(self) -> TrainState:
        """Returns the canonical state at step 0, terms of history at their regression."""
        return self.parallel.initialise(functools.partial(self.init, self.affine))

    @functools.cached_property
    def affine(self) -> AffineStart | None:
        """What the terms of history start with, see `start.py`; None in a warm start."""
        if self.config.train.warm_start:
            return None
        return affine_start(self.examples, self.run.rule, self.run.inputs, self.config)

    @property
    def has_start(self) -> bool:
        """Whether step 0 is worth something: a regression, or the run that a warm start takes."""
        return bool(self.config.train.warm_start) or has_affine_start(self.run.inputs, self.config)

    # --- state -----------------------------------------------------------------------------------

    @property
    def placed(self) -> TrainState:
        """The state on the devices, as `parallel` places it: at step 0 until steps are taken."""
        if self._placed is None:
            self._placed = self.parallel.place(self.initial_state())
        return self._placed

    @placed.setter
    def placed(self, state: TrainState | None) -> None:
        self._placed = state

    @property
    def state(self) -> TrainState:
        """The state as of the last step, one global array a leaf.

        With shard_map on an accelerator, the next step takes the memory of these very arrays over:
        copy what is to outlive it.
        """
        return self.parallel.canonical(self.placed)

    @functools.cached_property
    def store(self) -> dict[str, Any]:
        """The item store on the devices; with hard negatives, what `mine_hard_negatives` added."""
        return self.parallel.replicate(item_store(self.examples.items))

    def advance(self, batch: Mapping[str, jax.Array]) -> None:
        """Dispatches one step on a batch of `parallel.shard`; does not wait for it."""
        self.placed = self.step(self.placed, batch, self.store)

    def mine_hard_negatives(self) -> None:
        """Encodes all items by the state's model, where the objective asks for hard negatives."""
        if self.objective.hard_negatives:
            from interactrank_jax.ranking.index import encode_items

            model = {"params": self.placed.params, "tables": self.placed.tables}
            items = item_store(self.examples.items)
            index = encode_items(self.run, self.parallel.unreplicate(model), items)
            self.store[HARD_INDEX] = self.parallel.replicate(index)

    # --- data ------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        """Returns the endless training batches of this process, a Grain iterator.

        A batch has this process's part of a step's requests: arrays `[R, ...]` by column.
        """
        from interactrank_jax.examples.input import train_iterator

        processes = jax.process_count()
        return train_iterator(
            self.examples,
            int(self.config.train.batch_size) // processes,
            seed=order_seed(self.config.train),
            names=self._columns(),
            shard=jax.process_index(),
            num_shards=processes,
        )

    def _columns(self) -> tuple[str, ...]:
        from interactrank_jax.examples.input import train_columns

        return (*train_columns(self.examples), *self.objective.columns)

    def loss(self, batch: Mapping[str, np.ndarray]) -> float:
        """Returns the loss of a batch, as the next step would report it; nothing is learned.

        Args:
          batch: as of `batches`, of any number of requests that the devices can share.

        Raises:
          InputError: a column is missing, or the devices cannot share the requests.
        """
        for name in self._columns():
            if name not in batch:
                raise InputError(f"the batch has no column '{name}'." + did_you_mean(name, batch))
        if self.objective.hard_negatives and HARD_INDEX not in self.store:
            self.mine_hard_negatives()
        # The step takes over the memory of what it is given.
        copy = jax.tree.map(jnp.copy, self.placed)
        zero = {name: np.zeros((), np.float32) for name in self.objective.sum_names}
        after = self.step(
            copy.replace(sums=self.parallel.replicate(zero)),
            self.parallel.shard({name: np.copy(batch[name]) for name in self._columns()}),
            self.store,
        )
        return float(self.parallel.unreplicate(after.sums["loss"]))

    # --- training --------------------------------------------------------------------------------

    def fit(self, steps: int | None = None, epochs: float | None = None) -> "Trainer":
        """Trains to the end, or goes on with what `workdir` holds; returns this trainer.

        Args:
          steps: the length of the whole training, in place of `config.train.max_steps`: learning
            rates are laid out for it.
          epochs: the same in passes over the training split.

        Raises:
          InputError: `workdir` holds another run, or one of another length.
          TrainingInterrupted: SIGINT or SIGTERM came; the state is saved.
          FloatingPointError: a loss or gradient is not finite; names the step and the tensor.
        """
        from interactrank_jax.training import loop

        if steps is not None or epochs is not None:
            self._set_length(steps, epochs)
        self.summary = loop.run_to_end(self)
        return self

    def _set_length(self, steps: int | None, epochs: float | None) -> None:
        if steps is not None and epochs is not None:
            raise InputError(f"fit(steps={steps}, epochs={epochs}). Expected one of them.")
        if steps is not None and steps < 1:
            raise InputError(f"fit(steps={steps}). Expected at least one step.")
        config = self.config.copy_and_resolve_references()
        config.train.max_steps = steps or 0
        if epochs is not None:
            config.train.epochs = float(epochs)
        fields.check(config)
        total = Timetable.from_config(config.train, self.examples).total
        if self.summary and total != self.timetable.total:
            raise InputError(
                f"this trainer was laid out for {self.timetable.total:,} steps and has trained; "
                f"{total:,} are another training. Make another Trainer: with "
                f"config.train.warm_start='{self.workdir}' it starts from this one's best model."
            )
        if total != self.timetable.total or not self.summary:
            self._assemble(config, self.parallel.devices)

    # --- results ---------------------------------------------------------------------------------

    @property
    def history(self) -> Any:
        """The curves of RUN/metrics.jsonl, one row a step: a pandas DataFrame, see `reports`.

        Raises:
          InputError: nothing was trained yet.
        """
        self._check_trained()
        return reports.history(self.workdir / "metrics.jsonl")

    def evaluate(self, split: str = "test") -> reports.Evaluation:
        """Evaluates the best model so far on a split of the examples; see `evaluation.evaluate`.

        Raises:
          InputError: nothing was trained yet, or there is no such split.
        """
        from interactrank_jax.evaluation.evaluate import evaluate

        self._check_trained()
        return reports.Evaluation(evaluate(self.workdir, self.examples.path, split))

    def _check_trained(self) -> None:
        if not (self.workdir / "metrics.jsonl").exists():
            raise InputError("this trainer has trained nothing yet: call .fit() first.")


def order_seed(config: ConfigDict) -> int:
    """Returns the seed of the order of examples, of the `train` part of a config."""
    given = config.get("order_seed")  # a run of before it was a field lacks it
    return int(config.seed if given is None else given)


def warn_of_warmup(config: ConfigDict, total_steps: int) -> None:
    """Warns of a warm-up, in the `train` part of a config, that the training never gets past."""
    for name in ("optimizer", "tables"):
        if int(config[name].warmup_steps) >= total_steps:
            logger.warning(
                "config.train.%s.warmup_steps is %d, of %d steps: the rate never reaches its peak",
                *(name, config[name].warmup_steps, total_steps),
            )
