"""Tables of an engine as arrays on disk, mapped into memory, for lookups in what fits no memory."""

import shutil
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow.parquet as pq

from interactrank_jax.state import engines

ROWS_AT_ONCE = 1 << 20


def columns_on_disk(
    backend: ibis.BaseBackend, rows: ir.Table, directory: Path
) -> dict[str, np.ndarray]:
    """Writes the columns of a table into a new directory, a file each, and maps them into memory.

    Args:
      backend: that makes the rows.
      rows: columns of numbers, without nulls, in the order that they are to have.
      directory: new; must outlive the arrays.
    """
    parquet = directory / "parquet"
    engines.write_parquet(backend, rows, parquet)
    files = [pq.ParquetFile(path) for path in sorted(parquet.glob("*.parquet"))]
    schema, total = files[0].schema_arrow, sum(file.metadata.num_rows for file in files)
    arrays = {
        field.name: _new_array(directory / f"{field.name}.npy", field.type.to_pandas_dtype(), total)
        for field in schema
    }
    first = 0
    for file in files:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            for name, array in arrays.items():
                array[first : first + len(batch)] = batch[name].to_numpy(zero_copy_only=False)
            first += len(batch)
        file.close()
    shutil.rmtree(parquet)
    return arrays


def _new_array(path: Path, dtype: type, length: int) -> np.ndarray:
    if not length:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.lib.format.open_memmap(path, "w+", dtype, (length,))
