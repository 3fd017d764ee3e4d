"""Row-wise optimizers: only the rows of a table that a batch looked up are updated."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from interactrank_jax.tables.lookup import Rows

Array = jax.Array
RowState = dict[str, Array]


class RowOptimizer:
    """Updates only the rows a batch touched; untouched rows and their state keep their bits.

    Attributes:
      name: 'adagrad' (one accumulator per row, the mean square of its gradient) or 'adam' (lazy:
        a row's moments decay only when it is touched; the bias correction counts global steps).
      schedule: learning rate by step.
      weight_decay: times the rate, the share that a touched row loses at each step, as in AdamW;
        a number, or one that is traced.
    """

    def __init__(
        self,
        name: str,
        schedule: Callable[[Array], Array],
        initial_accumulator: float = 0.1,
        weight_decay: float | Array = 0.0,
    ):
        self.name, self.weight_decay = name, weight_decay
        self.schedule = schedule
        self.initial_accumulator = initial_accumulator

    def init(self, table: Array) -> RowState:
        """Returns the state of a table `[V, d]`."""
        if self.name == "adagrad":
            return {"accumulator": jnp.full(table.shape[0], self.initial_accumulator, jnp.float32)}
        return {"first": jnp.zeros_like(table), "second": jnp.zeros_like(table)}

    def update(
        self, table: Array, state: RowState, rows: Rows, gradient: Array, step: Array
    ) -> tuple[Array, RowState]:
        """Returns the table and its state after a step.

        Args:
          table: `[V, d]`.
          state: of `init`.
          rows: ids `[U]` and which of them are touched.
          gradient: `[U, d]` of the loss with respect to those rows.
          step: of the schedule, from 0.
        """
        rate = self.schedule(step)
        old = {name: rows.read(array) for name, array in state.items()}
        if self.name == "adagrad":
            accumulator = old["accumulator"] + jnp.mean(gradient * gradient, -1)
            change = rate * gradient * jax.lax.rsqrt(accumulator + 1e-10)[:, None]
            new = {"accumulator": accumulator}
        else:
            first = 0.9 * old["first"] + 0.1 * gradient
            second = 0.999 * old["second"] + 0.001 * gradient * gradient
            time = step.astype(jnp.float32) + 1
            corrected = jnp.sqrt(second / (1 - 0.999**time)) + 1e-8
            change = rate * first / (1 - 0.9**time) / corrected
            new = {"first": first, "second": second}
        before = rows.read(table)
        if isinstance(self.weight_decay, jax.Array) or self.weight_decay:
            change = change + rate * self.weight_decay * before
        new_table = rows.write(table, before - change)
        return new_table, {name: rows.write(state[name], value) for name, value in new.items()}


def update_tables(
    optimizer: RowOptimizer,
    tables: Mapping[str, Array],
    states: Mapping[str, RowState],
    rows: Mapping[str, Rows],
    gradients: Mapping[str, Array],
    step: Array,
) -> tuple[dict[str, Array], dict[str, RowState]]:
    """Applies `RowOptimizer.update` to every table that has rows; others pass through."""
    new_tables, new_states = dict(tables), dict(states)
    for name, touched in rows.items():
        new_tables[name], new_states[name] = optimizer.update(
            tables[name], states[name], touched, gradients[name], step
        )
    return new_tables, new_states
