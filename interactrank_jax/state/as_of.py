"""Features of a log's impressions on disk: as of the day of each request.

    FEATURES/features/PART/    Parquet: request_id, item_id, the actions, one column per feature
    FEATURES/features.json     what the features are, of which days, what was counted, and the
                               digests of the files

The rows are in no order: sorting them would cost more than making them. A part is of some queries,
so that a count of a query is read once, however long the log is; parts of days would read those of
all days before them again. `snapshot.py` writes the same of what a snapshot served.
"""

import dataclasses
import math
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax.io import artifact, files, outputs
from interactrank_jax.io.artifact import Artifact, Kind
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import Log
from interactrank_jax.state import engines, expressions
from interactrank_jax.state.days import date
from interactrank_jax.state.log_days import requests_per_day
from interactrank_jax.state.source import Source
from interactrank_jax.state.store import Store

FEATURES = "features"
KIND = Kind("features", "state features", "features.json", version=5)
Places = dict[tuple[tuple[str, ...], str, int], str]  # from keys, action and days to a column
# Impressions of a part, on average: bounds what the engine must hold, but for a query with more.
ROWS_AT_ONCE = 4_000_000


def counts_as_of(
    rows: ir.Table,
    store: Store,
    source: Source,
    since: int | None = None,
    until: int | None = None,
    parts: int = 1,
    scratch: Path = Path(),
    numbers: Mapping[str, ir.Table] | None = None,
) -> tuple[list[ir.Table], Places]:
    """Adds the counts that the features of rows are made of, as of the period of each.

    A part is of some queries; of some forms of queries, where those are counted too.

    Args:
      rows: columns `query`, `item`, `period` (day of the request; its fold where there is no time),
        `recipe.key_columns`, and others, which are handed on.
      store: STATE; through the last day that the rows need.
      source: of the log.
      since, until: first and last day of the rows; None for no bound.
      parts: how many; several bound what the engine must hold.
      scratch: a new directory, for several parts.
      numbers: for `query` and `item`, where the rows have numbers for ids, which an engine sorts
        and joins faster: columns `query:id` and `query:row`, or the same of items. A count of an
        id without a number is asked for by no row.

    Returns:
      (the rows with their counts, in parts and in no order; from keys, action and days to the
      column of that count).
    """
    recipe, backend = store.recipe, source.backend
    column = "query_form" if recipe.query_form else "query"
    tables = engines.split(backend, rows, column, parts, scratch / "rows")
    sums: list[dict[tuple[str, ...], ir.Table]] = [{} for _ in tables]
    for number, keys in enumerate(recipe.windows):
        directory = scratch / str(number)
        counts = _countable(store, keys, backend, since, until)
        if parts > 1 and "query" in keys and column not in keys:
            forms = store.all_forms(source).select("query", "query_form")
            counts = counts.left_join(forms, "query").drop("query_right")
        counts = numbered(counts, numbers or {})
        if column in counts.columns:
            split = engines.split(backend, counts, column, parts, directory)
            of_parts = [
                expressions.sums_of(*pair, keys, recipe) for pair in zip(tables, split, strict=True)
            ]
        else:
            # Counts over all queries: any part may ask for any of them.
            over_all = expressions.sums_of(expressions.union(tables), counts, keys, recipe)
            if parts > 1:
                engines.write_parquet(backend, over_all, directory)
                over_all = engines.read_parquet(backend, [directory])
            of_parts = [over_all] * parts
        for of_part, table in zip(sums, of_parts, strict=True):
            of_part[keys] = table
    places: Places = {}
    result = []
    for table, of_part in zip(tables, sums, strict=True):
        counted, places = expressions.with_counts(table, of_part, recipe, also=("period",))
        result.append(counted)
    return result, places


def numbered(rows: ir.Table, numbers: Mapping[str, ir.Table]) -> ir.Table:
    """Replaces ids by their numbers, see `counts_as_of`; a row of an id without one is left out."""
    for column, table in numbers.items():
        if column in rows.columns:
            joined = rows.inner_join(table, [(column, f"{column}:id")])
            others = [name for name in rows.columns if name != column]
            rows = joined.select(*others, **{column: joined[f"{column}:row"]})
    return rows


def _countable(
    store: Store,
    keys: tuple[str, ...],
    backend: ibis.BaseBackend,
    since: int | None,
    until: int | None,
) -> ir.Table:
    """Returns the counts that requests of some days may look at."""
    counts, lag = store.counts(keys, backend), store.recipe.lag_days
    if lag is not None and until is not None:
        counts = counts.filter(counts.period <= until - lag)
    if lag is not None and since is not None:
        longest = max(spec.window for spec in store.recipe.specs)
        counts = counts.filter(counts.period >= since - expressions.frame(longest, lag)[0])
    return counts


def features_as_of(
    source: Source,
    store: Store,
    means: Mapping[str, float],
    since: int | None = None,
    until: int | None = None,
    parts: int = 1,
    scratch: Path = Path(),
) -> list[ir.Table]:
    """Returns the features of a log's impressions as of the day of their request, in parts.

    Args:
      source: of the log.
      store: STATE; through the last day that the requests need.
      means: mean rates, see `Recipe.value`, by action.
      since, until: first and last day of the requests; None for no bound.
      parts, scratch: see `counts_as_of`.

    Returns:
      Columns request_id, item_id, the actions, and a float32 column per feature; in no order.
    """
    recipe, actions = store.recipe, source.log.schema.actions
    asked = ("request_id", "item_id", *actions, *recipe.key_columns, "query", "item", "period")
    rows = source.candidates(since, until).select(*asked)
    tables, places = counts_as_of(rows, store, source, since, until, parts, scratch)
    levels = [recipe.levels(spec) for spec in recipe.specs]
    return [
        table.select(
            *("request_id", "item_id", *actions),
            **expressions.values(table, places, recipe, levels, means),
        )
        for table in tables
    ]


def check_has_days(store: Store) -> None:
    """Refuses STATE with folds for days, which has nothing as of a day.

    Raises:
      InputError: it is such a one.
    """
    if store.recipe.lag_days is None:
        raise InputError(
            f"{store.path} has folds for days, as examples of a random split need them. Expected "
            f"one with days: name what `interactrank state build` wrote."
        )


def check_means(store: Store, means: Mapping[str, float]) -> None:
    """Refuses to make rates without the means that they are differences from.

    Raises:
      InputError: there are rates, and no means.
    """
    if missing := [action for action in store.recipe.rates if action not in means]:
        raise InputError(
            f"the features have rates of '{missing[0]}', which are differences from its mean in "
            f"training: name examples that were prepared with them, or a run, by --encoder."
        )


def write(
    log: Log,
    store: Store,
    backend: ibis.BaseBackend,
    out: files.PathLike,
    since: int | None = None,
    until: int | None = None,
    means: Mapping[str, float] | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> dict[str, Any]:
    """Writes features as of each request's day into a new directory; returns what it says of them.

    Args:
      log: the log.
      store: its STATE.
      backend: where both are read.
      out: new.
      since, until: first and last day of the requests; None for no bound.
      means: mean rates in training, by action; needed where a feature is a rate.
      rows_at_once: impressions of a part, about.

    Raises:
      InputError: STATE ends before the last day that the features need, or there are rates and no
        mean of theirs.
    """
    outputs.output_directory(out, log.path, store.path)
    check_has_days(store)
    means = means or {}
    check_means(store, means)
    first, last, share = days_asked(log, backend, since, until)
    check_counted(store, last, log)
    assert store.recipe.lag_days is not None
    record = {
        "description": store.description.to_json(),
        "mean_rates": dict(means),
        "known": last - store.recipe.lag_days,
        "counts": store.figures(),
        "first_day": first,
        "last_day": last,
    }
    shown = backend.to_pyarrow(log.table("impressions", backend).count()).as_py()
    parts = max(math.ceil(shown * share / rows_at_once), 1)
    with outputs.new_directory(out) as directory:
        scratch = directory / "scratch"
        source = Source(log, store.recipe, backend)
        source = dataclasses.replace(source, forms=_forms(store, source))
        tables = features_as_of(source, store, means, first, last, parts, scratch)
        for part, table in enumerate(tables):
            engines.write_parquet(backend, table, directory / FEATURES / f"{part:06d}")
        if scratch.exists():
            shutil.rmtree(scratch)
        return add_record(directory, record)


def add_record(directory: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Writes what is known of the features in a directory beside them, and returns it.

    Args:
      directory: with FEATURES/PART.
      record: `description` and `mean_rates`; `first_day` and `last_day` of the requests; `known`,
        the last day whose engagements a value of the last day may know of; `counts`, what was
        counted.
    """
    record = {**record, "rows": engines.count_rows(directory / FEATURES)}
    artifact.write(KIND, directory, record, [FEATURES])
    return record


def _forms(store: Store, source: Source) -> ir.Table | None:
    return store.all_forms(source) if store.recipe.query_form else None


def open_features(path: files.PathLike) -> Artifact:
    """Opens features; `record` is that of `add_record`.

    Raises:
      InputError: none there, damaged, or of another release.
    """
    fields = ("description", "mean_rates", "first_day", "last_day", "known", "counts", "rows")
    return artifact.open_artifact(KIND, path, fields)


def read(features: Artifact, backend: ibis.BaseBackend) -> ir.Table:
    """Returns the rows of features, which must be as they were written."""
    return engines.read_artifact(backend, [(features, FEATURES)])


def days_asked(
    log: Log, backend: ibis.BaseBackend, since: int | None, until: int | None
) -> tuple[int, int, float]:
    """Returns first and last day with requests between two, and the share of all requests there.

    Raises:
      InputError: there are none.
    """
    days, requests = requests_per_day(log, backend)
    asked = np.full(len(days), True)
    if since is not None:
        asked &= days >= since
    if until is not None:
        asked &= days <= until
    if not asked.any():
        days_there = (
            f"has requests of {date(days[0])} to {date(days[-1])}" if len(days) else "has none"
        )
        start = "" if since is None else f" from {date(since)} on"
        end = "" if until is None else f" through {date(until)}"
        raise InputError(
            f"{log.path} {days_there}, but was asked for those{start}{end}: name other days by "
            f"--since and --until."
        )
    return int(days[asked][0]), int(days[asked][-1]), requests[asked].sum() / requests.sum()


def check_counted(store: Store, number: int, log: Log) -> None:
    """Refuses a store that ends before the last day that requests of a day look at.

    Args:
      store: the counts.
      number: of the day.
      log: what they were counted from, for the command to run.
    """
    assert store.recipe.lag_days is not None
    needed = number - store.recipe.lag_days
    if store.next_day is None or store.next_day <= needed:
        counted = "nothing" if store.next_day is None else date(store.next_day - 1)
        raise InputError(
            f"{store.path} is counted through {counted}, but day {date(number)} needs "
            f"{date(needed)}. Once that day is over (what arrives on it later is left out), run "
            f"`interactrank state build --config=CONFIG --log={shlex.quote(str(log.path))} "
            f"--out={shlex.quote(str(store.path))} --through={date(needed)}`, with the --config "
            f"that the counts were built with."
        )
