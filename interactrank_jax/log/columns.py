"""Which columns the tables of a log have, and of which types: in all of their parts."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.schema import Schema

_Predicate = Callable[[pa.DataType], bool]


def is_string(kind: pa.DataType) -> bool:
    """Returns whether values of a type are text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_list_of_floats(kind: pa.DataType) -> bool:
    """Returns whether values of a type are lists of floats, of one width or of several."""
    nested = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in nested) and pa.types.is_floating(kind.value_type)


TYPES: dict[str, tuple[str, _Predicate]] = {
    "id": ("a string or an integer", lambda t: is_string(t) or pa.types.is_integer(t)),
    "integer": ("an integer", pa.types.is_integer),
    "number": ("a number", lambda t: pa.types.is_integer(t) or pa.types.is_floating(t)),
    "string": ("a string", is_string),
    "binary": ("a boolean, or an integer 0 or 1", lambda t: _is_flag(t)),
    "categorical": (
        "a string, an integer or a boolean",
        lambda t: is_string(t) or _is_flag(t),
    ),
    "numeric": ("a number", lambda t: pa.types.is_integer(t) or pa.types.is_floating(t)),
    "text": ("a string", is_string),
    "embedding": ("a list of floats", is_list_of_floats),
}


def _is_flag(kind: pa.DataType) -> bool:
    return pa.types.is_boolean(kind) or pa.types.is_integer(kind)


# Columns whose values may all be missing, so that a writer may have given them no type.
_NULLABLE = (("events", "query_id"), ("items", "created_at"))


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """One Parquet file of a table.

    Attributes:
      path: the file.
      rows: how many it has.
      types: Arrow type of each of its columns, dictionaries unwrapped.
    """

    path: Path
    rows: int
    types: Mapping[str, pa.DataType]


def read_part(table: str, path: Path) -> Part:
    """Reads the footer of a Parquet file, once for as long as the file does not change.

    Args:
      table: of the log, for messages.
      path: the file.

    Raises:
      InputError: the file is not Parquet, or two columns have one name.
    """
    try:
        status = path.stat()
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        return _read_part(table, path, identity)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} is not a readable Parquet file ({error}): it was truncated or is something "
            f"else. Write it again."
        ) from error


@functools.lru_cache(maxsize=2**16)
def _read_part(table: str, path: Path, identity: tuple[int, ...]) -> Part:
    metadata = pq.read_metadata(path)
    schema = metadata.schema.to_arrow_schema()
    names: dict[str, str] = {}
    for name in schema.names:
        # DuckDB does not tell capitals apart, so it would read one for the other.
        if name.lower() in names:
            raise InputError(
                f"{table} ({path}): columns '{names[name.lower()]}' and '{name}' have one name, "
                f"capitals aside. Expected each name once: rename or drop one."
            )
        names[name.lower()] = name
    types = {
        field.name: field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        for field in schema
    }
    return Part(path, metadata.num_rows, MappingProxyType(types))


@functools.lru_cache(maxsize=64)
def unite(schema: Schema, table: str, parts: tuple[Part, ...]) -> Mapping[str, pa.DataType]:
    """Returns the columns of a table and the type that holds the values of all of its parts.

    Integers of several widths become int64, floats float64, integers and floats float64 where a
    number is asked for. A column that nobody declared is left out where some part lacks it, or
    where its types do not go together.

    Args:
      schema: of the log.
      table: its name.
      parts: its files.

    Raises:
      InputError: a declared column is missing in some parts, or of types that do not go together.
    """
    kinds = column_kinds(schema, table, {name for part in parts for name in part.types})
    united = {}
    for name in dict.fromkeys(name for part in parts for name in part.types):
        kind = kinds.get(name)
        lacking = [part for part in parts if name not in part.types]
        if lacking:
            if kind is not None:
                _refuse_missing(table, name, next(p for p in parts if name in p.types), lacking[0])
            continue
        first = {part.types[name]: part for part in reversed(parts)}  # of each type, in order
        types = list(reversed(first))
        may_be_null = kind is None or (table, name) in _NULLABLE
        type_of_all = _unite_types(types, kind, may_be_null)
        if type_of_all is not None:
            united[name] = type_of_all
        elif kind is not None:
            pairs = itertools.combinations(types, 2)
            one, other = next(p for p in pairs if _unite_types(p, kind, may_be_null) is None)
            raise InputError(
                f"{table} ({first[other].path}): column '{name}' has type {other}, in "
                f"{first[one].path} it has type {one}. Expected {TYPES[kind][0]}, of one kind in "
                f"all parts: write one of them again with the type of the other."
            )
    return MappingProxyType(united)


def _refuse_missing(table: str, name: str, part: Part, lacking: Part) -> None:
    raise InputError(
        f"{table} ({lacking.path}): column '{name}' is missing, which {part.path} has. Expected it "
        f"in all parts or in none: add it there, or drop it everywhere."
        + did_you_mean(name, lacking.types)
    )


def _unite_types(
    types: Iterable[pa.DataType], kind: str | None, may_be_null: bool
) -> pa.DataType | None:
    """Returns the type that holds the values of some types; None where none does.

    Args:
      types: distinct, of one column in several parts.
      kind: what the column must be; None for one that nobody declared.
      may_be_null: whether a type without values goes with any other.
    """
    types = list(types)
    if may_be_null:
        types = [one for one in types if not pa.types.is_null(one)] or types
    if len(types) == 1:
        return types[0]
    if all(is_string(one) for one in types):
        return pa.large_string()
    if all(pa.types.is_integer(one) for one in types):
        if pa.uint64() not in types:
            return pa.int64()
        unsigned = all(pa.types.is_unsigned_integer(one) for one in types)
        return pa.uint64() if unsigned else None
    is_number = kind in ("numeric", "number")
    if all(pa.types.is_floating(one) or (is_number and pa.types.is_integer(one)) for one in types):
        return pa.float64()
    if all(is_list_of_floats(one) for one in types):
        values = {one.value_type for one in types}
        return pa.list_(values.pop() if len(values) == 1 else pa.float64())
    return None


def column_kinds(schema: Schema, name: str, present: Iterable[str]) -> dict[str, str]:
    """Returns the kind of each column that a table has or must have, see `Log.kinds`."""
    present = set(present)
    if name == "items":
        kinds = {"item_id": "id"}
        kinds |= {feature.name: feature.kind for feature in schema.select(("item",))}
        kinds |= {"created_at": "integer"} if "created_at" in present else {}
    elif name == "requests":
        kinds = {"request_id": "id", "user_id": "id", "query_id": "id"}
        if not schema.timeless:
            kinds["timestamp"] = "integer"
        kinds |= {feature.name: feature.kind for feature in schema.select(("user", "request"))}
    elif name == "impressions":
        kinds = {"request_id": "id", "item_id": "id", "position": "integer"}
        kinds |= dict.fromkeys(schema.actions, "binary")
        optional = {"propensity": "number", "stage": "string", "teacher_score": "number"}
        kinds |= {key: kind for key, kind in optional.items() if key in present}
    else:
        kinds = dict.fromkeys(("event_id", "user_id", "query_id", "item_id"), "id")
        kinds |= {"action": "string", "event_time": "integer", "arrival_time": "integer"}
        kinds |= {
            feature.name: feature.kind
            for feature in schema.select(("user", "request"), "categorical")
            if feature.name in present
        }
    return kinds
