"""Writes the items of a dot model for a vector index: score = <query vector, vector> + offset.

    vectors/items.parquet                   item_id, vector; or
    vectors/ids.parquet, vector.npy         item_id; `[I, d]` in the same order
    vectors/changed.parquet                 after an update: item_id, vector of items that are new
                                            or others since those were written
    vectors/deleted.parquet                 item_id of those that were deleted since

The graph `query_vector` gives a request's vector and its offset, alike for all items. Cross
features add their terms to the score.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.io import contents, files, interrupts

FORMS = ("parquet", "npy")
ROWS_AT_ONCE = 1 << 17
_CHANGED, _DELETED = "changed.parquet", "deleted.parquet"
CHANGES = (f"vectors/{_CHANGED}", f"vectors/{_DELETED}")


def write_vectors(
    ids: pa.Array, vectors: np.ndarray, is_kept: np.ndarray, form: str, directory: Path
) -> None:
    """Writes the vectors of items, some at a time.

    Args:
      ids: `[I]`.
      vectors: `[I, d]`, perhaps mapped from a file.
      is_kept: `[I]` whether an item is written.
      form: one of `FORMS`.
      directory: new.
    """
    directory.mkdir()
    if form == "npy":
        shape = (int(is_kept.sum()), vectors.shape[1])
        with files.ArrayWriter(directory / "vector.npy", shape, np.float32) as writer:
            for _, part in _parts(vectors, is_kept):
                writer.write(part)
        table = pa.table({"item_id": ids.filter(pa.array(is_kept))})
        pq.write_table(table, directory / "ids.parquet")
        return
    schema = _table(ids[:0], np.zeros((0, vectors.shape[1]), np.float32)).schema
    with pq.ParquetWriter(directory / "items.parquet", schema) as tables:
        for rows, part in _parts(vectors, is_kept):
            tables.write_table(_table(ids[rows].filter(pa.array(is_kept[rows])), part))


def _parts(vectors: np.ndarray, is_kept: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields rows, and the vectors of those that are kept, float32 `[n, d]`."""
    for first in range(0, len(vectors), ROWS_AT_ONCE):
        interrupts.check()
        rows = slice(first, first + ROWS_AT_ONCE)
        yield rows, np.asarray(vectors[rows][is_kept[rows]], np.float32)
        contents.release(vectors)


def write_changes(ids: pa.Array, vectors: np.ndarray, deleted: pa.Array, directory: Path) -> None:
    """Writes what a vector index is to be told after an update.

    Args:
      ids: `[N]` of items that are new or others than when the vectors were written.
      vectors: `[N, d]`.
      deleted: ids of items that were deleted since.
      directory: that has the vectors.
    """
    pq.write_table(_table(ids, np.asarray(vectors, np.float32)), directory / _CHANGED)
    pq.write_table(pa.table({"item_id": deleted}), directory / _DELETED)


def _table(ids: pa.Array, vectors: np.ndarray) -> pa.Table:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table({"item_id": ids, "vector": lists})
