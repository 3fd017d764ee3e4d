"""The train state: one frozen dataclass."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from interactrank_jax.losses.sketch import Sketch
from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.tables.optimizer import RowOptimizer
from interactrank_jax.tables.sharding import init_tables
from interactrank_jax.training.objective import Objective
from interactrank_jax.training.start import AffineStart, with_start

Array = jax.Array

HEALTHY = -1  # `health` of a run in which every tensor was finite


@struct.dataclass
class TrainState:
    """Everything a resumed run needs beside the position in the data.

    Attributes:
      step: steps done, int32.
      params: the dense parameters.
      opt_state: their optimizer's.
      tables: name -> `[V, d]` embedding tables.
      table_states: name -> row optimizer state.
      sketch: counts of the items seen, None where no loss asks for them.
      rng: key that every step's randomness is folded from.
      sums: metric sums since they were last written, name -> scalar.
      health: int32 `[2]`: the first step with a non-finite tensor and that tensor's place in
        `steps.health_checks`; both HEALTHY where there was none.
    """

    step: Array
    params: Any
    opt_state: Any
    tables: dict[str, Array]
    table_states: dict[str, Any]
    sketch: Sketch | None
    rng: Array
    sums: dict[str, Array]
    health: Array


def init_state(
    model: PreRanker,
    config: Any,
    table_sizes: dict[str, int],
    optimizer: optax.GradientTransformation,
    row_optimizer: RowOptimizer,
    objective: Objective,
    affine: AffineStart | None = None,
    seed: int | Array | None = None,
) -> TrainState:
    """Returns the state at step 0, a function of a seed and `affine` alone.

    To be traced: `DataParallel.initialise` compiles it so that no device makes more than it holds.
    Without a `seed` it is that of `config.train`.
    """
    root = jax.random.key(config.train.seed if seed is None else seed)
    dense_key, table_key, step_key = jax.random.split(root, 3)
    sample = zero_inputs(model.inputs, model.row_width)
    params = with_start(model.init(dense_key, **sample)["params"], model.bias_path(), affine)
    tables = init_tables(table_key, table_sizes, model.row_width, config.model.embedding_scale)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        tables=tables,
        table_states={name: row_optimizer.init(table) for name, table in tables.items()},
        sketch=objective.init_sketch(),
        rng=jax.random.key_data(step_key),
        sums={name: jnp.zeros((), jnp.float32) for name in objective.sum_names},
        health=jnp.full(2, HEALTHY, jnp.int32),
    )


def count_parameters(params: Any) -> int:
    """Returns the number of scalars in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
