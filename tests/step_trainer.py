"""A harness for tests of the training step."""

import functools
from typing import Any

import jax
import numpy as np

from interactrank_jax.tables.lookup import item_store
from interactrank_jax.training.state import TrainState
from interactrank_jax.training.trainer import Trainer
from tests.synthetic import tiny_config

BATCH = 16


class StepTrainer:
    """A `Trainer` on one device, on states and batches of numpy arrays."""

    def __init__(
        self, examples, model, optimizer, loss=(), *, table_rate=0.1, microbatches=1, **model_fields
    ):
        config = tiny_config(model, **model_fields)
        config.model.tower.masknet.dropout = 0.0
        config.train.loss.update(dict(loss))
        config.train.tables.learning_rate = table_rate
        config.train.update(
            {"parallel": "shard_map", "max_steps": 100, "microbatches": microbatches}
        )
        trainer = Trainer(config, examples, devices=jax.devices()[:1], optimizer=optimizer)
        self.trainer, self.config, self.optimizer = trainer, config, optimizer
        self.run, self.objective = trainer.run, trainer.objective
        self.parallel, self.per_device = trainer.parallel, trainer.per_device
        self.store: Any = item_store(examples.items)

    @functools.cached_property
    def initial(self) -> TrainState:
        return jax.tree.map(np.array, self.trainer.initial_state())

    def step(self, state, batch):
        """One step; copies, because the step donates what it is given."""
        after = self.trainer.step(
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
