"""Features of a log's impressions on disk: as of the day of each request.

    FEATURES/features/PART/    Parquet: request_id, item_id, the actions, one column per feature
    FEATURES/features.json     what the features are, of which days, what was counted, and the
                               digests of the files

The rows are in no order: sorting them would cost more than making them. A part is of some queries,
so that a count of a query is read once, however long the log is; parts of days would read those of
all days before them again. `snapshot.py` writes the same of what a snapshot served.
"""

import math
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import IMPLICIT_ACTION, Log
from interactrank_jax.state import engines, expressions, manifests
from interactrank_jax.state.days import date
from interactrank_jax.state.source import Source, requests_per_day
from interactrank_jax.state.store import Store

RECORD, COMMAND, FEATURES = "features.json", "iqp features", "features"
# Impressions of a part, on average: bounds what the engine must hold, but for a query with more.
ROWS_AT_ONCE = 4_000_000


def mean_rates(
    store: Store, backend: ibis.BaseBackend, until: int | None = None
) -> dict[str, float]:
    """Returns the mean rate of each action that a rate is of: engagements per impression.

    Args:
      store: the counts.
      backend: where it is read.
      until: the last day to look at, such as training's last; None for all.
    """
    actions = store.recipe.rates
    if not actions:
        return {}
    counts = store.counts((), backend)
    if until is not None:
        counts = counts.filter(counts.period <= until)
    sums = {action: counts[action].sum().fill_null(0) for action in (*actions, IMPLICIT_ACTION)}
    total = backend.to_pyarrow(counts.aggregate(**sums)).to_pylist()[0]
    return {action: total[action] / max(total[IMPLICIT_ACTION], 1) for action in actions}


def as_of(
    log: Log,
    store: Store,
    backend: ibis.BaseBackend,
    means: Mapping[str, float],
    since: int | None = None,
    until: int | None = None,
) -> ir.Table:
    """Returns the features of a log's impressions as of the day of their request.

    Args:
      log: the log.
      store: its counts, through the day before the last request's.
      backend: where both are read.
      means: of `mean_rates`.
      since, until: first and last day of the requests; None for no bound.

    Returns:
      Columns request_id, item_id, the actions, and a float32 column per feature; in no order.
    """
    (whole,) = _in_parts(log, store, backend, means, since, until, 1, Path())
    return whole


def _in_parts(
    log: Log,
    store: Store,
    backend: ibis.BaseBackend,
    means: Mapping[str, float],
    since: int | None,
    until: int | None,
    parts: int,
    scratch: Path,
) -> list[ir.Table]:
    """Returns `as_of` in parts, which if there are several read copies in a new directory.

    A part is of some queries; of some forms of queries, where those are counted too.
    """
    recipe = store.recipe
    source = Source(log, recipe, backend)
    column = "query_form" if recipe.query_form else "query"
    asked = ("request_id", "item_id", *log.schema.actions, *recipe.key_columns)
    shown = source.candidates(since, until).select(*asked, "query", "item", "period")
    rows = engines.split(backend, shown, column, parts, scratch / "rows")
    found: list[dict[tuple[str, ...], ir.Table]] = [{} for _ in rows]
    for number, keys in enumerate(recipe.windows):
        place = scratch / str(number)
        known = _known(store, keys, backend, since, until)
        if parts > 1 and "query" in keys and column not in keys:
            forms = source.query_forms().select("query", "query_form")
            known = known.left_join(forms, "query").drop("query_right")
        if column in known.columns:
            split = engines.split(backend, known, column, parts, place)
            sums = [
                expressions.sums_of(*pair, keys, recipe) for pair in zip(rows, split, strict=True)
            ]
        else:
            # Counts over all queries: any part may ask for any of them.
            over_all = expressions.sums_of(expressions.union(rows), known, keys, recipe)
            if parts > 1:
                engines.write_parquet(backend, over_all, place)
                over_all = engines.read_parquet(backend, [place])
            sums = [over_all] * parts
        for own, table in zip(found, sums, strict=True):
            own[keys] = table
    names = [spec.name for spec in recipe.specs]
    return [
        expressions.as_of(own_rows, own, recipe, means).select(
            "request_id", "item_id", *log.schema.actions, *names
        )
        for own_rows, own in zip(rows, found, strict=True)
    ]


def _known(
    store: Store,
    keys: tuple[str, ...],
    backend: ibis.BaseBackend,
    since: int | None,
    until: int | None,
) -> ir.Table:
    """Returns the counts that requests of some days may look at."""
    counts, lag = store.counts(keys, backend), store.recipe.lag_days
    assert lag is not None
    if until is not None:
        counts = counts.filter(counts.period <= until - lag)
    if since is not None:
        longest = max(spec.window for spec in store.recipe.specs)
        counts = counts.filter(counts.period >= since - expressions.frame(longest, lag)[0])
    return counts


def training_means(
    store: Store, backend: ibis.BaseBackend, train_until: int | None
) -> dict[str, float]:
    """Returns `mean_rates` over what training may see.

    Raises:
      InputError: there are rates, and `train_until` is None.
    """
    if store.recipe.rates and train_until is None:
        raise InputError(
            "the features have rates, which are differences from a mean: name the last day that it "
            "is taken over by --train_until, such as training's last."
        )
    return mean_rates(store, backend, train_until)


def write(
    log: Log,
    store: Store,
    backend: ibis.BaseBackend,
    out: files.PathLike,
    since: int | None = None,
    until: int | None = None,
    train_until: int | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> dict[str, Any]:
    """Writes features as of each request's day into a new directory; returns what it says of them.

    Raises:
      InputError: the store ends before the last day that the features need, or there are rates and
        no last day for their mean.
    """
    outputs.output_directory(out, log.path, store.path)
    means = training_means(store, backend, train_until)
    first, last, share = days_asked(log, backend, since, until)
    check_counted(store, last, log)
    assert store.recipe.lag_days is not None
    record = {
        "description": store.description.to_json(),
        "mean_rates": means,
        "known": last - store.recipe.lag_days,
        "counts": store.figures(),
        "first_day": first,
        "last_day": last,
    }
    shown = backend.to_pyarrow(log.table("impressions", backend).count()).as_py()
    parts = max(math.ceil(shown * share / rows_at_once), 1)
    with outputs.new_directory(out) as directory:
        scratch = directory / "scratch"
        tables = _in_parts(log, store, backend, means, first, last, parts, scratch)
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
    record = {**record, "rows": manifests.count_rows(directory / FEATURES)}
    manifests.write(directory / RECORD, directory, record, [FEATURES])
    return record


def open_features(path: files.PathLike) -> manifests.Manifest:
    """Opens features; `record` is that of `add_record`.

    Raises:
      InputError: none there, damaged, or of another release.
    """
    path = Path(path)
    fields = ("description", "mean_rates", "first_day", "last_day", "known", "counts", "rows")
    return manifests.read(path / RECORD, path, COMMAND, fields)


def read(features: manifests.Manifest, backend: ibis.BaseBackend) -> ir.Table:
    """Returns the rows of features, which must be as they were written."""
    return manifests.read_parquet(backend, [(features, FEATURES)])


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
        held = f"has requests of {date(days[0])} to {date(days[-1])}" if len(days) else "has none"
        start = "" if since is None else f" from {date(since)} on"
        end = "" if until is None else f" through {date(until)}"
        raise InputError(
            f"{log.path} {held}, but was asked for those{start}{end}: name other days by --since "
            f"and --until."
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
        held = "nothing" if store.next_day is None else date(store.next_day - 1)
        raise InputError(
            f"{store.path} is counted through {held}, but day {date(number)} needs "
            f"{date(needed)}. Once that day is over (what arrives on it later is left out), run "
            f"`interactrank iqp build --config=CONFIG --log={shlex.quote(str(log.path))} "
            f"--out={shlex.quote(str(store.path))} --through={date(needed)}`, with the --config "
            f"that the counts were built with."
        )
