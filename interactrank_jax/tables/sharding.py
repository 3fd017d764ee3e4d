"""Rows of embedding tables over devices: make them, fetch what a batch looks up, sum gradients.

A table is replicated, or split by row over the mesh axis `model`: shard m of M holds the rows
[m V/M, (m+1) V/M) in order, so that whole tables, shards and checkpoints agree on where a row is.
Both ways a row's gradient is summed by one device, its owner, which sends the sum to the replicas.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from interactrank_jax.examples.format import PADDING
from interactrank_jax.tables import lookup
from interactrank_jax.tables.lookup import Rows, Slot, Tables

Array = jax.Array

DATA, MODEL = "data", "model"  # mesh axes
SHARDED_FROM = 65_536  # a table of fewer rows is replicated on every device
ROW_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a per-device function must know of the devices beside it.

    Attributes:
      batch: mapped axes that the requests of a batch are split over: all there are.
      shards: number of shards, the length of the axis `model`.
      sharded: names of the tables split by row.
    """

    batch: tuple[str, ...] = (DATA,)
    shards: int = 1
    sharded: frozenset[str] = frozenset()

    def rows_of(self, table: str, local: Array) -> int:
        """Returns the rows of a table, whole, from a device's part of it."""
        return local.shape[0] * (self.shards if table in self.sharded else 1)


def table_rows(ids: int) -> int:
    """Returns the rows of a table for `ids` ids: a long one can be split over up to 128 devices."""
    return -(-ids // ROW_MULTIPLE) * ROW_MULTIPLE if ids >= SHARDED_FROM else ids


def init_tables(
    key: Array, sizes: Mapping[str, int], row_width: Callable[[str], int], scale: float
) -> dict[str, Array]:
    """Returns normal(0, scale) tables `[table_rows(ids), row_width(name)]`; row 0 is zero."""
    tables = {}
    for index, (name, ids) in enumerate(sorted(sizes.items())):
        shape = (table_rows(ids), row_width(name))
        table = scale * jax.random.normal(jax.random.fold_in(key, index), shape)
        tables[name] = table.at[PADDING].set(0.0)
    return tables


def look_up(
    tables: Tables, slots: Mapping[str, Slot], layout: Layout
) -> tuple[dict[str, Array], dict[str, Rows], dict[str, Array]]:
    """Fetches each row that a device's batch needs, once.

    Args:
      tables: this device's part of each table.
      slots: what the batch looks up.
      layout: of the devices.

    Returns:
      values by table, `[U, d]` or the whole table; which rows those are, with ids of the whole
      table; and for each slot the places of its ids among them.
    """
    sizes = {name: layout.rows_of(name, table) for name, table in tables.items()}
    rows, index = lookup.unique_rows(sizes, slots, never_whole=layout.sharded)
    values = {
        name: _from_owners(tables[name], found.ids)
        if name in layout.sharded
        else found.read(tables[name])
        for name, found in rows.items()
    }
    return values, rows, index


def embed_directly(tables: Tables, slots: Mapping[str, Slot], layout: Layout) -> dict[str, Array]:
    """Looks up every slot, for use without a gradient: of replicated tables without sorting ids."""
    if not layout.sharded:
        return lookup.embed(tables, slots)
    values, _, index = look_up(tables, slots, layout)
    return lookup.embed(values, slots, index)


def _from_owners(shard: Array, ids: Array | None) -> Array:
    """Returns the rows `ids` `[U]` of a table of which this device holds a shard `[V / M, d]`."""
    asked = jax.lax.all_gather(ids, MODEL)  # [M, U]
    found = shard.at[_local(asked, shard.shape[0])].get(mode="fill", fill_value=0)
    # One device's rows are not zero; adding zeros keeps their bits.
    return jax.lax.psum_scatter(found, MODEL, scatter_dimension=0)


def _local(ids: Array, size: int) -> Array:
    """Maps ids of the whole table to places in this device's shard of `size`; others to `size`."""
    place = ids - jax.lax.axis_index(MODEL) * size
    return jnp.where((place >= 0) & (place < size), place, size)


def reduce_rows(
    rows: Mapping[str, Rows], gradients: Mapping[str, Array], tables: Tables, layout: Layout
) -> tuple[dict[str, Rows], dict[str, Array]]:
    """Sums row gradients over devices; every replica of a row gets the same bits.

    Where devices hold different rows, all ids and gradients are gathered; each row's sum is formed
    by one device among its replicas, its owner (id modulo their number), and sent to the others, so
    that replicas cannot drift apart by the order of their sums. A replicated table that is no
    longer than what would be gathered is summed whole: that is less to send.

    Args:
      rows: of `look_up`.
      gradients: by table, of the values that it returned.
      tables: this device's part of each table.
      layout: of the devices.

    Returns:
      which rows of this device's part were touched by any device, and their gradients.
    """
    devices = jax.lax.axis_size(layout.batch)
    if devices == 1:
        return dict(rows), dict(gradients)
    reduced_rows, reduced = {}, {}
    for table, local in rows.items():
        size, dim = tables[table].shape
        gradient, sharded = gradients[table], table in layout.sharded
        if local.ids is None or (not sharded and size <= devices * len(local.ids)):
            touched = local.touched
            if local.ids is not None:  # unused places hold `size` and are dropped
                gradient = jnp.zeros((size, dim)).at[local.ids].set(gradient, mode="drop")
                touched = jnp.zeros(size, bool).at[local.ids].set(touched, mode="drop")
            touched = jax.lax.psum(touched.astype(jnp.int32), layout.batch) > 0
            reduced_rows[table] = Rows(None, touched)
            reduced[table] = jax.lax.psum(gradient, layout.batch)
            continue
        ids = jnp.where(local.touched, local.ids, layout.rows_of(table, tables[table]))
        ids = jax.lax.all_gather(ids, layout.batch, tiled=True)
        gathered = jax.lax.all_gather(gradient, layout.batch, tiled=True)
        replicas = (DATA,) if sharded else layout.batch
        if sharded:
            ids = _local(ids, size)
        distinct, place = lookup.distinct_ids(ids, size)
        mine = (ids % jax.lax.axis_size(replicas)) == jax.lax.axis_index(replicas)
        # Padding, unused places and others' rows go out of range: a zero is not worth an addition.
        place = jnp.where(mine & (ids < size), place, len(ids))
        own = jnp.zeros((len(ids), dim)).at[place].add(gathered, mode="drop")
        reduced_rows[table] = Rows(distinct, distinct < size)
        reduced[table] = jax.lax.psum(own, replicas)
    return reduced_rows, reduced
