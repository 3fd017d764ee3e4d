"""Builds a store of counts from a log, or brings it up to date: day by day, each day once.

A chunk, a run of days, is complete once its JSON is there, which is written last: a build that is
killed leaves the store as it was, and the next one goes on from there. A chunk's scratch directory
names it, so that what a killed build left is known, and nothing else is ever removed.

A new day reads that day's requests, impressions and events, the event ids of the days before it,
and of all requests the times. Where ids of requests ascend with time, as most do, DuckDB reads no
other impressions than that day's.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log import validate
from interactrank_jax.log.schema import Log
from interactrank_jax.state import engines, expressions, manifests
from interactrank_jax.state.days import date, day, runs_of_days
from interactrank_jax.state.expressions import union
from interactrank_jax.state.source import Source, first_copies, requests_per_day
from interactrank_jax.state.store import (
    FORMS,
    RECORD,
    SEEN,
    Chunk,
    Description,
    Store,
    counts_folder,
    open_store,
)

# Rows of the log in one chunk: bounds memory, and what a kill costs.
CHUNK_ROWS = 25_000_000
# Days without rows, in a row: between two requests, unless the last day to count is named; and
# after the log's last day, where it is.
MOST_EMPTY_DAYS = 60
_PARTIAL = ".partial-"


def build_store(
    config: Any,
    log: Log,
    out: files.PathLike,
    backend: ibis.BaseBackend,
    through: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
    progress: Callable[[str], None] = lambda phase: None,
) -> Store:
    """Counts the days of a log that a store does not hold yet.

    Args:
      config: `config.data`.
      log: the log, with time.
      out: the store, new or to go on with.
      backend: see `engines.connect`.
      through: the last day to count; by default the day before the last request's, which may not
        be over.
      chunk_rows: rows of the log in a chunk, about; a day is never cut.
      progress: called with each run of days as it begins.

    Raises:
      InputError: a store of another description or another log, `through` lies far beyond the log,
        rows that cannot be, named by an example, or, without `through`, requests from so far behind
        all others that a clock may run ahead.
    """
    description = Description.from_config(config, log)
    out = Path(out)
    outputs.refuse_inside(out, log.path)
    validate.check_columns(log, needs_features=False)
    _open(out, log, description)
    with engines.readable(backend, log):
        _check_times(log, description, backend)
        with outputs.lock(out):
            store = _open(out, log, description)
            if store is None:
                manifests.write(out / RECORD, out, {"description": description.to_json()})
                store = open_store(out, log)
            _remove_unfinished(store)
            for first, last in _chunks_to_count(store, log, backend, through, chunk_rows):
                progress(f"days {date(first)} to {date(last)}")
                _count_days(store, log, backend, first, last)
                store = open_store(out, log)
    return store


def _open(out: Path, log: Log, description: Description) -> Store | None:
    """Returns the store to go on with, None where there is none yet.

    Raises:
      InputError: one of another description, or a directory of something else.
    """
    if (out / RECORD).exists():
        store = open_store(out, log)
        _check_same(store, description)
        return store
    foreign = [out.name] if out.exists() else []
    if out.is_dir():
        # A build that was killed at its beginning may have left these.
        foreign = [
            path.name
            for path in sorted(out.iterdir())
            if not path.name.startswith(f".{RECORD}.")
            and not (path.name == ".lock" and not path.lstat().st_size)
        ]
    if foreign:
        raise InputError(
            f"{out} is not a directory of counts: it has no {RECORD}, but there is '{foreign[0]}'. "
            f"Expected a new or empty directory, or one that `interactrank iqp build` wrote: name "
            f"another --out."
        )
    return None


def _check_times(log: Log, description: Description, backend: ibis.BaseBackend) -> None:
    """Refuses rows that would be in no day."""
    validate.check_times(log, "requests", "timestamp", backend)
    if log.has_events:
        validate.check_times(log, "events", "arrival_time", backend)
    if description.recipe.has_fresh:
        validate.check_times(log, "items", "created_at", backend)


def _check_same(store: Store, description: Description) -> None:
    held, asked = store.description.to_json(), description.to_json()
    for field, value in held.items():
        if value != asked[field]:
            name = "features" if field == "specs" else field
            raise InputError(
                f"{store.path} was built with {name} {value}, asked for is {asked[field]}. Name "
                f"another --out, or remove it."
            )


def _remove_unfinished(store: Store) -> None:
    """Removes what a killed build left: its scratch directory, and the chunk that it names."""
    complete = {chunk.name for chunk in store.chunks}
    for partial in sorted(store.path.glob(f"{_PARTIAL}*")):
        name = partial.name.removeprefix(_PARTIAL)
        if not Chunk.is_name(name) or not partial.is_dir():
            continue
        if name not in complete:
            for folder in store.folders(name, has_events=True):
                shutil.rmtree(store.path / folder, ignore_errors=True)
        shutil.rmtree(partial)  # last: until then, what to remove is known


def _chunks_to_count(
    store: Store, log: Log, backend: ibis.BaseBackend, through: int | None, chunk_rows: int
) -> Iterator[tuple[int, int]]:
    """Yields first and last day of each chunk to count; days without rows belong to some chunk."""
    after = store.next_day
    asked_on, requests = requests_per_day(log, backend)
    if not len(asked_on):
        raise InputError(f"requests ({log.path}): the table is empty. Expected rows: add some.")
    if after is not None:
        _check_log(store.chunks[-1], dict(zip(asked_on.tolist(), requests.tolist(), strict=True)))
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
        _check_clocks(np.array([*since, *asked_on[asked_on >= first]]))
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


def _check_log(chunk: Chunk, requests: dict[int, int]) -> None:
    """Refuses a log whose last counted day is not what it was; one without that day may go on."""
    now = requests.get(chunk.last, 0)
    if now not in (0, chunk.requests):
        raise InputError(
            f"requests of {date(chunk.last)}: the log has {now:,}, but had {chunk.requests:,} "
            f"when that day was counted. Either the day was not over then, or this is another log: "
            f"build again into another --out."
        )


def _check_clocks(days: np.ndarray) -> None:
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


def _count_days(store: Store, log: Log, backend: ibis.BaseBackend, first: int, last: int) -> None:
    """Counts one chunk: its rows are written once, and every count reads those."""
    name = Chunk.name_of(first, last)
    source = Source(log, store.recipe, backend)
    _check_rows(source, first, last)
    folders = store.folders(name, log.has_events)
    for folder in folders:
        if (store.path / folder).exists():
            raise InputError(
                f"{store.path / folder} is where these days would be counted, but no file of "
                f"{store.chunks_place} names it: it is not ours, or that file was lost. Move it "
                f"elsewhere, or build again into a new --out."
            )
    partial = store.path / f"{_PARTIAL}{name}"
    partial.mkdir()
    if store.recipe.query_form:
        source = dataclasses.replace(source, forms=_add_forms(store, source, first, last))
    arrived, figures, raw_rows = None, {"rows": 0, "late": 0, "early": 0}, 0
    if log.has_events:
        raw = source.events(since=first, until=last)
        raw_rows = backend.to_pyarrow(raw.count()).as_py()
        arrived = first_copies(raw)
        if store.chunks:
            arrived = arrived.anti_join(store.seen(backend), "event_id")
        engines.write_parquet(backend, arrived, partial / "events")
        arrived = engines.read_parquet(backend, [partial / "events"])
        figures = _figures(arrived, source)
        engines.write_parquet(backend, arrived.select("event_id"), store.path / SEEN / name)
    table = source.counted(since=first, until=last, arrived=arrived)
    engines.write_parquet(backend, table, partial / "rows")
    table = engines.read_parquet(backend, [partial / "rows"])
    for keys, actions in store.counted_keys.items():
        counts = expressions.period_counts(table, keys, {action: action for action in actions})
        counts = counts.order_by([*keys, "period"])
        engines.write_parquet(backend, counts, store.path / counts_folder(keys) / name)
    unknown = table.anti_join(source.items(), "item")
    requests = source.requests(last, last)
    chunk = Chunk(
        first,
        last,
        rows=backend.to_pyarrow(table.count()).as_py(),
        duplicates=raw_rows - figures["rows"],
        late=figures["late"],
        early=figures["early"],
        unknown=backend.to_pyarrow(unknown.count()).as_py(),
        requests=backend.to_pyarrow(requests.count()).as_py(),
    )
    store.chunks_place.mkdir(exist_ok=True)
    follows = store.chunks[-1].name if store.chunks else ""
    record = {"chunk": dataclasses.asdict(chunk), "follows": follows}
    manifests.write(store.chunks_place / f"{name}.json", store.path, record, folders)
    shutil.rmtree(partial)


def _check_rows(source: Source, first: int, last: int) -> None:
    """Refuses rows of some days that `interactrank validate` would refuse in the whole log."""
    log = source.log
    validate.check_unique("requests", source.requests(first, last))
    if log.has_events:
        validate.validate_rows(log, "events", source.raw_events(first, last))
    if source.recipe.counts_impressions or not log.has_events:
        impressions = source.impressions(first, last)
        validate.validate_rows(log, "impressions", impressions)
        validate.check_unique("impressions", impressions)


def _add_forms(store: Store, source: Source, first: int, last: int) -> ir.Table:
    """Writes the forms of the queries that came up on some days; returns all that are known."""
    # The first chunk begins with what is counted; queries may have been asked before that.
    forms = source.query_forms(since=first if store.chunks else None, until=last)
    new = store.path / FORMS / Chunk.name_of(first, last)
    if not store.chunks:
        engines.write_parquet(source.backend, forms, new)
        return engines.read_parquet(source.backend, [new])
    earlier = store.forms(source.backend)
    engines.write_parquet(source.backend, forms.anti_join(earlier, "query"), new)
    return union([earlier, engines.read_parquet(source.backend, [new])])


def _figures(arrived: ir.Table, source: Source) -> dict[str, int]:
    """Returns how many events there are, came late, and happened before their item was."""
    knows_items = "created_at" in source.log.columns("items")
    if knows_items:
        arrived = arrived.left_join(source.created(), "item")
    counts = {"rows": arrived.count(), "late": arrived.count(where=arrived.is_late)}
    if knows_items:
        counts["early"] = arrived.count(where=day(arrived.event_time) < arrived.created)
    return {"early": 0} | source.backend.to_pyarrow(arrived.aggregate(**counts)).to_pylist()[0]
