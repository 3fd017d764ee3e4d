"""What one device does with one batch: pure functions that name the mapped axes of a `Layout`.

Losses are sums and weights, divided by the weight over all devices, so that a step does not depend
on how the batch was split. Tables are updated row by row, the rest through optax.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from interactrank_jax.examples.format import PADDING
from interactrank_jax.losses import sketch
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.tables import lookup
from interactrank_jax.tables.lookup import Slot
from interactrank_jax.tables.optimizer import RowOptimizer, update_tables
from interactrank_jax.tables.sharding import Layout, embed_directly, look_up, reduce_rows
from interactrank_jax.training import objective as objectives
from interactrank_jax.training.objective import Encoded, Objective
from interactrank_jax.training.state import HEALTHY, TrainState

Array = jax.Array
Batch = Mapping[str, Array]

_DROPPED = ("request/user_id", "request/query_id", "item/item_id")
HARD_INDEX = "hard_index"  # of the store: every item's representation at the last checkpoint


def make_train_step(
    model: PreRanker,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    row_optimizer: RowOptimizer,
    layout: Layout,
    total_steps: int,
    microbatches: int = 1,
    id_dropout: float = 0.0,
    out_of_vocabulary: int = 1,
) -> Callable[[TrainState, Batch, Batch], TrainState]:
    """Returns `step(state, batch, store) -> state`.

    Args:
      model: the model.
      objective: the loss.
      optimizer, row_optimizer: for the parameters and for the tables.
      layout: of the devices that the step is mapped over.
      total_steps: length of the training, for models that change in its course.
      microbatches: parts that a device encodes one after the other, so that only one part's
        activations are in memory. The loss is that of the whole batch, in-batch negatives
        included: representations are kept, the rest is computed again for the gradient.
      id_dropout: share of the users', queries' and candidates' ids that are replaced by a hashed
        row, as those of ids that training does not see.
      out_of_vocabulary: number of hashed rows.
    """
    inputs, axes = model.inputs, layout.batch

    def step(state: TrainState, batch: Batch, store: Batch) -> TrainState:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        key = jax.random.fold_in(key, jax.lax.axis_index(axes))
        encoding_key, loss_key, draw_key = jax.random.split(key, 3)
        drawn = _draw(model, objective, layout, state, batch, store, draw_key)
        slots = _slots(inputs, batch, store, drawn)
        if id_dropout:
            dropped = jax.random.fold_in(draw_key, 1)
            slots = drop_ids(slots, id_dropout, out_of_vocabulary, dropped)
        values, rows, index = look_up(state.tables, slots, layout)
        counts = _count(state.sketch, batch, axes)

        def loss_function(params, values):
            encoded = _encode_batch(
                model, params, values, index, drawn, batch, store, microbatches, encoding_key
            )
            apply = functools.partial(model.apply, {"params": params})
            progress = jnp.minimum(state.step / total_steps, 1.0)
            return objectives.total(
                objective, apply, encoded, drawn, batch, store, counts, progress, loss_key, axes
            )

        gradient = jax.value_and_grad(loss_function, argnums=(0, 1), has_aux=True)
        (_, sums), (dense_gradient, row_gradient) = gradient(state.params, values)
        dense_gradient = jax.lax.psum(dense_gradient, axes)
        rows, row_gradient = reduce_rows(rows, row_gradient, state.tables, layout)
        sums = jax.lax.psum(sums, axes)
        sums["steps"] = jnp.ones(())
        sums["gradient_norm"] = optax.global_norm(dense_gradient)
        moved = _moved(model, optimizer, row_optimizer, state, dense_gradient, rows, row_gradient)
        # A table that nothing looks up keeps its place, so that the state alone names them all.
        by_table = {name: row_gradient.get(name, jnp.zeros(())) for name in state.tables}
        checks = health_checks(batch, sums, dense_gradient, by_table)
        return dataclasses.replace(
            moved,
            sketch=counts,
            sums={name: total + sums.get(name, 0.0) for name, total in state.sums.items()},
            health=_first_unhealthy(state.health, state.step, checks, axes),
        )

    return step


def drop_ids(
    slots: dict[str, Slot], share: float, out_of_vocabulary: int, key: Array
) -> dict[str, Slot]:
    """Returns the slots with some ids replaced by one of the hashed rows 1, 2, ... of their table.

    Ids in histories stay. Which hashed row an id gets depends on the id alone.
    """
    result = dict(slots)
    for number, name in enumerate(_DROPPED):
        if name in slots:
            slot = slots[name]
            is_dropped = jax.random.bernoulli(
                jax.random.fold_in(key, number), share, slot.ids.shape
            )
            hashed = 1 + slot.ids % out_of_vocabulary
            ids = jnp.where(is_dropped & (slot.ids != PADDING), hashed, slot.ids)
            result[name] = dataclasses.replace(slot, ids=ids)
    return result


def _draw(model, objective, layout, state, batch, store, key) -> dict[str, Array]:
    """Returns the store rows of further negatives, by role."""
    drawn = {}
    if objective.uniform_negatives:
        devices = jax.lax.axis_size(layout.batch)
        drawn["uniform"] = objectives.draw_uniform(objective, key, devices)
    if objective.hard_negatives:
        slots = lookup.request_slots(batch, store, model.inputs)
        embedded = embed_directly(state.tables, slots, layout)
        request = lookup.request_input(embedded, batch, store, model.inputs)
        apply = functools.partial(model.apply, {"params": state.params})
        query = apply(request, method="encode_query")
        similarity = apply(query, store[HARD_INDEX], method="similarity")
        own = objectives.engaged_items(objective, batch)
        drawn["hard"] = objectives.hardest(objective, similarity, own)
    return drawn


def _slots(inputs, batch, store, drawn) -> dict[str, Slot]:
    """Returns what a step looks up: of requests, of their candidates, and of drawn negatives."""
    slots = lookup.request_slots(batch, store, inputs)
    slots |= lookup.item_slots(store, batch["item"], inputs)
    for role, items in drawn.items():
        slots |= lookup.item_slots(store, items, inputs, role)
    return slots


def _moved(
    model: PreRanker,
    optimizer: optax.GradientTransformation,
    row_optimizer: RowOptimizer,
    state: TrainState,
    dense_gradient: Any,
    rows: Any,
    row_gradient: Any,
) -> TrainState:
    """Returns the state with parameters and rows moved by their gradients, one step on."""
    updates, opt_state = optimizer.update(dense_gradient, state.opt_state, state.params)
    tables, table_states = update_tables(
        row_optimizer, state.tables, state.table_states, rows, row_gradient, state.step
    )
    return dataclasses.replace(
        state,
        step=state.step + 1,
        params=model.constrain(optax.apply_updates(state.params, updates)),
        opt_state=opt_state,
        tables=tables,
        table_states=table_states,
    )


def _count(counts, batch, axes):
    """Returns the sketch with the items of all devices' batches, the same on every device."""
    if counts is None:
        return None
    items = jax.lax.all_gather(batch["item"].reshape(-1), axes, tiled=True)
    return sketch.add(counts, items, items != PADDING)


def _encode_batch(model, params, values, index, drawn, batch, store, microbatches, key) -> Encoded:
    """Returns the representations of a batch, part by part, and of the uniform negatives."""
    by_request: dict[str, Any] = {"batch": batch}
    by_request["index"] = {
        name: places for name, places in index.items() if not name.startswith("uniform/")
    }
    if "hard" in drawn:
        by_request["hard"] = drawn["hard"]
    encode = functools.partial(_encode, model, params, values, store)
    encoded = _in_parts(encode, microbatches, by_request, key)
    if "uniform" not in drawn:
        return encoded
    items = _embed_items(values, index, store, model.inputs, drawn["uniform"], "uniform")
    rngs = {"dropout": jax.random.fold_in(key, microbatches)}
    variables = {"params": params}
    vectors = model.apply(variables, items, train=True, rngs=rngs, method="encode_item")
    return encoded._replace(uniform=vectors)


def _encode(model, params, values, store, part, key) -> Encoded:
    """Returns the representations of a part of the batch: requests, their items, hard negatives."""
    batch, hard, index = part["batch"], part.get("hard"), part["index"]
    slots = lookup.request_slots(batch, store, model.inputs)
    embedded = lookup.embed(values, slots, index)
    request = lookup.request_input(embedded, batch, store, model.inputs)
    apply = functools.partial(model.apply, {"params": params}, train=True, rngs={"dropout": key})
    items = functools.partial(_embed_items, values, index, store, model.inputs)
    return Encoded(
        query=apply(request, method="encode_query"),
        items=apply(items(batch["item"], "item"), method="encode_item"),
        hard=None if hard is None else apply(items(hard, "hard"), method="encode_item"),
    )


def _embed_items(values, index, store, inputs, items, role):
    slots = lookup.item_slots(store, items, inputs, role)
    embedded = lookup.embed(values, slots, index)
    return lookup.item_input(embedded, store, items, inputs, role)


def _in_parts(function, count: int, tree: Any, key: Array) -> Any:
    """Applies `function(part, key)` to `count` parts of `tree` `[R, ...]`, one after the other."""
    if count == 1:
        return function(tree, key)
    parts = jax.tree.map(
        lambda leaf: leaf.reshape(count, len(leaf) // count, *leaf.shape[1:]), tree
    )
    keys = jax.random.split(key, count)
    outputs = jax.lax.map(lambda part: jax.checkpoint(function)(*part), (parts, keys))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outputs)


def health_checks(
    batch: Batch, sums: Mapping[str, Any], dense_gradient: Any, row_gradient: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    """Returns (name, tensor) of all that must be finite, in the order in which to blame them."""
    # A teacher's score may be missing, and is NaN then.
    columns = [key for key in sorted(batch) if _is_float(batch[key]) and key != "teacher_score"]
    checks = [(f"batch/{key}", batch[key]) for key in columns]
    checks += [(name, sums[name]) for name in sorted(sums) if name.startswith("loss")]
    for path, leaf in jax.tree_util.tree_leaves_with_path(dense_gradient):
        name = "/".join(str(getattr(entry, "key", entry)) for entry in path)
        checks.append((f"gradient/{name}", leaf))
    checks += [(f"gradient/table/{name}", row_gradient[name]) for name in sorted(row_gradient)]
    return checks


def _is_float(value: Any) -> bool:
    return np.issubdtype(value.dtype, np.floating)


def _first_unhealthy(
    health: Array, step: Array, checks: list[tuple[str, Array]], axes: tuple[str, ...]
) -> Array:
    # A sum is finite only if every term is; cheaper than a mask of every element.
    bad = jnp.stack([~jnp.isfinite(jnp.sum(tensor)) for _, tensor in checks])
    bad = jax.lax.psum(bad.astype(jnp.int32), axes) > 0
    now = jnp.stack([step, jnp.argmax(bad).astype(jnp.int32)])
    return jnp.where((health[0] == HEALTHY) & bad.any(), now, health)
