"""Raw tables as they come to be ranked: of Arrow, pandas, Polars or plain Python."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.columns import TYPES, is_string
from interactrank_jax.log.values import as_values
from interactrank_jax.state.days import SECONDS_PER_DAY, date

DAYS_PER_CENTURY = 36_525


def as_table(data: Any, what: str) -> pa.Table:
    """Returns data as an Arrow table.

    Args:
      data: an Arrow table or record batch, a pandas or Polars frame, a mapping from names to
        columns, or a list of mappings.
      what: it is, for messages.

    Raises:
      InputError: something else.
    """
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    try:
        if hasattr(data, "__arrow_c_stream__"):
            return pa.table(data)
        if hasattr(data, "iloc"):  # pandas before it had the Arrow interface
            return pa.Table.from_pandas(data, preserve_index=False)
        if isinstance(data, Mapping):
            columns = dict(data)
            for name, values in columns.items():
                if isinstance(values, str | bytes):  # whose letters Arrow would take for rows
                    raise TypeError(f"column '{name}' is one string, not several values")
            return pa.table(columns)
        if isinstance(data, Iterable) and not isinstance(data, str | bytes):
            return pa.Table.from_pylist(list(data))
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{what} cannot be read as a table ({error}).") from error
    raise InputError(
        f"{what} is of type {type(data).__name__}. Expected an Arrow table, a data frame, a "
        f"mapping from names to columns, or a list of mappings."
    )


def check_columns(
    table: pa.Table, kinds: Mapping[str, str], types: Mapping[str, pa.DataType], what: str
) -> None:
    """Refuses a table without some columns, or with columns of other types.

    A column without any value may have any type.

    Args:
      table: the table.
      kinds: of the columns that are needed, see `log.columns.TYPES`.
      types: of some of them, `int64` or `large_string`: those of the values that they are compared
        with.
      what: the table is, for messages.

    Raises:
      InputError: names table and column.
    """
    for name, kind in kinds.items():
        if name not in table.column_names:
            raise InputError(
                f"{what}: column '{name}' is missing." + did_you_mean(name, table.column_names)
            )
        if table.column_names.count(name) > 1:
            raise InputError(f"{what}: column '{name}' is there twice. Expected it once.")
        present = table.schema.field(name).type
        if pa.types.is_dictionary(present):
            present = present.value_type
        if pa.types.is_null(present):
            continue
        words, fits = TYPES[kind]
        if not fits(present):
            raise InputError(
                f"{what}: column '{name}' has type {present}. Expected {words}: convert it."
            )
        if name in types and is_string(present) != is_string(types[name]):
            expected = "strings" if is_string(types[name]) else "integers"
            raise InputError(
                f"{what}: column '{name}' has type {present}. Expected {expected}, as the values "
                f"that it is compared with: '7' is not 7. Convert it."
            )


def column(table: pa.Table, name: str, kind: pa.DataType | None = None) -> pa.Array:
    """Returns a column as `as_values` has it; one without any value as of type `kind`."""
    values = as_values(table[name])
    if kind is not None and values.type != kind and values.null_count == len(values):
        return pa.nulls(len(values), kind)
    return values


def refuse_nulls(table: pa.Table, names: Iterable[str], what: str, key: str) -> None:
    """Refuses rows without a value in some columns.

    Raises:
      InputError: names column, rows and one example.
    """
    for name in names:
        values = table[name]
        missing = values.is_null()
        if pa.types.is_floating(values.type):
            numbers = values.cast(pa.float32(), safe=False)  # what they become
            missing = pc.or_(missing, pc.fill_null(pc.invert(pc.is_finite(numbers)), False))
        count = pc.sum(missing).as_py() or 0
        if count:
            row = pc.index(missing, True).as_py()
            example = f", for example {key} {table[key][row].as_py()!r}" if name != key else ""
            raise InputError(
                f"{what}: column '{name}' has no value, or none that is finite, in {count:,} of "
                f"{len(table):,} rows{example}. Expected a value in every row: fill them in."
            )


def refuse_other_units(seconds: np.ndarray, day: int, name: str, what: str) -> None:
    """Refuses times that cannot be seconds: those more than a century away from a day.

    Args:
      seconds: `[N]` times.
      day: number of the bundle's day.
      name: of their column.
      what: the table is, for messages.

    Raises:
      InputError: names the column and one such time.
    """
    is_far = np.abs(seconds // SECONDS_PER_DAY - day) > DAYS_PER_CENTURY
    if is_far.any():
        raise InputError(
            f"{what}: column '{name}' has {seconds[int(np.argmax(is_far))]}, more than a century "
            f"from {date(day)}, the bundle's day. Expected UTC seconds: are these milliseconds?"
        )


def refuse_repeated(values: pa.Array, name: str, what: str) -> None:
    """Refuses a column with a value twice.

    Raises:
      InputError: names the column and one such value.
    """
    counts = values.value_counts()
    repeated = np.flatnonzero(counts.field("counts").to_numpy() > 1)
    if len(repeated):
        raise InputError(
            f"{what}: {len(repeated):,} values of '{name}' are there more than once, for example "
            f"{counts.field('values')[int(repeated[0])].as_py()!r}. Expected each once."
        )
