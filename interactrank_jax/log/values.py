"""Values of a log's columns: one type per family, their places, groups of rows, words of a text.

Needs numpy and pyarrow only.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.io.errors import InputError

_WORD = re.compile(r"\w+")


def as_values(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns a column as one array of one type per family: `int64` or `large_string`.

    Dictionaries are unwrapped and booleans become 0 and 1, so that columns of different tables
    compare whatever width their writers chose.

    Raises:
      InputError: an unsigned integer above 2**63 - 1.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # combine_chunks keeps the type where it has no rows
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise InputError(
                f"an id does not fit a signed 64-bit integer ({error}). Write such ids as strings."
            ) from error
    return column.cast(pa.large_string())


def concat_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """Returns the rows of all tables, null where a table lacks a column; types are widened.

    Arrow widens numbers, strings and lists. Where one table has a dictionary or booleans and
    another has not, the column holds plain values, of booleans 0 and 1.

    Raises:
      InputError: a column is text in one table and a number in another.
    """
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            kinds.setdefault(field.name, set()).add(field.type)
    mixed = {
        name
        for name, types in kinds.items()
        if len(types) > 1
        and any(pa.types.is_dictionary(kind) or pa.types.is_boolean(kind) for kind in types)
    }
    for name in mixed:
        tables = [
            table.set_column(table.column_names.index(name), name, as_values(table[name]))
            if name in table.column_names
            else table
            for table in tables
        ]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowTypeError as error:
        raise InputError(f"{error}. Expected one type in all parts: convert one of them.") from (
            error
        )


def index_in(values: pa.Array, known: pa.Array) -> np.ndarray:
    """Returns the position of each value in `known` as int32 `[N]`; -1 for null or unknown."""
    if pa.types.is_null(values.type) or not len(known):
        return np.full(len(values), -1, np.int32)
    if values.type != known.type:  # an all-null column was read as integers
        values = values.cast(known.type)
    found = pc.index_in(values, value_set=known, skip_nulls=True)
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int32)


def ranks(values: pa.Array) -> np.ndarray:
    """Returns the place of each value in the order of the distinct ones; -1 for null."""
    encoded = values.dictionary_encode()
    rank = np.empty(len(encoded.dictionary), np.int64)
    rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.append(rank, -1)[codes]


def group_ids(columns: Mapping[str, np.ndarray] | Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Numbers the distinct rows of some integer columns `[N]` in lexicographic order.

    Returns:
      (group of each row int64 `[N]`, first row of each group `[G]`).
    """
    arrays = list(columns.values()) if isinstance(columns, Mapping) else list(columns)
    packed, span = np.zeros(len(arrays[0]), np.int64), 1
    for array in arrays:
        low = int(array.min(initial=0))
        width = int(array.max(initial=0)) - low + 1
        if span * width >= 2**63:  # renumber what is packed so far, which makes it dense again
            _, packed = np.unique(packed, return_inverse=True)
            span = int(packed.max(initial=0)) + 1
        packed = packed * width + (array.astype(np.int64) - low)
        span *= width
    _, first, group = np.unique(packed, return_index=True, return_inverse=True)
    return group, first


def words(text: str) -> list[str]:
    """Returns the words of a text: Unicode-normalised (NFKC), lower case, letters and digits."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())
