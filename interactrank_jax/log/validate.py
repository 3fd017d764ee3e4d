"""Checks of a whole log before any work starts, as Ibis expressions on the embedded DuckDB.

Each table is read about twice: once for the row-wise checks (all of them in one pass) and once for
ids (duplicates, rows that refer to nothing). An error names table, column, row count and the first
offending row in the order of the table's ids.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.io.errors import InputError
from interactrank_jax.log import column_checks
from interactrank_jax.log.contract import STAGES
from interactrank_jax.log.read import Log

# 1990-01-01 and 2100-01-01 in UTC seconds: older or later logs are far likelier to be a wrong unit.
EARLIEST, LATEST = 631_152_000, 4_102_444_800
# Examples hold float32 and int32.
LARGEST, SMALLEST_PROPENSITY = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
LARGEST_INTEGER = int(np.iinfo(np.int64).max)
LAST_POSITION = int(np.iinfo(np.int32).max)
KEYS = {
    "items": ("item_id",),
    "requests": ("request_id",),
    "impressions": ("request_id", "item_id"),
    "events": ("event_id",),
}


@dataclasses.dataclass(frozen=True)
class _Check:
    """A row-wise check: rows where `bad` holds are wrong.

    `expected` says what should be there and what to do; `remark` may add, from the example's
    value, what went wrong.
    """

    column: str
    bad: ibis.expr.types.BooleanValue
    expected: str
    remark: Callable[[Any], str] = lambda value: ""


def validate(log: Log) -> dict[str, Any]:
    """Checks a log against its schema and against itself.

    Returns:
      Row counts per table (`items`, `requests`, `impressions`, `events`), `users`, `queries`,
      `actions` (impressions with each action), `duplicate_events` (rows whose event_id came
      before: dropped by every reader, not an error) and, in a log with time, `first_timestamp` and
      `last_timestamp` of the requests; `negatives` and `sampled_negatives` (how many) if sampled.

    Raises:
      InputError: the first thing found wrong.
    """
    if log.schema.timeless and log.has_events:
        raise InputError(
            f"{log.path}: a timeless log cannot hold events, which have times. Set "
            f'"timeless": false and give requests a timestamp, or remove events.'
        )
    expected = check_columns(log)
    tables = list(expected)
    if log.schema.negatives is not None and "stage" not in expected["impressions"]:
        raise InputError(
            f"{log.path}: impressions lack column 'stage', which says what negatives are sampled."
        )
    with readable(log):
        totals = {name: _check_rows(log, name, expected[name]) for name in tables}
        for name in tables[:3]:
            check_unique(name, log.table(name), totals[name]["rows"])
        for name, column, target in (
            ("impressions", "item_id", "items"),
            ("impressions", "request_id", "requests"),
            ("events", "item_id", "items"),
        ):
            if name in tables:
                _check_known(log, name, column, target)
        return _summary(log, totals)


def check_columns(log: Log, needs_features: bool = True) -> dict[str, dict[str, str]]:
    """Checks columns and types of all tables by the footers of their files: no row is read.

    Args:
      log: the log.
      needs_features: whether a declared feature that no file has is an error.

    Returns:
      `Log.kinds` of each table, without such features.

    Raises:
      InputError: the first thing found wrong.
    """
    tables = [name for name in KEYS if name != "events" or log.has_events]
    features = set() if needs_features else {feature.name for feature in log.schema.features}
    expected = {}
    for name in tables:
        absent = features - set(log.columns(name))
        kinds = log.kinds(name)
        expected[name] = {column: kinds[column] for column in kinds if column not in absent}
        column_checks.check_columns(log, name, expected[name])
    column_checks.check_id_types(log, tables)
    return expected


@contextlib.contextmanager
def readable(log: Log, errors: tuple[type[Exception], ...] = (duckdb.Error,)) -> Iterator[None]:
    """Names the file and column whose bytes the block could not read, if that is what failed.

    Args:
      log: the log.
      errors: what the engine of the block raises.

    Raises:
      InputError: one is damaged.
    """
    try:
        yield
    except errors as error:
        for name in ("items", "requests", "impressions", *(["events"] if log.has_events else [])):
            _refuse_damaged(log, name, error)
        raise


def _refuse_damaged(log: Log, name: str, error: Exception) -> None:
    expected = log.kinds(name)
    for part in log.parts(name):
        for column in sorted(set(expected) & set(part.types)):
            try:
                values = pq.read_table(part.path, columns=[column])[column]
                values.validate(full=True)
            except (pa.ArrowException, OSError) as reason:
                raise InputError(
                    f"{name} ({part.path}): column '{column}' cannot be read ({reason}). Expected "
                    f"a whole Parquet file with text in UTF-8: write it again."
                ) from error
            if (
                part.types[column] == pa.uint64()
                and (pc.max(values).as_py() or 0) > LARGEST_INTEGER
            ):
                raise InputError(
                    f"{name} ({part.path}): column '{column}' goes up to {pc.max(values)}. "
                    f"Expected {_IN_64_BITS}."
                ) from error


_IN_64_BITS = "numbers that fit a signed 64-bit integer: write such ids as strings"
_IN_RANGE = f"numbers of size up to {LARGEST:.3g}, the largest float32: rescale them"


def _row_checks(
    table: ibis.Table, name: str, expected: dict[str, str], log: Log
) -> Iterator[_Check]:
    types = log.columns(name)
    for column, kind in expected.items():
        value = table[column]
        if (name, column) not in (("events", "query_id"), ("items", "created_at")):
            remedy = "drop these rows" if kind == "id" else "fill them in, or drop these rows"
            yield _Check(column, value.isnull(), f"a value in every row: {remedy}")
        if types[column] == pa.uint64():
            yield _Check(column, value > LARGEST_INTEGER, _IN_64_BITS)
        if pa.types.is_floating(types[column]):
            yield _Check(
                column, value.isnan() | value.isinf(), "finite numbers: fill in what is missing"
            )
        if pa.types.is_float64(types[column]):
            yield _Check(column, value.abs() > LARGEST, _IN_RANGE)
        if kind == "embedding":
            broken = value.filter(lambda x: x.isnull() | x.isnan() | x.isinf()).length() > 0
            yield _Check(column, broken, "finite numbers in every embedding: fill them in")
            if pa.types.is_float64(types[column].value_type):
                large = value.filter(lambda x: x.abs() > LARGEST).length() > 0
                yield _Check(column, large, _IN_RANGE)
        if kind == "binary" and not pa.types.is_boolean(types[column]):
            yield _Check(column, ~value.isin([0, 1]), "0 or 1: was this action done, or not")
        if column in ("timestamp", "event_time", "arrival_time", "created_at"):
            yield _Check(
                column,
                ~value.between(EARLIEST, LATEST),
                "UTC seconds between 1990 and 2100",
                _wrong_unit,
            )
    if name == "impressions":
        yield _Check(
            "position",
            ~table.position.between(0, LAST_POSITION),
            f"positions from 0 upwards, to {LAST_POSITION} at most",
        )
    if "propensity" in expected:
        outside = (table.propensity < SMALLEST_PROPENSITY) | (table.propensity > 1)
        expectation = f"a probability above 0 ({SMALLEST_PROPENSITY:.3g} or more), at most 1"
        yield _Check("propensity", outside, expectation)
    if "stage" in expected:
        yield _Check("stage", ~table.stage.isin(STAGES), f"one of {', '.join(STAGES)}")
        for action in log.schema.actions if log.schema.negatives is not None else ():
            done = (table.stage == STAGES[2]) & (table[action].cast("int64") == 1)
            yield _Check(action, done, "0 where stage is 'random': nobody saw a sampled row")
    if name == "events":
        actions = log.schema.actions
        yield _Check(
            "action",
            ~table.action.isin(actions),
            f"an action the schema declares ({', '.join(actions)}): declare it, or drop the rows",
        )
        yield _Check(
            "arrival_time",
            table.arrival_time < table.event_time,
            "arrival at or after the event: are the two columns swapped, or two clocks mixed?",
        )


def likely_unit(value: int) -> str:
    """Returns what a number too large for UTC seconds may be, and the remedy; '' if no time is."""
    for name, per_second in (
        ("milliseconds", 10**3),
        ("microseconds", 10**6),
        ("nanoseconds", 10**9),
    ):
        if EARLIEST <= value // per_second <= LATEST:
            return f"{name}: divide by {per_second}"
    return ""


def _wrong_unit(value: int) -> str:
    unit = likely_unit(value)
    return f" These look like {unit}." if unit else ""


def _check_rows(log: Log, name: str, expected: dict[str, str]) -> dict[str, Any]:
    """Runs a table's row-wise checks in one pass; returns `rows` and what `_summary` needs."""
    table = log.table(name)
    checks = list(_row_checks(table, name, expected, log))
    aggregates: dict[str, Any] = {"rows": table.count()}
    aggregates |= {f"bad_{i}": check.bad.sum() for i, check in enumerate(checks)}
    embeddings = [column for column, kind in expected.items() if kind == "embedding"]
    for column in embeddings:
        aggregates[f"min_{column}"] = table[column].length().min()
        aggregates[f"max_{column}"] = table[column].length().max()
    if name == "impressions":
        for action in log.schema.actions:
            aggregates[f"action_{action}"] = table[action].cast("int64").sum()
        if log.schema.negatives is not None:
            aggregates["sampled"] = (table.stage == STAGES[2]).sum()
    elif name == "requests":
        aggregates |= {"users": table.user_id.nunique(), "queries": table.query_id.nunique()}
        if not log.schema.timeless:
            aggregates |= {"first": table.timestamp.min(), "last": table.timestamp.max()}
    elif name == "events":
        aggregates["ids"] = table.event_id.nunique()
    totals = table.aggregate(**aggregates).to_pyarrow().to_pylist()[0]
    if not totals["rows"]:
        remedy = (
            "remove it, and histories come from the impressions" if name == "events" else "add rows"
        )
        raise InputError(f"{name} ({log.path}): the table is empty. Expected rows: {remedy}.")
    _refuse_bad(table, name, checks, totals)
    for column in embeddings:
        low, high = totals[f"min_{column}"], totals[f"max_{column}"]
        if low != high or not low:
            odd = table[column].length() < max(high, 1)
            count = odd.sum().to_pyarrow().as_py()
            example = _example(table, odd, name, column)
            raise InputError(
                f"{name}: column '{column}' has lists of {low} to {high} numbers, {count:,} of "
                f"{totals['rows']:,} rows are too short, for example {_show(example)}. "
                f"Expected one width, at least 1, in every row."
            )
    return totals


def check_times(log: Log, name: str, column: str, backend: ibis.BaseBackend) -> None:
    """Refuses rows of a table without a time that they must have, or outside all likely years.

    Raises:
      InputError: there are some.
    """
    table = log.table(name, backend)
    time = table[column]
    outside = table.filter(time.isnull() | ~time.between(EARLIEST, LATEST))
    if outside.count().to_pyarrow().as_py():
        validate_rows(log, name, outside)


def validate_rows(log: Log, name: str, rows: ibis.Table) -> None:
    """Checks some rows of a table of a log, such as those of one day, each for itself.

    Raises:
      InputError: the first thing found wrong.
    """
    expected = log.kinds(name)
    column_checks.check_columns(log, name, expected)
    checks = list(_row_checks(rows, name, expected, log))
    counts = {f"bad_{i}": check.bad.cast("int64").sum() for i, check in enumerate(checks)}
    totals = rows.aggregate(rows=rows.count(), **counts).to_pyarrow().to_pylist()[0]
    _refuse_bad(rows, name, checks, totals)


def _refuse_bad(table: ibis.Table, name: str, checks: list[_Check], totals: dict[str, Any]) -> None:
    """Raises InputError with an example of the first check that any row fails."""
    for i, check in enumerate(checks):
        if totals[f"bad_{i}"]:
            example = _example(table, check.bad, name, check.column)
            raise InputError(
                f"{name}: column '{check.column}' is wrong in {totals[f'bad_{i}']:,} of "
                f"{totals['rows']:,} rows, for example {_show(example)}. Expected "
                f"{check.expected}.{check.remark(example[check.column])}"
            )


def _example(
    table: ibis.Table, bad: ibis.expr.types.BooleanValue, name: str, column: str
) -> dict[str, Any]:
    """Returns keys and `column` of the first bad row in the order of the keys (nulls last).

    Bad rows are sorted to the front rather than filtered: DuckDB skips Parquet row groups by their
    minimum and maximum, which leave NaN out, so that a filter for NaN can find nothing.
    """
    keys = list(KEYS[name])
    order = [ibis.ifelse(bad, 0, 1), *(table[key] for key in keys)]
    first = table.order_by(order).limit(1).select(list(dict.fromkeys([*keys, column])))
    return first.to_pyarrow().to_pylist()[0]


def _show(row: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in row.items())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_unique(name: str, table: ibis.Table, rows: int | None = None) -> None:
    """Refuses rows of a table of a log whose id, or pair of ids, came before.

    Args:
      name: of the table.
      table: the rows.
      rows: their number, where it is known.

    Raises:
      InputError: there are some.
    """
    keys = list(KEYS[name])
    rows = table.count().to_pyarrow().as_py() if rows is None else rows
    # DISTINCT first, grouping only on failure: in a sound log one cheap aggregate is all it takes.
    distinct = table.select(keys).distinct().count().to_pyarrow().as_py()
    if distinct == rows:
        return
    counts = table.group_by(keys).aggregate(copies=ibis._.count())
    repeated = counts.filter(counts.copies > 1)
    row = repeated.order_by(keys).limit(1).to_pyarrow().to_pylist()[0]
    raise InputError(
        f"{name}: column {' and '.join(repr(key) for key in keys)} repeats: {rows - distinct:,} of "
        f"{rows:,} rows are duplicates, for example {_show(row)}. Expected each "
        f"{'pair' if len(keys) > 1 else 'id'} once: keep one row of each."
    )


def _check_known(log: Log, name: str, column: str, target: str) -> None:
    table, known = log.table(name), log.table(target)
    unknown = table.anti_join(known, column)
    count = unknown.count().to_pyarrow().as_py()
    if count:
        rows = table.count().to_pyarrow().as_py()
        example = _example(unknown, ibis.literal(True), name, column)
        raise InputError(
            f"{name}: column '{column}' is unknown to {target} in {count:,} of {rows:,} rows, for "
            f"example {_show(example)}. Expected ids of the {target} table: add them there, or "
            f"drop these rows."
        )


def _summary(log: Log, totals: dict[str, dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {name: total["rows"] for name, total in totals.items()}
    events = totals.get("events", {"rows": 0, "ids": 0})
    summary["events"] = events["rows"]
    summary["duplicate_events"] = events["rows"] - events["ids"]
    summary |= {name: totals["requests"][name] for name in ("users", "queries")}
    summary["actions"] = {
        name: totals["impressions"][f"action_{name}"] for name in log.schema.actions
    }
    if not log.schema.timeless:
        summary["first_timestamp"] = totals["requests"]["first"]
        summary["last_timestamp"] = totals["requests"]["last"]
    if log.schema.negatives is not None:
        summary["negatives"] = log.schema.negatives.to_json()
        summary["sampled_negatives"] = int(totals["impressions"]["sampled"])
    return summary
