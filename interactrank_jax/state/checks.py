"""Checks a log against its schema and against STATE before its days are counted."""

from pathlib import Path

import ibis
import numpy as np
import pyarrow.parquet as pq

from interactrank_jax.io.errors import InputError
from interactrank_jax.log import validate
from interactrank_jax.log.read import Log
from interactrank_jax.state.day_rows import (
    DayRows,
    as_it_came,
    day_rows,
    files_of,
    tables_read,
)
from interactrank_jax.state.days import SECONDS_PER_DAY, date, day
from interactrank_jax.state.log_days import requests_per_day
from interactrank_jax.state.source import Source
from interactrank_jax.state.store import KIND, Description, Store

# Days without rows, in a row: between two requests, unless the last day to count is named; and
# after the log's last day, where it is.
MOST_EMPTY_DAYS = 60


def check_log(store: Store, log: Log, backend: ibis.BaseBackend) -> None:
    """Refuses a log in which a day that was counted is not what it was.

    A log without such a day may go on: what was counted may be thrown away. The times of all
    requests are read; what else was counted, only where a file of it changed.

    Raises:
      InputError: a day has other numbers of rows than it had, or others in their place.
    """
    if not store.chunks:
        return
    source, last = Source(log, store.recipe, backend), store.chunks[-1].last
    is_as_it_was = _is_as_it_was(store, source)
    now = day_rows(source, until=last, with_rows=not is_as_it_was)
    recorded = {day: rows for chunk in store.chunks for day, rows in chunk.days.items()}
    if recorded and now and not recorded.keys() & now.keys():
        days, _ = requests_per_day(log, backend)
        raise InputError(
            f"{store.path} counted {date(min(recorded))} to {date(max(recorded))}, but {log.path} "
            f"has {date(days[0])} to {date(days[-1])} and none of those days: it is another log. "
            f"Name the STATE of this one, or build it by `interactrank {KIND.command}`."
        )
    for number, rows in now.items():
        before = recorded.get(number, DayRows())
        if number < store.chunks[0].first:
            # There were requests perhaps, and what they showed, but nothing that counts.
            of_requests = 0 if source.has_events else rows.rows
            before = DayRows(rows.requests, of_requests, (0,) * len(rows.actions))
        _check_day(store, source, number, before, rows)
    if days_there := [number for number, rows in now.items() if rows.rows]:
        _check_timelines(store, source, days_there)


def _check_day(store: Store, source: Source, number: int, before: DayRows, now: DayRows) -> None:
    table = _table_of_labels(source)
    for name, count_before, count in (
        ("requests", before.requests, now.requests),
        (table, before.rows, now.rows),
    ):
        if count not in (0, count_before):
            raise InputError(
                f"{name} of {date(number)}: the log has {count:,}, but had {count_before:,} when "
                f"that day was counted in {store.path}. Either the day was not over then, or this "
                f"is another log: build again into another --out."
            )
    if now.rows and now.actions != before.actions:
        has, had = (
            ", ".join(
                f"{count:,} {action}"
                for action, count in zip(store.description.actions, rows.actions, strict=True)
            )
            for rows in (now, before)
        )
        raise InputError(
            f"{table} of {date(number)}: the log has {has}, but had {had} when that day was "
            f"{_EDITED.format(store.path)}"
        )


_EDITED = (
    "counted in {}: rows were edited in place, and what was counted is not what they say now. "
    "Bring back the files of that day, or build again into another --out."
)


def _check_timelines(store: Store, source: Source, days: list[int]) -> None:
    """Refuses a log that does not have everything that timelines say of some days."""
    rows = store.timelines(source.backend)
    rows = rows.mutate(period=day(rows.time))
    rows = rows.filter([rows.period.isin(days), rows.action.isin(store.description.actions)])
    log_rows = as_it_came(source).engagements(until=store.chunks[-1].last)
    columns = ["user", "item", "action", "time", "event_time", *source.tie_columns]
    for name in columns:
        if rows[name].type().is_string() != log_rows[name].type().is_string():
            rows, log_rows = (
                table.mutate(**{name: table[name].cast("string")}) for table in (rows, log_rows)
            )
    lost = rows.anti_join(log_rows, columns)
    per_day = lost.group_by("period").aggregate(rows=lost.count()).order_by("period").limit(1)
    if first_day := source.backend.to_pyarrow(per_day).to_pylist():
        number, count = first_day[0]["period"], first_day[0]["rows"]
        raise InputError(
            f"{_table_of_labels(source)} of {date(number)}: {count:,} that were counted are not "
            f"there as they were, by the same user at the same time with the same action on the "
            f"same item, though the log has as many of each action as when that day was "
            f"{_EDITED.format(store.path)}"
        )


def _table_of_labels(source: Source) -> str:
    return "events" if source.has_events else "impressions"


def check_clocks(days: np.ndarray) -> None:
    """Refuses days of requests, sorted, of which some lie far behind all the others."""
    gaps = np.diff(days)
    if (gaps > MOST_EMPTY_DAYS).any():
        place = int(np.argmax(gaps > MOST_EMPTY_DAYS))
        before, after = (date(value) for value in days[place : place + 2])
        raise InputError(
            f"requests.timestamp: there is no request between {before} and {after}. If a clock ran "
            f"ahead, to count through {after} would leave out all that is yet to come before it: "
            f"name the last day by --through."
        )


def check_times(log: Log, description: Description, backend: ibis.BaseBackend) -> None:
    """Refuses rows that would be in no day."""
    validate.check_times(log, "requests", "timestamp", backend)
    if log.has_events:
        validate.check_times(log, "events", "arrival_time", backend)
    if description.recipe.has_fresh:
        validate.check_times(log, "items", "created_at", backend)


def _is_as_it_was(store: Store, source: Source) -> bool:
    """Returns whether no file has other rows of counted days than it had, by what is seen of it."""
    before, now = store.chunks[-1].files, files_of(source)
    if any(name in now and now[name] != seen for name, seen in before.items()):
        return False
    first_second = (store.chunks[-1].last + 1) * SECONDS_PER_DAY
    for table, column in tables_read(source).items():
        new = [
            part for part in source.log.parts(table) if f"{table}/{part.path.name}" not in before
        ]
        if column:
            is_later = all(_begins_after(part.path, column, first_second) for part in new)
        else:
            # Where files went as others came, they may be the same rows.
            gone = [name for name in before if name.startswith(f"{table}/") and name not in now]
            is_later = not (new and gone)
        if not is_later:
            return False
    return True


def _begins_after(path: Path, column: str, second: int) -> bool:
    """Returns whether the footer of a file says that a time is from a second on in all its rows."""
    metadata = pq.read_metadata(path)
    names = [metadata.schema.column(k).path for k in range(metadata.num_columns)]
    index = names.index(column)
    for number in range(metadata.num_row_groups):
        statistics = metadata.row_group(number).column(index).statistics
        if statistics is None or not statistics.has_min_max or statistics.min < second:
            return False
    return True


def check_items(store: Store, source: Source) -> None:
    """Refuses an item twice, and items of other columns than STATE has.

    Its catalogue is one table.
    """
    validate.check_unique("items", source.log.table("items", source.backend))
    if not store.chunks:
        return
    before, now = store.catalogue(source.backend).schema(), source.catalogue().schema()
    for name in (*now, *before):
        types = [
            schema[name].copy(nullable=True) if name in schema else "absent"
            for schema in (before, now)
        ]
        if types[0] != types[1]:
            raise InputError(
                f"items ({source.log.path}): column '{name}' is {types[1]}, but was {types[0]} "
                f"when {store.path} was built. Build again into a new --out."
            )


def check_rows(source: Source, first: int, last: int) -> None:
    """Refuses rows of some days that `interactrank validate` would refuse in the whole log."""
    log = source.log
    validate.check_unique("requests", source.requests(first, last))
    if log.has_events:
        validate.validate_rows(log, "events", source.raw_events(first, last))
    if source.recipe.counts_impressions or not log.has_events:
        impressions = source.impressions(first, last)
        validate.validate_rows(log, "impressions", impressions)
        validate.check_unique("impressions", impressions)
