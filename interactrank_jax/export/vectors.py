"""Writes the items of a dot model for a vector index: score = <query vector, vector> + offset.

    vectors/items.parquet                   item_id, vector; or
    vectors/ids.parquet, vector.npy         item_id; `[I, d]` in the same order

The graph `query_vector` gives a request's vector and its offset, alike for all items. Cross
features add their terms to the score.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.io import files

FORMS = ("parquet", "npy")


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
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table({"item_id": ids, "vector": lists}), directory / "items.parquet")
