"""An array on disk with some rows replaced and others appended, as one array and without a copy.

The file is mapped privately over the beginning of reserved memory. A page without a replaced row
stays the file's, shared by every process that maps it; a page with one becomes this process's own;
appended rows lie behind the file. So a delta costs memory for what it changes, and a reader of the
file itself sees nothing of it.
"""

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interactrank_jax.io import contents

_MAP_FIXED = 0x10  # on Linux, macOS and the BSDs; Python names it nowhere


def overlay(
    path: Path, shape: Sequence[int], kind: str, row: np.ndarray, values: np.ndarray, total: int
) -> np.ndarray:
    """Returns `[total, ...]`: the rows of an array, some replaced, further ones behind them.

    Args:
      path: of an .npy file.
      shape: its own, `[N, ...]`, N at least 1.
      kind: of its type, see `contents.load_array`.
      row: `[D]` ascending, of the rows that are replaced or appended; all from N on are among them.
      values: `[D, ...]` theirs, of the array's type.
      total: rows of the result, at least N.

    Raises:
      InputError: the file holds another array.
    """
    if 0 in shape:
        return np.zeros((total, *shape[1:]), values.dtype)
    base = contents.load_array(path, shape, kind)
    assert isinstance(base, np.memmap)
    result = _map_privately(path, base, total)
    result[row] = values
    result.flags.writeable = False
    return result


def _map_privately(path: Path, base: np.memmap, total: int) -> np.ndarray:
    """Returns a writable array of `total` rows that begins with a file's, which stays as it is."""
    start = base.offset  # of the numbers, behind the header
    width = base.nbytes // len(base)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, start + total * width, flags=flags)
    result = np.frombuffer(memory, base.dtype, total * width // base.itemsize, start)
    system = ctypes.CDLL(None, use_errno=True).mmap
    system.restype = ctypes.c_void_p
    system.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    address = result.ctypes.data - start
    access = mmap.PROT_READ | mmap.PROT_WRITE
    with path.open("rb") as file:
        length = start + base.nbytes
        flags = mmap.MAP_PRIVATE | _MAP_FIXED
        if system(address, length, access, flags, file.fileno(), 0) != address:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    return result.reshape(total, *base.shape[1:])
