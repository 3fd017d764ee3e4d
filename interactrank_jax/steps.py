"""What one device does with one batch: pure functions that name the mapped axis `data`.

Losses are sums and weights, divided by the weight over all devices, so that a step does not depend
on how the batch was split. Tables are updated row by row, the rest through optax.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from interactrank_jax import losses
from interactrank_jax.data.examples import PADDING, Metadata
from interactrank_jax.errors import InputError, did_you_mean
from interactrank_jax.labels import LabelRule
from interactrank_jax.models import embeddings
from interactrank_jax.models.embeddings import Rows
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.optim import RowOptimizer, update_tables
from interactrank_jax.parallel import AXIS
from interactrank_jax.state import HEALTHY, TrainState

Array = jax.Array
Batch = Mapping[str, Array]

POINTWISE = {"bce": losses.sigmoid_cross_entropy, "focal": losses.focal}


@dataclasses.dataclass(frozen=True)
class Objective:
    """InteractRank's training loss: weighted pointwise heads, plus a sampled softmax.

    Attributes:
      rule: labels and weights.
      pointwise: loss of the logits, a name in POINTWISE.
      head_weights: of each head's loss; they are normalised to sum to one.
      impression_sampling: share of impression-only candidates kept, drawn anew each step.
      softmax_weight: of the in-batch sampled softmax on `PreRanker.similarity`; 0 leaves it out.
      log_q: whether its logits are corrected for how often an item is in a batch.
      train_candidates: impressions in training, the sum of the item store's `count`.
    """

    rule: LabelRule
    pointwise: str
    head_weights: tuple[float, ...]
    impression_sampling: float
    softmax_weight: float
    log_q: bool
    train_candidates: float

    @classmethod
    def from_config(cls, config: Any, rule: LabelRule, metadata: Metadata) -> "Objective":
        """Reads `config.train.loss`.

        Raises:
          InputError: an unknown loss, or another number of head weights than heads.
        """
        loss = config.train.loss
        if loss.name not in POINTWISE:
            raise InputError(
                f"config.train.loss.name is '{loss.name}'." + did_you_mean(loss.name, POINTWISE)
            )
        if len(loss.head_weights) != len(rule.heads):
            raise InputError(
                f"config.train.loss.head_weights has {len(loss.head_weights)} values for the heads "
                f"{rule.heads}: give one per head."
            )
        weights = np.asarray(loss.head_weights, np.float64)
        return cls(
            rule=rule,
            pointwise=loss.name,
            head_weights=tuple(float(weight) for weight in weights / weights.sum()),
            impression_sampling=float(loss.impression_sampling),
            softmax_weight=float(loss.softmax_weight),
            log_q=bool(loss.log_q),
            train_candidates=float(metadata.splits["train"].candidates),
        )

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        heads = tuple(f"loss/{head}" for head in self.rule.heads)
        return (*heads, "loss/softmax") if self.softmax_weight else heads

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Names of the sums a step adds to `TrainState.sums`."""
        return (
            "steps",
            "candidates",
            "engaged",
            "loss",
            "gradient_norm",
            *self.loss_names,
        )


def make_train_step(
    model: PreRanker,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    row_optimizer: RowOptimizer,
) -> Callable[[TrainState, Batch, Batch], TrainState]:
    """Returns `step(state, batch, store) -> state`.

    Args:
      model: the model.
      objective: the loss.
      optimizer, row_optimizer: for the parameters and for the tables.
    """
    inputs = model.inputs

    def step(state: TrainState, batch: Batch, store: Batch) -> TrainState:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        slots = embeddings.request_slots(batch, store, inputs)
        slots |= embeddings.item_slots(store, batch["item"], inputs)
        rows, index = embeddings.unique_rows(state.tables, slots)

        def loss_function(params, values):
            embedded = embeddings.embed(values, slots, index)
            request = embeddings.request_input(embedded, batch, store, inputs)
            items = embeddings.item_input(embedded, store, batch["item"], inputs)
            return _loss(model, objective, params, request, items, batch, store, key)

        values = {name: rows[name].read(state.tables[name]) for name in rows}
        gradient = jax.value_and_grad(loss_function, argnums=(0, 1), has_aux=True)
        (_, sums), (dense_gradient, row_gradient) = gradient(state.params, values)

        dense_gradient = jax.lax.psum(dense_gradient, AXIS)
        rows, row_gradient = reduce_rows(rows, row_gradient, state.tables)
        sums = jax.lax.psum(sums, AXIS)
        updates, opt_state = optimizer.update(dense_gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        tables, table_states = update_tables(
            row_optimizer, state.tables, state.table_states, rows, row_gradient, state.step
        )
        sums["steps"] = jnp.ones(())
        sums["gradient_norm"] = optax.global_norm(dense_gradient)
        # A table that nothing looks up keeps its place, so that the state alone names them all.
        by_table = {name: row_gradient.get(name, jnp.zeros(())) for name in state.tables}
        checks = health_checks(batch, sums, dense_gradient, by_table)
        return TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            tables=tables,
            table_states=table_states,
            rng=state.rng,
            sums={name: total + sums.get(name, 0.0) for name, total in state.sums.items()},
            health=_first_unhealthy(state.health, state.step, checks),
        )

    return step


def _loss(model, objective, params, request, items, batch, store, key):
    """Returns this device's share of the loss over all devices, and the sums to report."""
    rule = objective.rule
    dropout_key, sampling_key = jax.random.split(key)
    actions, mask = batch["actions"], batch["mask"]
    variables, rngs = {"params": params}, {"dropout": dropout_key}
    query = model.apply(variables, request, train=True, rngs=rngs, method="encode_query")
    encoded = model.apply(variables, items, train=True, rngs=rngs, method="encode_item")
    logits = model.apply(variables, query, encoded, batch["cross"], method="score")

    kept = jax.random.uniform(sampling_key, mask.shape) < objective.impression_sampling
    where = mask & (rule.acted(actions) | kept)
    weights = rule.example_weights(actions)
    labels = rule.labels(actions).astype(jnp.float32)
    sums = {}
    total = jnp.zeros(())
    for head, name in enumerate(rule.heads):
        term = POINTWISE[objective.pointwise](
            logits[..., head], labels[..., head], where=where, weights=weights
        )
        share = term.loss / jnp.maximum(jax.lax.psum(term.weight, AXIS), 1e-6)
        sums[f"loss/{name}"] = share
        total = total + objective.head_weights[head] * share
    engaged = rule.engaged(actions) & mask
    if objective.softmax_weight:
        term = _in_batch_softmax(model, objective, variables, query, encoded, batch, store, engaged)
        share = term.loss / jnp.maximum(jax.lax.psum(term.weight, AXIS), 1.0)
        sums["loss/softmax"] = share
        total = total + objective.softmax_weight * share
    sums["loss"] = total
    sums["candidates"] = mask.sum().astype(jnp.float32)
    sums["engaged"] = engaged.sum().astype(jnp.float32)
    return total, sums


def _in_batch_softmax(model, objective, variables, query, encoded, batch, store, engaged):
    """Sampled softmax of every engaged item against the distinct items of all devices' batches."""
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), encoded)
    items = batch["item"].reshape(-1)
    flat, items = jax.lax.all_gather((flat, items), AXIS, tiled=True)
    logits = model.apply(variables, query, flat, method="similarity")
    distinct = losses.first_occurrence(items, items != PADDING)
    positive_items = jnp.where(engaged, batch["item"], -1)
    positive = (positive_items[:, :, None] == items[None, None, :]).any(1)
    log_q = None
    if objective.log_q:
        count = store["count"][items]
        draws = (items != PADDING).sum()
        log_q = losses.log_q_from_counts(count, objective.train_candidates, draws)
    return losses.sampled_softmax(logits, positive, log_q=log_q, where=distinct)


def reduce_rows(
    rows: Mapping[str, Rows], gradients: Mapping[str, Array], tables: Mapping[str, Array]
) -> tuple[dict[str, Rows], dict[str, Array]]:
    """Sums row gradients over devices; every replica gets the same bits.

    Where devices hold different rows, all ids and gradients are gathered; each row's sum is formed
    by one device, its owner (id modulo the number of devices), and sent to the others, so that
    replicas cannot drift apart by the order of their sums. A table that is no longer than what
    would be gathered is summed whole: that is less to send.
    """
    devices = jax.lax.axis_size(AXIS)
    if devices == 1:
        return dict(rows), dict(gradients)
    reduced_rows, reduced = {}, {}
    for table, local in rows.items():
        size, dim = tables[table].shape
        if size <= devices * local.ids.shape[0]:
            gradient, touched = gradients[table], local.touched
            if local.ids.shape[0] < size:  # unused places hold `size` and are dropped
                gradient = jnp.zeros((size, dim)).at[local.ids].set(gradient, mode="drop")
                touched = jnp.zeros(size, bool).at[local.ids].set(touched, mode="drop")
            touched = jax.lax.psum(touched.astype(jnp.int32), AXIS) > 0
            reduced_rows[table] = Rows(jnp.arange(size, dtype=jnp.int32), touched)
            reduced[table] = jax.lax.psum(gradient, AXIS)
            continue
        ids = jax.lax.all_gather(local.ids, AXIS, tiled=True)
        gathered = jax.lax.all_gather(gradients[table], AXIS, tiled=True)
        distinct, place = embeddings.distinct_ids(ids, size)
        mine = (ids % devices) == jax.lax.axis_index(AXIS)
        own = jnp.zeros((ids.shape[0], dim)).at[place].add(jnp.where(mine[:, None], gathered, 0.0))
        touched = (distinct != PADDING) & (distinct < size)
        reduced_rows[table] = Rows(distinct, touched)
        reduced[table] = jax.lax.psum(own, AXIS)
    return reduced_rows, reduced


def health_checks(
    batch: Batch, sums: Mapping[str, Any], dense_gradient: Any, row_gradient: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    """Returns (name, tensor) of all that must be finite, in the order in which to blame them."""
    checks = [(f"batch/{key}", batch[key]) for key in sorted(batch) if _is_float(batch[key])]
    checks += [(name, sums[name]) for name in sorted(sums) if name.startswith("loss")]
    for path, leaf in jax.tree_util.tree_leaves_with_path(dense_gradient):
        name = "/".join(str(getattr(entry, "key", entry)) for entry in path)
        checks.append((f"gradient/{name}", leaf))
    checks += [(f"gradient/table/{name}", row_gradient[name]) for name in sorted(row_gradient)]
    return checks


def _is_float(value: Any) -> bool:
    return np.issubdtype(value.dtype, np.floating)


def _first_unhealthy(health: Array, step: Array, checks: list[tuple[str, Array]]) -> Array:
    # A sum is finite only if every term is; cheaper than a mask of every element.
    bad = jnp.stack([~jnp.isfinite(jnp.sum(tensor)) for _, tensor in checks])
    bad = jax.lax.psum(bad.astype(jnp.int32), AXIS) > 0
    now = jnp.stack([step, jnp.argmax(bad).astype(jnp.int32)])
    return jnp.where((health[0] == HEALTHY) & bad.any(), now, health)


def make_score_step(
    model: PreRanker,
) -> Callable[[Any, Batch, Batch], Array]:
    """Returns `step(model_state, batch, store) -> logits [R, C, H]` at inference.

    `model_state` is {'params', 'tables'}.
    """

    def step(model_state, batch: Batch, store: Batch) -> Array:
        tables = model_state["tables"]
        request = embeddings.embed_requests(tables, batch, store, model.inputs)
        items = embeddings.embed_items(tables, batch["item"], store, model.inputs)
        variables = {"params": model_state["params"]}
        return jnp.asarray(model.apply(variables, request, items, batch["cross"]))

    return step
