"""Daily counts on disk: built day by day from a log, read by everything that needs the past.

    STORE/store.json                      what is counted (`Description`), sealed
    STORE/chunks/FIRST-LAST.json          one per run of days that is complete, with what was met
    STORE/counts/KEYS/FIRST-LAST/         Parquet: keys, period (day number), one count per action
    STORE/seen/FIRST-LAST/                Parquet: event_id, those of these days
    STORE/forms/FIRST-LAST/               Parquet: query, query_form, period, of new queries

Days are days of arrival, so a late event belongs to the day when it came and no day ever changes. A
chunk exists once its JSON does, which is written last: a build that is killed leaves the store as
it was, and the next one goes on from there. A new day reads that day of the log and the event ids
of the days before it.
"""

import dataclasses
import datetime
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax import files
from interactrank_jax.data.schema import IMPLICIT_ACTION, Log
from interactrank_jax.data.validate import check_times, validate_events
from interactrank_jax.errors import InputError
from interactrank_jax.iqp import engines, expressions
from interactrank_jax.iqp.recipe import Recipe
from interactrank_jax.iqp.rows import Source, day, first_copies, runs_of_days
from interactrank_jax.iqp.spec import TAKEN, parse_specs

FORMAT_VERSION = 2
# Rows of the log in one chunk: bounds memory, and what a kill costs.
CHUNK_ROWS = 25_000_000
MOST_EMPTY_DAYS = 60  # between two requests, unless the last day to count is named
_COUNTS, _SEEN, _FORMS, _CHUNKS, _PARTIAL = "counts", "seen", "forms", "chunks", "partial"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a store counts; two stores with one description hold the same numbers.

    Attributes:
      recipe: the features and how they are counted.
      actions: of the log.
    """

    recipe: Recipe
    actions: tuple[str, ...]

    @classmethod
    def from_config(cls, config: Any, log: Log) -> "Description":
        """Reads `config.data.cross` for a log.

        Raises:
          InputError: a timeless log, no features, one that the log cannot have, or an action of
            the name of a column.
        """
        if log.schema.timeless:
            raise InputError(
                f"{log.path} is timeless: there are no days to count by. `interactrank prepare` "
                f"counts it out of fold."
            )
        for action in log.schema.actions:
            if action in TAKEN:
                raise InputError(
                    f"{log.path}: an action cannot be called '{action}', which a column of the "
                    f"counts is. Rename it in the log."
                )
        if not len(config.cross.features):
            raise InputError("config.data.cross.features is empty: name what to count.")
        recipe = Recipe.from_config(config.cross, log, timeless=False)
        return cls(recipe, tuple(log.schema.actions))

    def to_json(self) -> dict[str, Any]:
        """Returns its fields, the features by their names."""
        fields = dataclasses.asdict(self.recipe)
        features = [spec.name for spec in self.recipe.specs]
        return {**fields, "specs": features, "actions": list(self.actions)}

    @classmethod
    def from_json(cls, fields: dict[str, Any], log: Log) -> "Description":
        """Builds it back from `to_json`."""
        held: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        actions = held.pop("actions")
        specs = parse_specs(held.pop("specs"), log.schema, with_fresh=held["fresh_days"] > 0)
        return cls(Recipe(specs, **held), actions)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A run of days that is complete.

    Attributes:
      first, last: day numbers, both included.
      rows: that were counted.
      duplicates: events dropped, for their event_id had come before.
      late: events that arrived on a later day than they happened.
      early: events that happened before the day when their item came to be; counted all the same.
    """

    first: int
    last: int
    rows: int
    duplicates: int
    late: int
    early: int

    @property
    def name(self) -> str:
        """FIRST-LAST, in the order of time."""
        return _days(self.first, self.last)


class Store:
    """A store on disk, opened: what it describes and which of its days are complete.

    Attributes:
      path: its directory.
      description: what it counts.
      recipe: the features and how they are counted.
      chunks: complete, in the order of time.
    """

    def __init__(self, path: Path, description: Description):
        self.path, self.description, self.recipe = path, description, description.recipe
        found = sorted((path / _CHUNKS).glob("*.json"))
        self.chunks = tuple(Chunk(**files.read_sealed(file)["chunk"]) for file in found)

    @property
    def next_day(self) -> int | None:
        """The first day that is not counted yet; None for a store without any."""
        return self.chunks[-1].last + 1 if self.chunks else None

    def counts(self, keys: Sequence[str], backend: ibis.BaseBackend) -> ir.Table:
        """Returns the daily counts by some keys, see `expressions.period_counts`."""
        if not self.chunks:
            raise InputError(f"{self.path} holds no day yet: run `interactrank iqp build` again.")
        return self._read(Path(_COUNTS, _name(keys)), backend)

    def forms(self, backend: ibis.BaseBackend) -> ir.Table:
        """Returns the form of each query that was asked, see `rows.Source.query_forms`."""
        return self._read(Path(_FORMS), backend)

    def _read(self, place: Path, backend: ibis.BaseBackend) -> ir.Table:
        chunks = [self.path / place / chunk.name for chunk in self.chunks]
        return engines.read_parquet(backend, chunks)

    def figures(self) -> dict[str, Any]:
        """Returns what was counted, for a reader."""
        if not self.chunks:
            return {"days": "none"}
        first, last = (np.datetime64(n, "D") for n in (self.chunks[0].first, self.chunks[-1].last))
        names = ("rows", "duplicates", "late", "early")
        totals = {name: sum(getattr(chunk, name) for chunk in self.chunks) for name in names}
        return {"days": f"{first} to {last}", **totals}

    @property
    def counted_keys(self) -> dict[tuple[str, ...], list[str]]:
        """By the columns that counts are taken by, the actions counted.

        Beside those of the features: each rate's action and impressions over everything, for its
        mean.
        """
        result = {
            keys: sorted({action for action, _ in windows})
            for keys, windows in self.recipe.windows.items()
        }
        if self.recipe.rates:
            result[()] = sorted({*result.get((), ()), *self.recipe.rates, IMPLICIT_ACTION})
        return result


def _days(first: int, last: int) -> str:
    return f"{first:06d}-{last:06d}"


def _name(keys: Sequence[str]) -> str:
    return "+".join(keys) or "all"


def open_store(path: files.PathLike, log: Log) -> Store:
    """Opens a store.

    Raises:
      InputError: none there, damaged, or of another release.
    """
    path = Path(path)
    if not (path / "store.json").is_file():
        raise InputError(
            f"{path} holds no counts (no store.json). Expected the --out of `iqp build`."
        )
    held = files.read_sealed(path / "store.json")
    if held["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path} is of format {held['format_version']}, this release reads {FORMAT_VERSION}: "
            f"build it again."
        )
    return Store(path, Description.from_json(held["description"], log))


def build(
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
      InputError: a store of another description, `through` lies beyond the log, events that
        cannot be, named by an example, or, without `through`, requests from so far behind all
        others that a clock may run ahead.
    """
    description = Description.from_config(config, log)
    out = Path(out)
    check_times(log, "requests", "timestamp", backend)
    if log.has_events:
        check_times(log, "events", "arrival_time", backend)
    if description.recipe.has_fresh:
        check_times(log, "items", "created_at", backend)
    with files.lock(out):
        if (out / "store.json").exists():
            store = open_store(out, log)
            _check_same(store, description)
        else:
            fields = {"format_version": FORMAT_VERSION, "description": description.to_json()}
            files.write_sealed(out / "store.json", fields)
            store = open_store(out, log)
        _remove_unfinished(store)
        for first, last in _chunks_to_count(store, log, backend, through, chunk_rows):
            progress(f"days {np.datetime64(first, 'D')} to {np.datetime64(last, 'D')}")
            _count_days(store, log, backend, first, last)
            store = open_store(out, log)
    return store


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
    """Removes what a killed build left: directories of days that no chunk names."""
    complete = {chunk.name for chunk in store.chunks}
    for directory in (
        *store.path.glob(f"{_COUNTS}/*/*"),
        *store.path.glob(f"{_SEEN}/*"),
        *store.path.glob(f"{_FORMS}/*"),
    ):
        if directory.name not in complete:
            shutil.rmtree(directory)
    shutil.rmtree(store.path / _PARTIAL, ignore_errors=True)


def _chunks_to_count(
    store: Store, log: Log, backend: ibis.BaseBackend, through: int | None, chunk_rows: int
) -> Iterator[tuple[int, int]]:
    """Yields first and last day of each chunk to count; days without rows belong to some chunk."""
    after = store.next_day
    # To know how many rows a day has, neither caps nor forms are needed.
    sizes_of = dataclasses.replace(store.recipe, user_day_cap=0, query_form="", backoff=0.0)
    table = Source(log, sizes_of, backend).counted(since=after)
    per_day = table.group_by("period").aggregate(rows=table.count()).order_by("period")
    found = backend.to_pyarrow(per_day)
    days, sizes = found["period"].to_numpy(), found["rows"].to_numpy()
    if not len(days) and after is None:
        return
    first = int(days[0]) if after is None else after
    # Not from the events' times: one clock that runs ahead would close all the days before it.
    requests = log.table("requests", backend)
    asked_on = requests.select(day=day(requests.timestamp)).distinct().order_by("day")
    asked_on = backend.to_pyarrow(asked_on)["day"].to_numpy()
    if through is None:
        since = [] if after is None else [after - 1]
        _check_clocks(np.array([*since, *asked_on[asked_on >= first]]))
    newest = int(asked_on[-1])
    last = newest - 1 if through is None else through
    newest = max([newest, *days[-1:].tolist()])
    if last > newest:
        # Counted as complete, whatever arrives on those days would be left out for good.
        raise InputError(
            f"--through={np.datetime64(last, 'D')} lies beyond the log, whose last day is "
            f"{np.datetime64(newest, 'D')}. Name that day or an earlier one."
        )
    counted = days <= last
    runs = runs_of_days(days[counted].tolist(), sizes[counted].tolist(), chunk_rows)
    for start, _ in runs[1:]:
        yield first, start - 1
        first = start
    if first <= last:
        yield first, last


def _check_clocks(days: np.ndarray) -> None:
    """Refuses days of requests, sorted, of which some lie far behind all the others."""
    gaps = np.diff(days)
    if (gaps > MOST_EMPTY_DAYS).any():
        place = int(np.argmax(gaps > MOST_EMPTY_DAYS))
        before, after = (np.datetime64(int(value), "D") for value in days[place : place + 2])
        raise InputError(
            f"requests.timestamp: there is no request between {before} and {after}. If a clock ran "
            f"ahead, to count through {after} would leave out all that is yet to come before it: "
            f"name the last day by --through."
        )


def _count_days(store: Store, log: Log, backend: ibis.BaseBackend, first: int, last: int) -> None:
    """Counts one chunk: its rows are written once, and every count reads those."""
    name = _days(first, last)
    partial = store.path / _PARTIAL
    source = Source(log, store.recipe, backend)
    if store.recipe.query_form:
        source = dataclasses.replace(source, forms=_add_forms(store, source, first, last))
    arrived, figures = None, {"rows": 0, "late": 0, "early": 0}
    raw_rows = 0
    if log.has_events:
        validate_events(log, source.raw_events(first, last))
        raw = source.events(since=first, until=last)
        raw_rows = backend.to_pyarrow(raw.count()).as_py()
        arrived = first_copies(raw)
        if store.chunks:
            seen = [store.path / _SEEN / chunk.name for chunk in store.chunks]
            arrived = arrived.anti_join(engines.read_parquet(backend, seen), "event_id")
        engines.write_parquet(backend, arrived, partial / "events")
        arrived = engines.read_parquet(backend, [partial / "events"])
        figures = _figures(arrived, source)
        engines.write_parquet(backend, arrived.select("event_id"), store.path / _SEEN / name)
    table = source.counted(since=first, until=last, arrived=arrived)
    engines.write_parquet(backend, table, partial / "rows")
    table = engines.read_parquet(backend, [partial / "rows"])
    for keys, actions in store.counted_keys.items():
        counts = expressions.period_counts(table, keys, {action: action for action in actions})
        place = store.path / _COUNTS / _name(keys) / name
        engines.write_parquet(backend, counts.order_by([*keys, "period"]), place)
    chunk = Chunk(
        first,
        last,
        rows=backend.to_pyarrow(table.count()).as_py(),
        duplicates=raw_rows - figures["rows"],
        late=figures["late"],
        early=figures["early"],
    )
    (store.path / _CHUNKS).mkdir(exist_ok=True)
    files.write_sealed(store.path / _CHUNKS / f"{name}.json", {"chunk": dataclasses.asdict(chunk)})
    shutil.rmtree(partial)


def _add_forms(store: Store, source: Source, first: int, last: int) -> ir.Table:
    """Writes the forms of the queries that came up on some days; returns all that are known."""
    # The first chunk begins with what is counted; queries may have been asked before that.
    found = source.query_forms(since=first if store.chunks else None, until=last)
    if store.chunks:
        found = found.anti_join(store.forms(source.backend), "query")
    place = store.path / _FORMS
    engines.write_parquet(source.backend, found, place / _days(first, last))
    known = [place / chunk.name for chunk in store.chunks]
    return engines.read_parquet(source.backend, [*known, place / _days(first, last)])


def _figures(arrived: ir.Table, source: Source) -> dict[str, int]:
    """Returns how many events there are, came late, and happened before their item was."""
    knows_items = "created_at" in source.log.columns("items")
    if knows_items:
        arrived = arrived.left_join(source.created(), "item")
    counts = {"rows": arrived.count(), "late": arrived.count(where=arrived.is_late)}
    if knows_items:
        counts["early"] = arrived.count(where=day(arrived.event_time) < arrived.created)
    return {"early": 0} | source.backend.to_pyarrow(arrived.aggregate(**counts)).to_pylist()[0]


def day_number(text: str) -> int:
    """Returns the day number of a date such as '2024-05-31'.

    Raises:
      InputError: something else.
    """
    try:
        return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days
    except ValueError as error:
        raise InputError(f"'{text}' is no date. Expected one such as 2024-05-31.") from error
