"""How the items' vectors lie in memory for a scan of the corpus: whole, halved, or in bytes.

A scan in fewer bits finds more items than are asked for, and their scores are then computed from
the float32 vectors on disk. So what is returned has exact scores; an item is lost only where its
rounded score is not among the best `RESCORED` times k.

    float32     4 bytes a number
    bfloat16    2 bytes: float32 without the last 16 bits, 8 of which are significant
    int8        1 byte, and one float32 per vector: the largest magnitude of its numbers is 127. The
                query stays in float32, so that one side alone is rounded (asymmetric)
"""

from typing import Any

import ml_dtypes
import numpy as np

from interactrank_jax.io.errors import InputError, did_you_mean

FLOAT32, BFLOAT16, INT8 = "float32", "bfloat16", "int8"
FORMATS = (FLOAT32, BFLOAT16, INT8)
RESCORED = 4  # times k: items of a rounded scan whose exact scores are computed
ROWS_AT_ONCE = 1 << 16
_LARGEST = 127

Encoded = dict[str, np.ndarray]  # `values`, and the `scale` of each vector where there is one


def check_format(name: str) -> str:
    """Returns the name of a format.

    Raises:
      InputError: there is no such format.
    """
    if name not in FORMATS:
        raise InputError(f"format='{name}'." + did_you_mean(name, FORMATS))
    return name


def encode(leaf: np.ndarray, name: str) -> Encoded:
    """Returns a leaf `[I, ..., D]` in a format; what is no float32 vectors as it is.

    Reads some rows at a time. In int8 each vector has a scale, `[I, ..., 1]`.
    """
    if name == FLOAT32 or leaf.dtype != np.float32 or leaf.ndim < 2:
        return {"values": leaf}
    dtype = ml_dtypes.bfloat16 if name == BFLOAT16 else np.int8
    values = np.empty(leaf.shape, dtype)
    scale = np.zeros((*leaf.shape[:-1], 1), np.float32)
    for first in range(0, len(leaf), ROWS_AT_ONCE):
        rows = np.asarray(leaf[first : first + ROWS_AT_ONCE])
        part = slice(first, first + len(rows))
        if name == INT8:
            scale[part] = np.abs(rows).max(-1, initial=0, keepdims=True) / _LARGEST
            rows = np.rint(rows / np.where(scale[part] > 0, scale[part], 1))
        values[part] = rows.astype(dtype)
    return {"values": values, "scale": scale} if name == INT8 else {"values": values}


def decode(encoded: Any) -> Any:
    """Returns an encoded leaf, numpy's or jax's, as float32; what was not rounded as it is."""
    values = encoded["values"]
    if "scale" in encoded:
        return values.astype(np.float32) * encoded["scale"]
    return values.astype(np.float32) if values.dtype == ml_dtypes.bfloat16 else values


def bytes_per_row(encoded: Encoded) -> int:
    """Returns how many bytes a row takes."""
    return sum(array.nbytes // max(len(array), 1) for array in encoded.values())
