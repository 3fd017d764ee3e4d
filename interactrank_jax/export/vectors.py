"""Writes the items of a dot model for a vector index: score = <query vector, vector> + offset.

    vectors/items.parquet                   item_id, vector; or
    vectors/ids.parquet, vector.npy         item_id; `[I, d]` in the same order
    vectors/changed.parquet                 after an update: item_id, vector of items that are new
                                            or others since those were written
    vectors/deleted.parquet                 item_id of those that were deleted since

The graph `query_vector` gives a request's vector and its offset, alike for all items. Cross
features add their terms to the score.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.io import files

FORMS = ("parquet", "npy")
_CHANGED, _DELETED = "changed.parquet", "deleted.parquet"
CHANGES = (f"vectors/{_CHANGED}", f"vectors/{_DELETED}")


def write_vectors(ids: pa.Array, vectors: np.ndarray, form: str, directory: Path) -> None:
    """Writes the vectors of items.

    Args:
      ids: `[I]`.
      vectors: `[I, d]`.
      form: one of `FORMS`.
      directory: new.
    """
    directory.mkdir()
    vectors = np.asarray(vectors, np.float32)
    if form == "npy":
        files.save_array(directory / "vector.npy", vectors)
        pq.write_table(pa.table({"item_id": ids}), directory / "ids.parquet")
        return
    _write(ids, vectors, directory / "items.parquet")


def write_changes(ids: pa.Array, vectors: np.ndarray, deleted: pa.Array, directory: Path) -> None:
    """Writes what a vector index is to be told after an update.

    Args:
      ids: `[N]` of items that are new or others than when the vectors were written.
      vectors: `[N, d]`.
      deleted: ids of items that were deleted since.
      directory: that has the vectors.
    """
    _write(ids, np.asarray(vectors, np.float32), directory / _CHANGED)
    pq.write_table(pa.table({"item_id": deleted}), directory / _DELETED)


def _write(ids: pa.Array, vectors: np.ndarray, file: Path) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table({"item_id": ids, "vector": lists}), file)
