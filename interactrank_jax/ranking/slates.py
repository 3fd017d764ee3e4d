"""Scores of aligned candidates straight from the tables, as validation and evaluation need them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.tables import lookup
from interactrank_jax.tables.sharding import Layout, embed_directly

Array = jax.Array
Batch = Mapping[str, Array]


def make_score_step(model: PreRanker, layout: Layout) -> Callable[[Any, Batch, Batch], Array]:
    """Returns `step(model_state, batch, store) -> logits [R, C, H]` at inference.

    `model_state` is {'params', 'tables'}.
    """
    step = make_encoding_step(model, layout)
    return lambda model_state, batch, store: step(model_state, batch, store)[0]


def make_encoding_step(
    model: PreRanker, layout: Layout
) -> Callable[[Any, Batch, Batch], tuple[Array, Any, Any]]:
    """Returns a step that gives the representations too, for scores of other pairs.

    Returns:
      `step(model_state, batch, store)` -> (logits `[R, C, H]`, requests `[R, ...]`, items
      `[R, C, ...]`) at inference.
    """
    inputs = model.inputs

    def step(model_state, batch: Batch, store: Batch) -> tuple[Array, Any, Any]:
        slots = lookup.request_slots(batch, store, inputs)
        slots |= lookup.item_slots(store, batch["item"], inputs)
        embedded = embed_directly(model_state["tables"], slots, layout)
        request = lookup.request_input(embedded, batch, store, inputs)
        items = lookup.item_input(embedded, store, batch["item"], inputs)
        variables = {"params": model_state["params"]}
        query = model.apply(variables, request, method="encode_query")
        encoded = model.apply(variables, items, method="encode_item")
        logits = model.apply(variables, query, encoded, batch["cross"], method="score")
        return jnp.asarray(logits), query, encoded

    return step
