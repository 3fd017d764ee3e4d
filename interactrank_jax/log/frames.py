"""A log made of data frames: of pandas, Polars or Arrow, or of columns as lists and arrays.

Columns are those of the log contract (`schema.py`). Ids, times and features are written as
`convert --format=ratings` writes them, and the kinds of features are guessed by the same code
(`adapters/kinds.py`) unless they are given. Columns that the contract does not name and that are no
features are left out, and that is logged.
"""

import contextlib
import dataclasses
import logging
import os
import re
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.adapters import kinds as column_kinds
from interactrank_jax.log.adapters.kinds import IGNORE, Column
from interactrank_jax.log.adapters.raw_files import refuse_repeats
from interactrank_jax.log.adapters.raw_tables import RawTable, without_row_numbers
from interactrank_jax.log.contract import OPTIONAL_COLUMNS
from interactrank_jax.log.read import Log, open_log
from interactrank_jax.log.schema import KINDS, REQUIRED_TABLES, FeatureSpec, Schema
from interactrank_jax.log.validate import validate

logger = logging.getLogger(__name__)

IDS = {
    "items": ("item_id",),
    "requests": ("request_id", "user_id", "query_id"),
    "impressions": ("request_id", "item_id"),
    "events": ("event_id", "user_id", "query_id", "item_id"),
}
TIMES = {"requests": ("timestamp",), "events": ("event_time", "arrival_time")}
OTHERS = {"impressions": ("position",), "events": ("action",)}
_MEANINGS = {
    "query_id": "what was searched for, or one value for all where nothing is",
    "timestamp": "UTC seconds, dates or timestamps; of a log without times say timeless=True",
    "position": "the place in the list as shown, from 0",
    "arrival_time": "when the log had the event: event_time again where it had it at once",
}


@dataclasses.dataclass(frozen=True)
class _Frame(RawTable):
    """A table of the log as it was given; `where` is its name."""

    def choice(self, name: str, kind: str) -> str:
        """Returns how a user says that a column is of a kind, for messages."""
        return f"kinds={{'{name}': '{kind}'}}"


def write_log(
    frames: Mapping[str, Any],
    *,
    actions: Sequence[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    user_features: Sequence[str] = (),
    timeless: bool = False,
    schema: Schema | None = None,
    path: files.PathLike | None = None,
) -> Log:
    """Writes data frames as a log, checks it, and opens it. Arguments: see `Log.from_frames`.

    Args:
      frames: table name -> data frame, None for a table that is absent.

    Raises:
      InputError: names table and column.
    """
    tables = {name: _table(name, frame) for name, frame in frames.items() if frame is not None}
    for name in REQUIRED_TABLES:
        if name not in tables:
            raise InputError(f"the log has no {name}. Expected a data frame of them.")
    if schema is None:
        names = (user_features,) if isinstance(user_features, str) else tuple(user_features)
        schema, columns = _inferred(tables, actions, kinds or {}, names, timeless)
    elif actions is not None or kinds or user_features or timeless:
        raise InputError(
            "schema=... says which actions, kinds and user features there are. Expected it alone, "
            "or the others without it."
        )
    else:
        columns = [_describe(tables, spec.name, spec.entity, spec.kind) for spec in schema.features]
    written = _log_tables(tables, schema, columns)
    with contextlib.ExitStack() as stack:
        if path is None:
            path = stack.enter_context(outputs.scratch_directory()) / "log"
        path = outputs.from_user(os.fspath(path), "path")
        with outputs.new_directory(path) as directory:
            schema.save(directory)
            for name, table in written.items():
                pq.write_table(table, directory / f"{name}.parquet", store_schema=False)
            with _without_paths(directory):
                validate(open_log(directory))
        log = open_log(path)
        weakref.finalize(log, stack.pop_all().close)  # a temporary directory goes with the log
    return log


@contextlib.contextmanager
def _without_paths(directory: Path) -> Iterator[None]:
    """Leaves the files of a directory out of errors: who gave frames knows tables and columns."""
    try:
        yield
    except InputError as error:
        file = rf" ?\(?{re.escape(str(directory))}[^ ):]*\)?"
        raise InputError(re.sub(file, "", str(error))) from error


# --- frames ------------------------------------------------------------------------------------


def _table(name: str, frame: Any) -> _Frame:
    """Returns a data frame as an Arrow table, without pandas' row numbers.

    Raises:
      InputError: it is no data frame, it lacks rows or a column that it must have, or two of its
        columns have one name.
    """
    rows = _arrow(name, frame)
    if not len(rows):
        raise InputError(f"{name}: the table is empty. Expected rows.")
    needed = (*IDS[name], *TIMES.get(name, ()), *OTHERS.get(name, ()))
    rows, row_numbers = without_row_numbers(rows, name, needed)
    refuse_repeats(rows.column_names, name)
    if row_numbers:
        logger.info("left out: row numbers of pandas in %s", name)
    return _Frame(name, rows, first_row=0, is_text=False, row_numbers=row_numbers)


def _arrow(name: str, frame: Any) -> pa.Table:
    pandas = sys.modules.get("pandas")  # who has a data frame has imported it
    if pandas is not None and isinstance(frame, pandas.DataFrame):
        index = [level for level in frame.index.names if level is not None]
        if index:
            raise InputError(
                f"{name}: {index[0]!r} is the index of the data frame, so it is no column. Call "
                f".reset_index() to make it one, or .reset_index(drop=True) to leave it out."
            )
        names = [str(column) for column in frame.columns]
        return _columns(name, names, [frame.iloc[:, place] for place in range(len(names))])
    if isinstance(frame, Mapping):
        return _columns(name, [str(column) for column in frame], list(frame.values()))
    if isinstance(frame, pa.Table | pa.RecordBatch) or hasattr(frame, "__arrow_c_stream__"):
        return pa.table(frame)
    raise InputError(
        f"{name} is {type(frame).__name__}. Expected a data frame of pandas, Polars or Arrow, or a "
        f"dict of columns."
    )


def _columns(table: str, names: Sequence[str], columns: Sequence[Any]) -> pa.Table:
    arrays = []
    for name, column in zip(names, columns, strict=True):
        values = list(column) if getattr(column, "ndim", 1) == 2 else column  # embeddings
        try:
            arrays.append(pa.array(values, from_pandas=True))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputError(
                f"{table}: column '{name}' cannot be read ({error}). Expected values of one type: "
                f"convert them."
            ) from error
        if len(arrays[-1]) != len(arrays[0]):
            raise InputError(
                f"{table}: column '{name}' has {len(arrays[-1]):,} values, '{names[0]}' has "
                f"{len(arrays[0]):,}. Expected as many in every column."
            )
    return pa.Table.from_arrays(arrays, list(names))


# --- schema ------------------------------------------------------------------------------------


def _inferred(
    tables: Mapping[str, _Frame],
    actions: Sequence[str] | None,
    kinds: Mapping[str, str],
    user_features: Sequence[str],
    timeless: bool,
) -> tuple[Schema, list[Column]]:
    """Returns the schema of tables, and its features as columns; what was guessed is logged.

    Raises:
      InputError: a name or a kind that is not there, or that a log cannot have.
    """
    if not actions:
        raise InputError(
            f"the log has no actions. Expected the columns of impressions that say what users did, "
            f"such as actions=('click',).{_listed(tables['impressions'])}"
        )
    actions = (actions,) if isinstance(actions, str) else tuple(actions)
    names = list(_feature_names(tables, user_features))
    _check_declared(names, kinds, user_features)
    described = [_describe(tables, name, entity, kinds.get(name)) for entity, name in names]
    logger.info(column_kinds.report(described, "kinds=... says"))
    for column in described:
        for text in column.warnings:
            logger.warning("%s: %s.", column.name, text)
    described = [column for column in described if column.kind != IGNORE]
    features = tuple(FeatureSpec(column.name, column.entity, column.kind) for column in described)
    try:
        return Schema(features, actions, timeless), described
    except InputError as error:
        raise InputError(
            f"{error} Features are the columns of items and requests, actions those of "
            f"impressions: rename that one, or leave it out with kinds={{'NAME': '{IGNORE}'}}."
        ) from error


def _feature_names(
    tables: Mapping[str, _Frame], user_features: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yields entity and name of each column that may be a feature."""
    for name in tables["items"].rows.column_names:
        if name not in (*IDS["items"], "created_at"):
            yield "item", name
    for name in tables["requests"].rows.column_names:
        if name not in (*IDS["requests"], *TIMES["requests"]):
            yield "user" if name in user_features else "request", name


def _check_declared(
    features: Sequence[tuple[str, str]], kinds: Mapping[str, str], user_features: Sequence[str]
) -> None:
    names = [name for _, name in features]
    for name, kind in kinds.items():
        if name not in names:
            raise InputError(
                f"kinds names '{name}', no feature of items or requests."
                + did_you_mean(name, names)
            )
        if kind not in (*KINDS, IGNORE):
            raise InputError(
                f"kinds={{'{name}': '{kind}'}}." + did_you_mean(str(kind), (*KINDS, IGNORE))
            )
    of_requests = [name for entity, name in features if entity != "item"]
    for name in user_features:
        if name not in of_requests:
            raise InputError(
                f"user_features names '{name}', no feature of requests."
                + did_you_mean(name, of_requests)
            )


def _describe(tables: Mapping[str, _Frame], name: str, entity: str, kind: str | None) -> Column:
    return column_kinds.describe(_table_of(tables, entity), name, entity, kind)


def _table_of(tables: Mapping[str, _Frame], entity: str) -> _Frame:
    return tables["items" if entity == "item" else "requests"]


def _listed(table: _Frame) -> str:
    names = [name for name in table.rows.column_names if name not in IDS[table.where]]
    return f" Its columns: {', '.join(names) or 'none'}."


# --- tables of the log --------------------------------------------------------------------------


def _log_tables(
    tables: Mapping[str, _Frame], schema: Schema, features: Sequence[Column]
) -> dict[str, pa.Table]:
    """Returns the tables as they are written.

    Raises:
      InputError: a column is missing, or its values cannot be what they must be.
    """
    written = {}
    for name, table in tables.items():
        is_timed = name == "events" or not schema.timeless
        columns = {column: _ids(table, column) for column in IDS[name]}
        columns |= {column: _times(table, column) for column in TIMES.get(name, ()) if is_timed}
        actions = schema.actions if name == "impressions" else ()
        columns |= {column: _values(table, column) for column in (*OTHERS.get(name, ()), *actions)}
        present = [column for column in table.rows.column_names if column not in columns]
        if name == "items" and "created_at" in present:
            columns["created_at"] = _times(table, "created_at", optional=True)
        if name == "impressions":
            columns |= {key: _values(table, key) for key in OPTIONAL_COLUMNS if key in present}
        columns |= {
            feature.name: column_kinds.feature_values(table, feature)
            for feature in _features_in(name, features, present)
        }
        unused = [column for column in present if column not in columns]
        if unused:
            logger.info("not used: %s of %s", ", ".join(map(repr, unused)), name)
        written[name] = pa.table(columns)
    return written


def _features_in(name: str, features: Sequence[Column], present: Sequence[str]) -> list[Column]:
    """Returns the features that a table has columns of."""
    if name in ("items", "requests"):
        return [column for column in features if (column.entity == "item") == (name == "items")]
    if name == "events":  # of the user or request, as of the event
        return [
            column
            for column in features
            if column.entity != "item" and column.kind == "categorical" and column.name in present
        ]
    return []


def _check_present(table: _Frame, name: str) -> None:
    if name in table.rows.column_names:
        return
    meaning = f" Expected {_MEANINGS[name]}." if name in _MEANINGS else ""
    raise InputError(
        f"{table.where}: column '{name}' is missing.{meaning}"
        + did_you_mean(name, table.rows.column_names)
    )


def _values(table: _Frame, name: str) -> pa.Array:
    _check_present(table, name)
    return table.column(name)


def _ids(table: _Frame, name: str) -> pa.Array:
    _check_present(table, name)
    return table.ids(name, optional=(table.where, name) == ("events", "query_id"))


def _times(table: _Frame, name: str, optional: bool = False) -> pa.Array:
    """Returns a column of times as UTC seconds; where `optional`, null where it has none."""
    _check_present(table, name)
    if not optional:
        return pa.array(table.seconds(name).astype(np.int64))
    values = table.column(name)
    is_known = values.is_valid().to_numpy(zero_copy_only=False)
    seconds = np.zeros(len(values), np.int64)
    if is_known.any():
        known = dataclasses.replace(table, rows=pa.table({name: values.drop_null()}))
        seconds[is_known] = known.seconds(name)
    return pa.array(seconds, mask=~is_known)
