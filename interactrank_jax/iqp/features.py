"""Features of a log's impressions on disk: as of the day of each request.

    FEATURES/features/FIRST-LAST/  Parquet, one per run of days: request_id, item_id, the actions,
                                   one column per feature
    FEATURES/features.json         what the features are, of which days, what was counted

The rows are in no order: sorting them would cost more than making them. `snapshot.py` writes the
same of what a snapshot served.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax import files
from interactrank_jax.data.schema import IMPLICIT_ACTION, Log
from interactrank_jax.errors import InputError
from interactrank_jax.iqp import engines, expressions
from interactrank_jax.iqp.days import date, runs_of_days
from interactrank_jax.iqp.rows import Source, requests_per_day
from interactrank_jax.iqp.store import Store, write_record

RECORD, FEATURES = "features.json", "features"
# Impressions whose features are made at once: bounds what the engine must hold.
ROWS_AT_ONCE = 10_000_000


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
    recipe = store.recipe
    shown = Source(log, recipe, backend).candidates(since, until)
    asked = ("request_id", "item_id", *log.schema.actions, *recipe.key_columns)
    found = expressions.as_of(
        shown.select(*asked, "query", "item", "period"),
        {keys: _known(store, keys, backend, since, until) for keys in store.counted_keys},
        recipe,
        means,
    )
    names = [spec.name for spec in recipe.specs]
    return found.select("request_id", "item_id", *log.schema.actions, *names)


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
    means = training_means(store, backend, train_until)
    runs = runs_of_requests(log, backend, since, until, rows_at_once)
    last = runs[-1][1]
    check_counted(store, last)
    assert store.recipe.lag_days is not None
    record = {
        "description": store.description.to_json(),
        "mean_rates": means,
        "known": last - store.recipe.lag_days,
        "counts": store.figures(),
    }
    tables = ((run, as_of(log, store, backend, means, *run)) for run in runs)
    return write_runs(out, backend, tables, record)


def write_runs(
    out: files.PathLike,
    backend: ibis.BaseBackend,
    tables: Iterable[tuple[tuple[int, int], ir.Table]],
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the features of runs of days into a new directory; returns what it says of them.

    Args:
      out: the directory.
      backend: where the tables are read.
      tables: first and last day of each run, and its features: at least one, in the order of time.
      record: what is known of them: `description` and `mean_rates`; `known`, the last day whose
        engagements a value of the last day may know of; `counts`, what was counted.
    """
    with files.new_directory(out) as directory:
        days: list[int] = []
        for run, table in tables:
            place = directory / FEATURES / f"{run[0]:06d}-{run[1]:06d}"
            engines.write_parquet(backend, table, place)
            days += run
        rows = backend.to_pyarrow(read(directory, backend).count()).as_py()
        record = {**record, "rows": rows, "first_day": days[0], "last_day": days[-1]}
        write_record(directory / RECORD, record)
    return record


def read(directory: Path, backend: ibis.BaseBackend) -> ir.Table:
    """Returns what `write_runs` wrote into a directory."""
    held = directory / FEATURES
    return engines.read_parquet(backend, sorted(held.glob("*")) or [held])


def runs_of_requests(
    log: Log,
    backend: ibis.BaseBackend,
    since: int | None,
    until: int | None,
    rows_at_once: int,
) -> list[tuple[int, int]]:
    """Returns first and last day of runs of days with about so many impressions, in order.

    Raises:
      InputError: no request lies between the days.
    """
    days, requests = requests_per_day(log, backend)
    shown = backend.to_pyarrow(log.table("impressions", backend).count()).as_py()
    sizes = requests * (shown / max(requests.sum(), 1))
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
    return runs_of_days(days[asked].tolist(), sizes[asked].tolist(), rows_at_once)


def check_counted(store: Store, number: int) -> None:
    """Refuses a store that ends before the last day that requests of a day look at."""
    assert store.recipe.lag_days is not None
    needed = number - store.recipe.lag_days
    if store.next_day is None or store.next_day <= needed:
        held = "nothing" if store.next_day is None else date(store.next_day - 1)
        raise InputError(
            f"{store.path} is counted through {held}, but day {date(number)} needs "
            f"{date(needed)}: run `interactrank iqp build` again."
        )
