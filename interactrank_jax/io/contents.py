"""Arrays and tables of an artifact, whose shapes its metadata tells.

A checksum says that a file is what was written, not who wrote it: the whole may have been edited
and sealed again. So a shape is held against what it has to be.
"""

import mmap
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError

_KINDS = {"i": "integers", "u": "unsigned integers", "f": "numbers", "b": "flags"}


def load_array(path: files.PathLike, shape: Sequence[int | None], kind: str) -> np.ndarray:
    """Opens an array of which shape and type are known, mapped into memory and not read.

    Args:
      path: of an .npy file.
      shape: expected; None for any length.
      kind: letters of the kinds of NumPy types that are expected, such as 'iu'.

    Raises:
      InputError: it is no array, or another.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of many types, for a damaged header
        raise InputError(f"{path} is no array ({error}): it was truncated or edited.") from error
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, length) for length, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.kind not in kind:
        expected = ", ".join("any" if length is None else str(length) for length in shape)
        kinds = " or ".join(_KINDS.get(letter, letter) for letter in kind)
        raise InputError(
            f"{path} holds {array.dtype} of shape {array.shape}. Expected shape ({expected}) of "
            f"{kinds}: it was edited, write it again by the command that made it."
        )
    return array


def release(array: np.ndarray) -> None:
    """Gives back the memory of what was read of an array that is mapped from a file for reading.

    It would be counted as this process's until the array is gone. Any other array stays.
    """
    memory = getattr(array, "_mmap", None)
    if memory is not None and array.flags.writeable is False:
        memory.madvise(mmap.MADV_DONTNEED)


def read_table(path: files.PathLike, rows: int, column: str) -> pa.Table:
    """Reads a Parquet file of which the number of rows and one column are known.

    Raises:
      InputError: it is no Parquet file, or another.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file ({error}): it was edited.") from error
    if table.num_rows != rows or column not in table.column_names:
        raise InputError(
            f"{path} has {table.num_rows} rows and the columns {table.column_names}. Expected "
            f"{rows} rows with '{column}': it was edited, write it again by the command that made "
            f"it."
        )
    return table
