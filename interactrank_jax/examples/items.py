"""The item store: one row per item, row 0 is padding."""

import dataclasses
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.examples.encode import Encoded
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files
from interactrank_jax.log.read import Log
from interactrank_jax.log.schema import Schema
from interactrank_jax.log.values import as_values, concat_tables, index_in, ranks
from interactrank_jax.state import engines
from interactrank_jax.state.spec import ITEM_ROW


@dataclasses.dataclass(frozen=True)
class Items:
    """The items of a log, by their rows in the store.

    Attributes:
      raw: `[I]` as they came; row 0 is null.
      rank: `[I]` place of each in the order of ids, which decides between equals.
    """

    raw: pa.Table
    rank: np.ndarray

    @classmethod
    def read(cls, log: Log, backend: ibis.BaseBackend, old: Examples | None) -> "Items":
        """Reads the items of a validated log, those of `old` first."""
        table = backend.to_pyarrow(log.table("items", backend))
        raw = item_table(table, log.schema, old)
        return cls(raw, ranks(as_values(raw["item_id"])))

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def ids(self) -> pa.Array:
        """`[I - 1]` the ids, without padding."""
        return as_values(self.raw["item_id"]).slice(1)

    def table(self, backend: ibis.BaseBackend, scratch: Path) -> ir.Table:
        """Hands columns `item_id` and `ITEM_ROW` to an engine."""
        rows = np.arange(1, len(self), dtype=np.int32)
        return engines.write_arrow(
            backend, pa.table({"item_id": self.ids, ITEM_ROW: rows}), scratch
        )


def item_table(items: pa.Table, schema: Schema, old: Examples | None) -> pa.Table:
    """Returns the raw item of each store row, in the order of ids; row 0 is null.

    Rows of `old` come first, in their places, with what the log now says of them; items that the
    log no longer has keep what `old` knew. New items follow.
    """
    columns = ["item_id", *(feature.name for feature in schema.select(("item",)))]
    columns += [name for name in ("created_at",) if name in items.column_names]
    items = items.select(columns).take(pc.sort_indices(as_values(items["item_id"])))
    if old is None:
        return items.take(pa.array([None, *range(len(items))], pa.int64()))
    before = old.raw_items()
    before = before.select([name for name in columns if name in before.column_names]).slice(1)
    ids, old_ids = as_values(items["item_id"]), as_values(before["item_id"])
    places = index_in(old_ids, ids)
    kept = np.where(places >= 0, places, len(ids) + np.arange(len(old_ids)))
    new = np.flatnonzero(index_in(ids, old_ids) < 0)
    both = concat_tables([items, before])
    return both.take(pa.array([None, *kept.tolist(), *new.tolist()], pa.int64()))


def write_items(
    directory: Path, raw: pa.Table, ids: np.ndarray, counts: np.ndarray, encoded: Encoded
) -> None:
    """Writes the item store.

    Args:
      directory: of the examples.
      raw: I rows, the first null.
      ids: `[I]` embedding row of each item.
      counts: `[I]` training impressions.
      encoded: features of the items, I - 1 rows: the padding row is added here.
    """
    folder = directory / "items"
    folder.mkdir(parents=True)
    (directory / "raw").mkdir(exist_ok=True)
    arrays = {"id": ids.astype(np.int32), "count": counts.astype(np.int32)}
    for name, value in {**encoded.columns, "numeric": encoded.numeric}.items():
        arrays[name] = np.concatenate([np.zeros((1, *value.shape[1:]), value.dtype), value])
    for name, value in arrays.items():
        files.save_array(folder / f"{name}.npy", value)
    pq.write_table(raw.select(["item_id"]), folder / "ids.parquet")
    pq.write_table(raw, directory / "raw" / "items.parquet")
