"""Vectors of items are written some at a time, without those that are not kept."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax.export import vectors


@pytest.mark.parametrize("form", vectors.FORMS)
@pytest.mark.parametrize("kept", [[], [0, 3, 4, 7], range(8)])
def test_what_is_kept_is_written_in_its_order(tmp_path, monkeypatch, form, kept):
    monkeypatch.setattr(vectors, "ROWS_AT_ONCE", 3)
    ids, values = pa.array([f"i{n}" for n in range(8)]), np.arange(16.0).reshape(8, 2)
    is_kept = np.isin(np.arange(8), list(kept))
    vectors.write_vectors(ids, values, is_kept, form, tmp_path / "vectors")
    if form == "npy":
        written = np.load(tmp_path / "vectors" / "vector.npy")
        table = pq.read_table(tmp_path / "vectors" / "ids.parquet")
    else:
        table = pq.read_table(tmp_path / "vectors" / "items.parquet")
        written = np.array(table["vector"].to_pylist(), np.float32).reshape(-1, 2)
    assert table["item_id"].to_pylist() == [f"i{n}" for n in kept]
    np.testing.assert_array_equal(written, values[is_kept].astype(np.float32))
    assert written.dtype == np.float32
