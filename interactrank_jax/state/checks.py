"""Checks a log against its schema and against STATE before its days are counted."""

from pathlib import Path

import ibis
import numpy as np
import pyarrow.parquet as pq

from interactrank_jax.io.errors import InputError
from interactrank_jax.log import validate
from interactrank_jax.log.read import Log
from interactrank_jax.state.days import SECONDS_PER_DAY, date
from interactrank_jax.state.log_days import rows_per_day
from interactrank_jax.state.source import Source
from interactrank_jax.state.store import KIND, Description, Store

# Days without rows, in a row: between two requests, unless the last day to count is named; and
# after the log's last day, where it is.
MOST_EMPTY_DAYS = 60


def check_log(store: Store, log: Log, backend: ibis.BaseBackend) -> None:
    """Refuses a log in which a day that was counted is not what it was.

    A log without such a day may go on: what was counted may be thrown away. The times of all
    requests are read; those of events only where a file changed.

    Raises:
      InputError: a day has other numbers of requests or of events than it had.
    """
    if not store.chunks:
        return
    with_events = not _has_the_same_events(store, log)
    now = rows_per_day(log, backend, with_events=with_events)
    recorded = {number: counts for chunk in store.chunks for number, *counts in chunk.days}
    if recorded and not recorded.keys() & now.keys() and min(now) <= max(recorded):
        raise InputError(
            f"{store.path} counted {date(min(recorded))} to {date(max(recorded))}, but {log.path} "
            f"has {date(min(now))} to {date(max(now))} and none of those days: it is another log. "
            f"Name the STATE of this one, or build it by `interactrank {KIND.command}`."
        )
    for number in sorted(number for number in now if number <= store.chunks[-1].last):
        counts = now[number]
        # Before the first day that counts there were requests perhaps, but no events.
        asked = counts[0] if number < store.chunks[0].first else 0
        counted = recorded.get(number, (asked, 0))
        for name, before, after in zip(("requests", "events"), counted, counts, strict=True):
            if after not in (0, before):
                raise InputError(
                    f"{name} of {date(number)}: the log has {after:,}, but had {before:,} when "
                    f"that day was counted in {store.path}. Either the day was not over then, or "
                    f"this is another log: build again into another --out."
                )


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


def _has_the_same_events(store: Store, log: Log) -> bool:
    """Returns whether no file has other events of counted days than it had, by their footers."""
    if not log.has_events:
        return True
    before = store.chunks[-1].event_files
    parts = {part.path.name: part for part in log.parts("events")}
    if any(name in parts and parts[name].rows != rows for name, rows in before.items()):
        return False
    first_second = (store.chunks[-1].last + 1) * SECONDS_PER_DAY
    return all(
        _begins_after(part.path, first_second) for name, part in parts.items() if name not in before
    )


def _begins_after(path: Path, second: int) -> bool:
    """Returns whether the footer of a file says that all its events arrived from a second on."""
    metadata = pq.read_metadata(path)
    names = [metadata.schema.column(k).path for k in range(metadata.num_columns)]
    column = names.index("arrival_time")
    for number in range(metadata.num_row_groups):
        statistics = metadata.row_group(number).column(column).statistics
        if statistics is None or not statistics.has_min_max or statistics.min < second:
            return False
    return True


def check_items(store: Store, source: Source) -> None:
    """Refuses items of other columns than STATE has: its catalogue is one table."""
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
