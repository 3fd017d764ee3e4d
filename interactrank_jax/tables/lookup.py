"""Embedding tables live outside the modules: look up, differentiate the rows, update the rows.

In: integer ids of a batch and the item store. Out: the embedded `RequestInput` and `ItemInput` that
every model takes. Training, evaluation and indexing all pass through `embed`.

The tables are never inputs of the differentiated function, only the rows that a batch touches; so
the cost of a step does not grow with the table.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from interactrank_jax.examples.encoder import Feature
from interactrank_jax.examples.format import PADDING
from interactrank_jax.models.inputs import (
    ITEM,
    QUERY,
    USER,
    Inputs,
    ItemInput,
    RequestInput,
    SequenceInput,
)
from interactrank_jax.models.layers import one_hot_lookup

Array = jax.Array

# Tables of so few rows are looked up by a product with one-hot rows. There gradients meet most, and
# a scatter-add of them is at its slowest on a GPU. On a CPU (value and gradient, 32-d, 2 cores, ids
# 2k, 13k and 100k) the product takes .7, .7 and .6 of the gather's time for 4 rows, .8, .8 and .7
# for 16, 1.0, .8 and .8 for 24, 1.2, 1.1 and .7 for 32, 1.6, 1.7 and 2.6 for 64.
ONE_HOT_ROWS = 24

Batch = Mapping[str, Array]
Tables = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Slot:
    """Ids to be looked up: `ids` `[...]`, or `[..., T]` to be averaged where `pooled`."""

    table: str
    ids: Array
    pooled: bool = False


class Rows(NamedTuple):
    """The distinct rows a batch touches in one table.

    Attributes:
      ids: `[U]` row numbers, ascending; unused places hold the table's length. None: the table is
        taken whole, in order, and U is its length.
      touched: `[U]` bool, false for unused places and for the padding row.
    """

    ids: Array | None
    touched: Array

    def read(self, array: Array) -> Array:
        """Returns these rows of `[V, ...]`; unused places give zeros."""
        if self.ids is None:
            return array
        return array.at[self.ids].get(mode="fill", fill_value=0)

    def write(self, array: Array, new: Array) -> Array:
        """Returns `[V, ...]` with the touched rows replaced; all others keep their bits."""
        if self.ids is None:
            return jnp.where(self.touched.reshape(-1, *[1] * (array.ndim - 1)), new, array)
        places = jnp.where(self.touched, self.ids, array.shape[0])
        return array.at[places].set(new, mode="drop")


def item_store(items: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of `Examples.items` that are looked up on device, in 32 bits."""
    return {
        name: np.asarray(value, np.float32 if value.dtype.kind == "f" else np.int32)
        for name, value in items.items()
    }


def request_slots(batch: Batch, store: Batch, inputs: Inputs) -> dict[str, Slot]:
    """Returns the slots of a batch's requests."""
    slots = {}
    for feature in inputs.request:
        if feature.kind != "embedding":
            column = {USER: "user", QUERY: "query"}.get(feature.name, f"request/{feature.name}")
            slots[f"request/{feature.name}"] = Slot(
                feature.table, batch[column], pooled=feature.kind == "text"
            )
    events = [feature for feature in inputs.item if feature.name in inputs.sequence]
    for role in inputs.histories:
        slots |= _item_slots(store, batch[f"{role}_item"], events, role)
    return slots


def item_slots(store: Batch, items: Array, inputs: Inputs, role: str = "item") -> dict[str, Slot]:
    """Returns the slots of items given as store rows `[...]`; `role` tells several sets apart."""
    return _item_slots(store, items, inputs.item, role)


def _item_slots(store: Batch, items: Array, features: Sequence[Feature], role: str):
    slots = {}
    for feature in features:
        if feature.kind != "embedding":
            column = "id" if feature.name == ITEM else feature.name
            slots[f"{role}/{feature.name}"] = Slot(
                feature.table, store[column][items], pooled=feature.kind == "text"
            )
    return slots


def unique_rows(
    sizes: Mapping[str, int], slots: Mapping[str, Slot], never_whole: Collection[str] = ()
) -> tuple[dict[str, Rows], dict[str, Array]]:
    """Finds the rows that a batch needs, each once; `Rows.read` gathers them.

    Args:
      sizes: rows of each table.
      slots: what the batch looks up.
      never_whole: tables that no device can take whole.

    Returns:
      rows by table, and for each slot the places of its ids among those rows. A table no longer
      than the batch's ids is taken whole: that is cheaper than sorting.
    """
    by_table: dict[str, list[str]] = {}
    for name, slot in slots.items():
        by_table.setdefault(slot.table, []).append(name)
    rows, index = {}, {}
    for table, names in sorted(by_table.items()):
        ids = jnp.concatenate([slots[name].ids.reshape(-1) for name in names])
        size = sizes[table]
        if size <= ids.shape[0] and table not in never_whole:
            touched = jnp.zeros(size, bool).at[ids].set(True).at[PADDING].set(False)
            rows[table] = Rows(None, touched)
            place = ids
        else:
            distinct, place = distinct_ids(ids, size)
            touched = (distinct != PADDING) & (distinct < size)
            rows[table] = Rows(distinct, touched)
        start = 0
        for name in names:
            shape = slots[name].ids.shape
            count = int(np.prod(shape))
            index[name] = place[start : start + count].reshape(shape)
            start += count
    return rows, index


def distinct_ids(ids: Array, size: int) -> tuple[Array, Array]:
    """Returns the distinct ids, ascending and filled up with `size`, and each id's place there."""
    count = ids.shape[0]
    ordered, origin = jax.lax.sort((ids, jnp.arange(count, dtype=jnp.int32)), num_keys=1)
    is_first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    rank = jnp.cumsum(is_first.astype(jnp.int32)) - 1
    place = jnp.zeros(count, jnp.int32).at[origin].set(rank, unique_indices=True)
    distinct = jnp.full(count, size, ids.dtype).at[rank].set(ordered)
    return distinct, place


def embed(
    values: Tables, slots: Mapping[str, Slot], index: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Looks up every slot: `[..., d]`; padding gives zeros, pooled slots their masked mean.

    Args:
      values: rows by table: whole tables, or what `Rows.read` gave of them.
      slots: what to look up.
      index: places among `values`; absent, the ids themselves (whole tables).
    """
    embedded = {}
    for name, slot in slots.items():
        place = slot.ids if index is None else index[name]
        present = slot.ids != PADDING
        vectors = _present_rows(values[slot.table], place, present)
        if slot.pooled:
            count = present.sum(-1, keepdims=True).astype(jnp.float32)
            vectors = vectors.sum(-2) / jnp.maximum(count, 1.0)
        embedded[name] = vectors
    return embedded


def _present_rows(values: Array, place: Array, present: Array) -> Array:
    """Returns rows of `[U, d]` at places `[...]`, zeros where none is present.

    A place without one lies out of range: it reads no row, and its gradient is dropped. Multiplied
    by zero after the lookup it would add a zero to one row, as would all other padding.
    """
    count = values.shape[0]
    place = jnp.where(present, place, count)
    if count <= ONE_HOT_ROWS:
        return one_hot_lookup(values, place)
    return jnp.asarray(values).at[place].get(mode="fill", fill_value=0)


def item_input(
    embedded: Mapping[str, Array], store: Batch, items: Array, inputs: Inputs, role: str = "item"
) -> ItemInput:
    """Assembles the `ItemInput` of store rows `[...]` from embedded slots."""
    return ItemInput(
        features={
            feature.name: store[feature.name][items]
            if feature.kind == "embedding"
            else embedded[f"{role}/{feature.name}"]
            for feature in inputs.item
        },
        numeric=_columns(store["numeric"][items], inputs.item_columns),
    )


def _columns(numeric: Array, columns: tuple[int, ...]) -> Array:
    """Returns those of the columns of `[..., F]`."""
    return numeric if len(columns) == numeric.shape[-1] else numeric[..., np.array(columns, int)]


def request_input(embedded: Mapping[str, Array], batch: Batch, store: Batch, inputs: Inputs):
    """Assembles the `RequestInput` of a batch from embedded slots."""

    def sequence(role: str, action: Array, age: Array) -> SequenceInput | None:
        if role not in inputs.histories:
            return None
        rows = batch[f"{role}_item"]
        parts = []
        for feature in inputs.item:
            key = f"{role}/{feature.name}"
            if key in embedded:
                parts.append(embedded[key])
        return SequenceInput(
            items=jnp.concatenate(parts, -1), action=action, age=age, mask=rows != PADDING
        )

    zeros = jnp.zeros_like(batch["query_history_item"])
    return RequestInput(
        features={
            feature.name: batch[f"request/{feature.name}"]
            if feature.kind == "embedding"
            else embedded[f"request/{feature.name}"]
            for feature in inputs.request
        },
        numeric=_columns(batch["request_numeric"], inputs.request_columns),
        history=sequence("history", batch["history_action"], batch["history_age"]),
        query_history=sequence("query_history", zeros, zeros.astype(jnp.float32)),
    )


def embed_requests(tables: Tables, batch: Batch, store: Batch, inputs: Inputs) -> RequestInput:
    """Returns the `RequestInput` of a batch, from whole tables (evaluation, scoring)."""
    slots = request_slots(batch, store, inputs)
    return request_input(embed(tables, slots), batch, store, inputs)


def embed_items(tables: Tables, items: Array, store: Batch, inputs: Inputs) -> ItemInput:
    """Returns the `ItemInput` of store rows `[...]`, from whole tables (evaluation, indexing)."""
    return item_input(embed(tables, item_slots(store, items, inputs)), store, items, inputs)
