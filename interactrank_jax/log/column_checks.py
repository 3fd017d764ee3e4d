"""The columns of a log held against what they must be: present, of the right types."""

import pyarrow as pa

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.columns import TYPES, is_string
from interactrank_jax.log.read import Log


def check_columns(log: Log, name: str, expected: dict[str, str]) -> None:
    """Refuses a table without its columns, or with columns of other types.

    Args:
      log: the log.
      name: of the table.
      expected: of `Log.kinds`.

    Raises:
      InputError: names file and column.
    """
    present, path = log.columns(name), log.parts(name)[0].path
    for column, kind in expected.items():
        if column not in present:
            raise InputError(
                f"{name} ({path}): column '{column}' is missing." + did_you_mean(column, present)
            )
        words, fits = TYPES[kind]
        nulls = pa.types.is_null(present[column]) and (name, column) == ("events", "query_id")
        if not fits(present[column]) and not nulls:
            raise InputError(
                f"{name} ({path}): column '{column}' has type {present[column]}. Expected "
                f"{words}: convert it."
            )


def check_id_types(log: Log, tables: list[str]) -> None:
    """An id is a string everywhere or an integer everywhere: '7' never meets 7."""
    for column in ("item_id", "request_id", "user_id", "query_id"):
        kinds = {
            name: kind
            for name in tables
            if not pa.types.is_null(kind := log.columns(name).get(column, pa.null()))
        }
        if len({is_string(kind) for kind in kinds.values()}) > 1:
            listed = ", ".join(f"{kind} in {name}" for name, kind in kinds.items())
            raise InputError(
                f"column '{column}' is {listed}. Expected strings everywhere or integers "
                f"everywhere: convert one of them."
            )
