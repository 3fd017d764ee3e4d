"""Builds STATE from a log, or brings it up to date: day by day, each day once.

A chunk, a run of days, is complete once its JSON is there, which is written last: a build that is
killed leaves STATE as it was, and the next one goes on from there. A chunk's scratch directory
names it, so that what a killed build left is known, and nothing else is ever removed.

A new day reads that day's requests, impressions and events, the event ids of the days before it,
and all request timestamps. If request ids increase with time, DuckDB skips older row groups of
impressions.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ibis
import numpy as np

from interactrank_jax.io import artifact, files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log import validate
from interactrank_jax.log.read import Log
from interactrank_jax.state import engines
from interactrank_jax.state.checks import (
    MOST_EMPTY_DAYS,
    check_clocks,
    check_items,
    check_log,
    check_rows,
    check_times,
)
from interactrank_jax.state.chunks import PARTIAL, count_days
from interactrank_jax.state.days import date, runs_of_days
from interactrank_jax.state.log_days import requests_per_day
from interactrank_jax.state.source import Source
from interactrank_jax.state.store import (
    CLEAN_TIME,
    KIND,
    OUT_OF_FOLD,
    Chunk,
    Description,
    Store,
    open_store,
)

# Rows of the log in one chunk: bounds memory, and what a kill costs.
CHUNK_ROWS = 25_000_000


def build_store(
    config: Any,
    log: Log,
    out: files.PathLike,
    backend: ibis.BaseBackend,
    through: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
    progress: Callable[[str], None] = lambda phase: None,
) -> Store:
    """Counts the days of a log that STATE does not hold yet.

    Args:
      config: `config.data`.
      log: the log, with time.
      out: STATE, new or to go on with.
      backend: see `engines.connect`.
      through: the last day to count; by default the day before the last request's, which may not
        be over.
      chunk_rows: rows of the log in a chunk, about; a day is never cut.
      progress: called with each run of days as it begins.

    Raises:
      InputError: STATE of another description or another log, `through` lies far beyond the log,
        rows that cannot be, named by an example, or, without `through`, requests from so far behind
        all others that a clock may run ahead.
    """
    if config.protocol != CLEAN_TIME and not log.schema.timeless:
        raise InputError(
            f"config.data.protocol is '{config.protocol}', so STATE has folds for days: "
            f"{OUT_OF_FOLD}."
        )
    description = Description.from_config(config, log)
    out = Path(out)
    outputs.refuse_inside(out, log.path)
    validate.check_columns(log, needs_features=False)
    _open(out, log, description)
    with engines.readable(backend, log):
        check_times(log, description, backend)
        with outputs.lock(out):
            store = _open(out, log, description) or _create(out, log, description)
            _remove_unfinished(store)
            for first, last in _chunks_to_count(store, log, backend, through, chunk_rows):
                progress(f"days {date(first)} to {date(last)}")
                source = Source(log, description.recipe, backend)
                check_items(store, source)
                check_rows(source, first, last)
                count_days(store, source, first, last)
                store = open_store(out, log)
    return store


def build_for(
    description: Description,
    log: Log,
    out: Path,
    backend: ibis.BaseBackend,
    through: int,
    progress: Callable[[str], None] = lambda phase: None,
) -> Store:
    """Builds STATE of a log that was validated, for examples of it.

    Args:
      description: of what it is to hold.
      log: the log, with time.
      out: a new directory.
      backend: see `engines.connect`.
      through: the last day to count. Where nothing happened until then, STATE knows of nothing.
      progress: called with each run of days as it begins.
    """
    store = _create(out, log, description)
    runs = list(_chunks_to_count(store, log, backend, through, CHUNK_ROWS))
    for first, last in runs or [(through, through)]:
        progress(f"days {date(first)} to {date(last)}")
        count_days(store, Source(log, description.recipe, backend), first, last)
        store = open_store(out, log)
    return store


def build_out_of_fold(description: Description, source: Source, out: Path) -> Store:
    """Builds STATE with folds for days, of a log that was validated.

    Args:
      description: of what it is to hold.
      source: of the training rows, with their folds.
      out: a new directory.
    """
    store = _create(out, source.log, description)
    count_days(store, source, 0, 0)
    return open_store(out, source.log)


def _create(out: Path, log: Log, description: Description) -> Store:
    has_events = log.has_events and description.recipe.lag_days is not None
    record = {
        "description": description.to_json(),
        "has_events": has_events,
        "schema": log.schema.to_json(),
    }
    artifact.write(KIND, out, record, folders=())
    return open_store(out, log)


def _open(out: Path, log: Log, description: Description) -> Store | None:
    """Returns the STATE to go on with, None where there is none yet.

    Raises:
      InputError: one of another description, or a directory of something else.
    """
    if (out / KIND.file).exists():
        store = open_store(out, log)
        difference = store.description.difference(description)
        if difference is not None:
            raise InputError(
                f"{store.path} was built with {difference}. Name another --out, or remove it."
            )
        if (out.parent / "encoder" / "encoder.json").exists():
            raise InputError(
                f"{out} belongs to the examples in {out.parent}, which are not changed. Copy it to "
                f"a directory of its own, and go on with the copy."
            )
        return store
    foreign = [out.name] if out.exists() else []
    if out.is_dir():
        # A build that was killed at its beginning may have left these.
        foreign = [
            path.name
            for path in sorted(out.iterdir())
            if not path.name.startswith(f".{KIND.file}.")
            and not (path.name == ".lock" and not path.lstat().st_size)
        ]
    if foreign:
        raise InputError(
            f"{out} is no STATE: it has no {KIND.file}, but there is '{foreign[0]}'. Expected a "
            f"new or empty directory, or one that `interactrank {KIND.command}` wrote: name "
            f"another --out."
        )
    return None


def _remove_unfinished(store: Store) -> None:
    """Removes what a killed build left: its scratch directory, and the chunk that it names."""
    complete = {chunk.name for chunk in store.chunks}
    for partial in sorted(store.path.glob(f"{PARTIAL}*")):
        name = partial.name.removeprefix(PARTIAL)
        if not Chunk.is_name(name) or not partial.is_dir():
            continue
        if name not in complete:
            for folder in store.folders(name):
                shutil.rmtree(store.path / folder, ignore_errors=True)
        shutil.rmtree(partial)  # last: until then, what to remove is known


def _chunks_to_count(
    store: Store, log: Log, backend: ibis.BaseBackend, through: int | None, chunk_rows: int
) -> Iterator[tuple[int, int]]:
    """Yields first and last day of each chunk to count; days without rows belong to some chunk."""
    after = store.next_day
    asked_on, _ = requests_per_day(log, backend)
    if not len(asked_on):
        raise InputError(f"requests ({log.path}): the table is empty. Expected rows: add some.")
    if after is not None:
        check_log(store, log, backend)
    # To know how many rows a day has, neither caps nor forms are needed.
    sizes_of = dataclasses.replace(store.recipe, user_day_cap=0, query_form="", backoff=0.0)
    table = Source(log, sizes_of, backend).counted(since=after)
    per_day = table.group_by("period").aggregate(rows=table.count()).order_by("period")
    rows = backend.to_pyarrow(per_day)
    days, sizes = rows["period"].to_numpy(), rows["rows"].to_numpy()
    # Where nothing counts, days are over all the same.
    first = int(days[0] if len(days) else asked_on[0]) if after is None else after
    # Not from the events' times: one clock that runs ahead would close all the days before it.
    if through is None:
        since = [] if after is None else [after - 1]
        check_clocks(np.array([*since, *asked_on[asked_on >= first]]))
    newest = int(asked_on[-1])
    last = newest - 1 if through is None else through
    newest = max([newest, *days[-1:].tolist()])
    if last > newest + MOST_EMPTY_DAYS:
        # Counted as complete, whatever arrives on those days would be left out for good.
        raise InputError(
            f"--through={date(last)} lies {last - newest} days after the log's last day, "
            f"{date(newest)}. Expected at most {MOST_EMPTY_DAYS} days without rows: name an "
            f"earlier day."
        )
    counted = days <= last
    runs = runs_of_days(days[counted].tolist(), sizes[counted].tolist(), chunk_rows)
    for start, _ in runs[1:]:
        yield first, start - 1
        first = start
    if first <= last:
        yield first, last
