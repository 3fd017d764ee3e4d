"""Which columns the tables of a log have, and of which types."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from interactrank_jax.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from interactrank_jax.data.schema import Log

_Predicate = Callable[[pa.DataType], bool]


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    nested = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in nested) and pa.types.is_floating(kind.value_type)


_TYPES: dict[str, tuple[str, _Predicate]] = {
    "id": ("a string or an integer", lambda t: _is_string(t) or pa.types.is_integer(t)),
    "integer": ("an integer", pa.types.is_integer),
    "number": ("a number", lambda t: pa.types.is_integer(t) or pa.types.is_floating(t)),
    "string": ("a string", _is_string),
    "binary": ("a boolean, or an integer 0 or 1", lambda t: _is_flag(t)),
    "categorical": (
        "a string, an integer or a boolean",
        lambda t: _is_string(t) or _is_flag(t),
    ),
    "numeric": ("a number", lambda t: pa.types.is_integer(t) or pa.types.is_floating(t)),
    "text": ("a string", _is_string),
    "embedding": ("a list of floats", _is_list),
}


def _is_flag(kind: pa.DataType) -> bool:
    return pa.types.is_boolean(kind) or pa.types.is_integer(kind)


def of_table(log: "Log", name: str) -> dict[str, str]:
    """Returns the columns that a table must have, and those checked if it has them.

    Returns:
      By name the kind: 'id', 'integer', 'number', 'string', 'binary', or that of a feature.
    """
    schema = log.schema
    present = log.columns(name)
    if name == "items":
        found = {"item_id": "id"}
        found |= {feature.name: feature.kind for feature in schema.select(("item",))}
        found |= {"created_at": "integer"} if "created_at" in present else {}
    elif name == "requests":
        found = {"request_id": "id", "user_id": "id", "query_id": "id"}
        if not schema.timeless:
            found["timestamp"] = "integer"
        found |= {feature.name: feature.kind for feature in schema.select(("user", "request"))}
    elif name == "impressions":
        found = {"request_id": "id", "item_id": "id", "position": "integer"}
        found |= dict.fromkeys(schema.actions, "binary")
        optional = {"propensity": "number", "stage": "string", "teacher_score": "number"}
        found |= {key: kind for key, kind in optional.items() if key in present}
    else:
        found = dict.fromkeys(("event_id", "user_id", "query_id", "item_id"), "id")
        found |= {"action": "string", "event_time": "integer", "arrival_time": "integer"}
        found |= {
            feature.name: feature.kind
            for feature in schema.select(("user", "request"), "categorical")
            if feature.name in present
        }
    return found


def check_columns(log: "Log", name: str, expected: dict[str, str]) -> None:
    """Refuses a table without its columns, or with columns of other types.

    Args:
      log: the log.
      name: of the table.
      expected: of `of_table`.

    Raises:
      InputError: names file and column.
    """
    for part, path in enumerate(log.files(name)):
        present = log.columns(name, part)
        for column, kind in expected.items():
            if column not in present:
                raise InputError(
                    f"{name} ({path}): column '{column}' is missing."
                    + did_you_mean(column, present)
                )
            words, fits = _TYPES[kind]
            nulls = pa.types.is_null(present[column]) and (name, column) == ("events", "query_id")
            if not fits(present[column]) and not nulls:
                raise InputError(
                    f"{name} ({path}): column '{column}' has type {present[column]}. Expected "
                    f"{words}: convert it."
                )
            first = log.columns(name)[column]
            if not nulls and _is_string(first) != _is_string(present[column]):
                raise InputError(
                    f"{name} ({path}): column '{column}' has type {present[column]}, in the part "
                    f"before {first}. Expected strings in all parts or in none: convert it."
                )


def check_id_types(log: "Log", tables: list[str]) -> None:
    """An id is a string everywhere or an integer everywhere: '7' never meets 7."""
    for column in ("item_id", "request_id", "user_id", "query_id"):
        found = {
            name: kind
            for name in tables
            if not pa.types.is_null(kind := log.columns(name).get(column, pa.null()))
        }
        if len({_is_string(kind) for kind in found.values()}) > 1:
            kinds = ", ".join(f"{kind} in {name}" for name, kind in found.items())
            raise InputError(
                f"column '{column}' is {kinds}. Expected strings everywhere or integers "
                f"everywhere: convert one of them."
            )
