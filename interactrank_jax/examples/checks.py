"""Examples held against their metadata: shapes, types, and ids that lie within their tables.

A checksum says that a file is what was written, not that what was written fits the rest: it may
have been edited and sealed again, or mixed with another preparation's. On a device an id beyond its
table is no error, it reads the last row: so it is one here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from interactrank_jax.io import artifact, contents
from interactrank_jax.io.errors import InputError

if TYPE_CHECKING:
    from interactrank_jax.examples.encoder import Encoder
    from interactrank_jax.examples.format import Examples, Metadata

FLAGS, INTEGERS, NUMBERS = "b", "iu", "f"
LOOKED_UP = ("categorical", "text")
_KINDS = {FLAGS: "flags", INTEGERS: "integers", NUMBERS: "numbers"}

LARGEST = 2**31 - 1  # ids and counts are int32


def check_encoder(encoder: "Encoder") -> None:
    """Holds the parts of an encoder against each other.

    Raises:
      InputError: a length or a size is none, or something is named that is not there.
    """
    for name in ("history_length", "query_history_length"):
        _check_count(name, getattr(encoder, name))
    _check_count("out_of_vocabulary", encoder.out_of_vocabulary, True)
    for table in {"user", "query", "item"} - encoder.tables.keys():
        raise InputError(f"there is no table '{table}'.")
    for table, rows in encoder.tables.items():
        _check_count(f"tables.{table}", rows, True)
    for table, fingerprint in encoder.fingerprints.items():
        artifact.inside("vocabulary", table)
        rows = 1 + encoder.out_of_vocabulary + fingerprint.length
        if encoder.tables.get(table) != rows:
            raise InputError(
                f"table '{table}' has {encoder.tables.get(table)} rows, its {fingerprint.length} "
                f"values and the hashed rows make {rows}."
            )
    for feature in encoder.features:
        _check_count(f"the width of feature '{feature.name}'", feature.width, True)
        if feature.kind not in (*LOOKED_UP, "numeric", "embedding"):
            raise InputError(f"feature '{feature.name}' is of kind '{feature.kind}'.")
        if feature.kind in LOOKED_UP and feature.table not in encoder.tables:
            raise InputError(f"feature '{feature.name}' points into no table '{feature.table}'.")
        if feature.kind == "numeric" and feature.name not in encoder.numeric_statistics:
            raise InputError(f"feature '{feature.name}' has no statistics.")
    for table in id_tables(encoder):
        if table not in encoder.fingerprints:
            raise InputError(f"table '{table}' has no vocabulary.")
    for name in encoder.cross:
        if name not in encoder.cross_statistics:
            raise InputError(f"cross feature '{name}' has no statistics.")


def id_tables(encoder: "Encoder") -> list[str]:
    """Returns the tables whose rows are those of a vocabulary."""
    features = encoder.select(("user", "request", "item"), "categorical")
    return ["user", "query", "item", *(feature.table for feature in features)]


def check_metadata(metadata: "Metadata") -> None:
    """Holds the parts of a metadata against each other and against its encoder.

    Raises:
      InputError: a length or a size is none, or something is named that is not there.
    """
    _check_count("slate", metadata.slate, True)
    _check_count("config.block_size", metadata.config["block_size"], True)
    for name, split in metadata.splits.items():
        for field in ("examples", "requests", "candidates"):
            _check_count(f"splits.{name}.{field}", getattr(split, field))
        for pattern, count in split.actions.items():
            _check_count(f"splits.{name}.actions.{pattern}", count)
            if len(pattern) != len(metadata.actions) or set(pattern) - {"0", "1"}:
                raise InputError(f"splits.{name}.actions has the pattern '{pattern}'.")
        if sum(split.actions.values()) != split.candidates:
            raise InputError(f"splits.{name}.actions do not sum to its candidates.")
        for file, blocks in split.files:
            artifact.inside(name, file)
            _check_count(f"the number of blocks of {file}", blocks)
    if metadata.survey is not None:
        spoken_of = {*metadata.survey.few, *(("train",) if metadata.survey.equal else ())}
        if unknown := spoken_of - metadata.splits.keys():
            raise InputError(f"survey speaks of the split '{unknown.pop()}', which is not there.")


def _check_count(name: str, value: Any, above_zero: bool = False) -> None:
    if not isinstance(value, int) or not above_zero <= value <= LARGEST:
        raise InputError(
            f"{name} is {value!r}. Expected a whole number from {int(above_zero)} to {LARGEST:,}."
        )


class BlockCheck:
    """Holds the columns of a block against the metadata; columns that it does not know pass."""

    def __init__(self, metadata: "Metadata", split: str, num_items: int):
        """Makes the table of columns.

        Args:
          metadata: of the examples.
          split: whose blocks.
          num_items: rows of the item store.
        """
        C, A, K = metadata.slate, len(metadata.actions), len(metadata.cross)
        L, Lq, tables = metadata.history_length, metadata.query_history_length, metadata.tables
        numeric = len(metadata.select(("user", "request"), "numeric"))
        # By name the shape of an example's values, their type, and what integers lie below.
        self._columns: dict[str, tuple[tuple[int, ...], str, int | None]] = {
            "request_index": ((), INTEGERS, metadata.splits[split].requests),
            "user": ((), INTEGERS, tables["user"]),
            "query": ((), INTEGERS, tables["query"]),
            "request_numeric": ((numeric,), NUMBERS, None),
            "history_item": ((L,), INTEGERS, num_items),
            "history_action": ((L,), INTEGERS, A + 1),
            "history_age": ((L,), NUMBERS, None),
            "query_history_item": ((Lq,), INTEGERS, num_items),
            "item": ((C,), INTEGERS, num_items),
            "mask": ((C,), FLAGS, None),
            "position": ((C,), INTEGERS, None),
            "actions": ((C, A), INTEGERS, 2),
            "cross": ((C, K), NUMBERS, None),
            "stage": ((C,), INTEGERS, 4),
            "propensity": ((C,), NUMBERS, None),
            "teacher_score": ((C,), NUMBERS, None),
        }
        for feature in metadata.select(("user", "request")):
            if feature.kind != "numeric":
                shape = () if feature.kind == "categorical" else (feature.width,)
                is_id = feature.kind in LOOKED_UP
                kind, limit = (INTEGERS, tables[feature.table]) if is_id else (NUMBERS, None)
                self._columns[f"request/{feature.name}"] = (shape, kind, limit)

    def __call__(self, columns: Mapping[str, np.ndarray]) -> None:
        """Checks one block, in one pass over each column.

        Raises:
          InputError: a column of another shape, type or length, or an id beyond its table.
        """
        lengths = {len(values) for values in columns.values() if values.ndim}
        if len(lengths) > 1 or not all(values.ndim for values in columns.values()):
            raise InputError(f"a block has columns of the lengths {sorted(lengths)}.")
        for name, values in columns.items():
            if name not in self._columns:
                continue
            shape, kind, limit = self._columns[name]
            if values.shape[1:] != shape or values.dtype.kind not in kind:
                raise InputError(
                    f"column '{name}' holds {values.dtype} of shape {values.shape}. Expected "
                    f"{_KINDS[kind]} of shape (any, {', '.join(map(str, shape))})."
                )
            if limit is not None:
                check_below(f"column '{name}'", values, limit)


def check_below(what: str, values: np.ndarray, limit: int) -> None:
    """Raises InputError where an integer is below 0 or not below a limit."""
    # Seen as unsigned, what is below zero lies beyond every limit: one pass for both.
    unsigned = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    if unsigned.max(initial=0) >= limit and values.size:
        wrong = values[(values < 0) | (values >= limit)].flat[0]
        raise InputError(f"{what} holds {wrong}. Expected at least 0 and below {limit}.")


def load_items(examples: "Examples") -> dict[str, np.ndarray]:
    """Returns the arrays of the item store, see `Examples.items`.

    Raises:
      InputError: a file is absent, damaged, of another length or type, or has an id beyond its
        table.
    """
    metadata = examples.metadata

    def load(name: str, shape: tuple[int | None, ...], kind: str, limit: int | None) -> np.ndarray:
        path = examples.file(f"items/{name}.npy")
        array = contents.load_array(path, shape, kind)
        if limit is not None:
            check_below(str(path), array, limit)
        return array

    ids = load("id", (None,), INTEGERS, metadata.tables["item"])
    rows = len(ids)
    if not rows:
        raise InputError(f"{examples.file('items/id.npy')} is empty. Expected the padding row.")
    numeric = len(metadata.select(("item",), "numeric"))
    items = {"id": ids, "count": load("count", (rows,), INTEGERS, np.iinfo(np.int32).max)}
    items["numeric"] = load("numeric", (rows, numeric), NUMBERS, None)
    for feature in metadata.select(("item",)):
        if feature.kind in LOOKED_UP:
            shape = (rows,) if feature.kind == "categorical" else (rows, feature.width)
            limit = metadata.tables[feature.table]
            items[feature.name] = load(feature.name, shape, INTEGERS, limit)
        elif feature.kind == "embedding":
            items[feature.name] = load(feature.name, (rows, feature.width), NUMBERS, None)
    return items


def load_sparse_cross(examples: "Examples", split: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a split's `SparseCross`.

    Raises:
      InputError: a file is absent, damaged, of another length or type, or names a group, an entry
        or an item that is not there.
    """
    files_of = {
        name: examples.file(f"cross/{split}/{name}.npy")
        for name in ("group", "indptr", "item", "value")
    }
    requests, features = examples.split(split).requests, len(examples.metadata.cross)
    group = contents.load_array(files_of["group"], (requests,), INTEGERS)
    indptr = contents.load_array(files_of["indptr"], (None,), INTEGERS)
    item = contents.load_array(files_of["item"], (None,), INTEGERS)
    value = contents.load_array(files_of["value"], (len(item), features), NUMBERS)
    ends = np.asarray(indptr)
    if not len(ends) or ends[0] != 0 or ends[-1] != len(item) or (np.diff(ends) < 0).any():
        raise InputError(f"{files_of['indptr']} does not rise from 0 to {len(item)}.")
    check_below(str(files_of["group"]), group[np.asarray(group) != -1], len(ends) - 1)
    check_below(str(files_of["item"]), item, examples.num_items)
    return {"group": group, "indptr": indptr, "item": item, "value": value}
