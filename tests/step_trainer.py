"""A harness for tests of the training step."""

import functools
from typing import Any

import jax
import numpy as np

from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.lookup import item_store
from interactrank_jax.training import steps
from interactrank_jax.training.objective import Objective
from interactrank_jax.training.state import TrainState, init_state
from tests.synthetic import tiny_config

BATCH = 16


class Trainer:
    """A compiled step on one device, on states and batches of numpy arrays."""

    def __init__(
        self, examples, model, optimizer, row_optimizer, loss=(), microbatches=1, **model_fields
    ):
        self.config = tiny_config(model, **model_fields)
        self.config.model.tower.masknet.dropout = 0.0
        self.config.train.loss.update(dict(loss))
        self.run = Run("unused", self.config, examples.metadata)
        self.objective = Objective.from_config(
            self.config,
            self.run.rule,
            examples.metadata,
            examples.num_items,
            self.run.model,
        )
        self.optimizer, self.row_optimizer = optimizer, row_optimizer
        self.parallel = DataParallel("shard_map", jax.devices()[:1])
        self.per_device = steps.make_train_step(
            self.run.model,
            self.objective,
            optimizer,
            row_optimizer,
            self.parallel.layout,
            total_steps=100,
            microbatches=microbatches,
        )
        self.store: Any = item_store(examples.items)
        self._step = self.parallel.map_step(self.per_device)

    @functools.cached_property
    def initial(self) -> TrainState:
        init = functools.partial(
            init_state,
            self.run.model,
            self.config,
            self.run.metadata.tables,
            self.optimizer,
            self.row_optimizer,
            self.objective,
        )
        return jax.tree.map(np.array, self.parallel.initialise(init))

    def step(self, state, batch):
        """One step; copies, because the step donates what it is given."""
        after = self._step(
            self.parallel.replicate(jax.tree.map(np.copy, state)),
            self.parallel.shard({name: np.copy(value) for name, value in batch.items()}),
            self.parallel.replicate(self.store),
        )
        return jax.tree.map(np.array, after)

    def __call__(self, state, *batches):
        """Steps through batches; the sums are those of the last."""
        for batch in batches:
            zero = {name: np.float32(0) for name in state.sums}
            state = self.step(state.replace(sums=zero), batch)
        return state
