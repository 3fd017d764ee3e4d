"""What a store is read for: features of a log's impressions as of their day, and a day's table.

    FEATURES/features/FIRST-LAST/  Parquet, one per run of days: request_id, item_id, the actions,
                                   one column per feature
    FEATURES/features.json         what the features are, of which days, what was counted
    SNAPSHOT/KEYS/*.parquet        keys, item, one column per feature, sorted
    SNAPSHOT/snapshot.json         the day, what the features are, rows per table

The rows of features are in no order: sorting them would cost more than making them.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from interactrank_jax import files
from interactrank_jax.data.schema import IMPLICIT_ACTION, Log
from interactrank_jax.errors import InputError
from interactrank_jax.iqp import engines, expressions
from interactrank_jax.iqp.days import date, day, runs_of_days
from interactrank_jax.iqp.rows import Source, is_fresh
from interactrank_jax.iqp.spec import FRESH, CrossSpec
from interactrank_jax.iqp.store import Store

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


def features(
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


def _training_means(
    store: Store, backend: ibis.BaseBackend, train_until: int | None
) -> dict[str, float]:
    if store.recipe.rates and train_until is None:
        raise InputError(
            "the features have rates, which are differences from a mean: name the last day that it "
            "is taken over by --train_until, such as training's last."
        )
    return mean_rates(store, backend, train_until)


def write_features(
    log: Log,
    store: Store,
    backend: ibis.BaseBackend,
    out: files.PathLike,
    since: int | None = None,
    until: int | None = None,
    train_until: int | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> dict[str, Any]:
    """Writes `features` into a new directory, days at a time; returns what it says of them.

    Raises:
      InputError: the store ends before the last day that the features need, or there are rates and
        no last day for their mean.
    """
    means = _training_means(store, backend, train_until)
    runs = _parts(log, backend, since, until, rows_at_once)
    if not runs:
        raise InputError("no request lies between --since and --until: name other days.")
    first, last = runs[0][0], runs[-1][1]
    _check_counted(store, last)
    assert store.next_day is not None
    with files.new_directory(out) as directory:
        for start, end in runs:
            table = features(log, store, backend, means, start, end)
            place = directory / FEATURES / f"{start:06d}-{end:06d}"
            engines.write_parquet(backend, table, place)
        written = read_features(directory, backend)
        record = {
            "description": store.description.to_json(),
            "mean_rates": means,
            "rows": backend.to_pyarrow(written.count()).as_py(),
            "first_day": first,
            "last_day": last,
            "counted_through": store.next_day - 1,
            "counts": store.figures(),
        }
        files.write_sealed(directory / RECORD, record)
    return record


def read_features(directory: Path, backend: ibis.BaseBackend) -> ir.Table:
    """Returns what `write_features` wrote into a directory."""
    return engines.read_parquet(backend, sorted((directory / FEATURES).iterdir()))


def _parts(
    log: Log,
    backend: ibis.BaseBackend,
    since: int | None,
    until: int | None,
    rows_at_once: int,
) -> list[tuple[int, int]]:
    """Returns first and last day of runs of about so many impressions."""
    requests, impressions = (log.table(name, backend) for name in ("requests", "impressions"))
    totals = [backend.to_pyarrow(table.count()).as_py() for table in (impressions, requests)]
    per_request = totals[0] / max(totals[1], 1)
    asked = day(requests.timestamp).name("day").as_table()
    per_day = asked.group_by("day").aggregate(requests=asked.count()).order_by("day")
    if since is not None:
        per_day = per_day.filter(per_day.day >= since)
    if until is not None:
        per_day = per_day.filter(per_day.day <= until)
    found = backend.to_pyarrow(per_day)
    sizes = found["requests"].to_numpy() * per_request
    return runs_of_days(found["day"].to_pylist(), sizes, rows_at_once)


def _check_counted(store: Store, number: int) -> None:
    assert store.recipe.lag_days is not None
    needed = number - store.recipe.lag_days
    if store.next_day is None or store.next_day <= needed:
        held = "nothing" if store.next_day is None else date(store.next_day - 1)
        raise InputError(
            f"{store.path} is counted through {held}, but day {date(number)} needs "
            f"{date(needed)}: run `interactrank iqp build` again."
        )


def snapshot(
    log: Log, store: Store, backend: ibis.BaseBackend, number: int, means: Mapping[str, float]
) -> dict[tuple[str, ...], ir.Table]:
    """Returns the features that requests of a day get, by what is asked with beside the item.

    With a back-off a feature is in a table for each of its levels, and the rule to look it up is:
    its value is that of the finest level whose keys are in the table at all; where that has no such
    item, the value is 0.

    Returns:
      By keys, such as ('query',) or ('query', 'country'): columns keys, item and the features that
      are taken by those keys; rows with any value, sorted.
    """
    by_keys: dict[tuple[str, ...], list[tuple[CrossSpec, ...]]] = {}
    for spec in store.recipe.specs:
        levels = store.recipe.levels(spec)
        for first, level in enumerate(levels):
            by_keys.setdefault(level.keys, []).append(levels[first:])
    return {
        keys: _table(log, store, backend, number, means, keys, features)
        for keys, features in by_keys.items()
    }


def _table(
    log: Log,
    store: Store,
    backend: ibis.BaseBackend,
    number: int,
    means: Mapping[str, float],
    keys: tuple[str, ...],
    features: Sequence[tuple[CrossSpec, ...]],
) -> ir.Table:
    """Returns one table of a snapshot: the features, given by their levels, that `keys` ask for."""
    recipe = store.recipe
    assert recipe.lag_days is not None
    levels = {level for chain in features for level in chain}
    counts = {
        by: expressions.within(
            store.counts(by, backend), by, recipe.windows[by], number, recipe.lag_days
        )
        for by in sorted({by for level in levels for by in (level.count_keys, level.total_keys)})
    }
    table = _pairs(_asked(store, backend, number, keys, counts), levels, counts)
    if FRESH in keys:
        # Only what the item is on that day is asked with.
        table = table.left_join(Source(log, recipe, backend).created(), "item").drop("item_right")
        now = is_fresh(ibis.literal(number), table.created, recipe.fresh_days)
        table = table.filter(table[FRESH] == now).drop("created")
    table, place = expressions.with_counts(table, counts, recipe)
    values = expressions.values(table, place, recipe, features, means)
    table = table.select(*keys, "item", **values)
    kept = [table[name] != 0 for name in values]
    return table.filter(ibis.or_(*kept)).order_by([*keys, "item"])


def _asked(
    store: Store,
    backend: ibis.BaseBackend,
    number: int,
    keys: tuple[str, ...],
    counts: Mapping[tuple[str, ...], ir.Table],
) -> ir.Table | None:
    """Returns what is asked with: the keys that were counted, and of a query its form."""
    if not keys:
        return None
    groups = counts[*keys, "item"].select(keys).distinct()
    if "query" in keys and any("query_form" in by for by in counts):
        forms = store.forms(backend)
        forms = forms.filter(forms.period <= number).select("query", "query_form")
        groups = groups.left_join(forms, "query").drop("query_right")
    return groups


def _pairs(
    groups: ir.Table | None,
    levels: Iterable[CrossSpec],
    counts: Mapping[tuple[str, ...], ir.Table],
) -> ir.Table:
    """Returns all groups, each with the items that any level may have a value for."""
    items = []
    for by in sorted({level.count_keys for level in levels}):
        shared = [key for key in by if key != "item"]
        listed = counts[by].select(by)
        if groups is None:
            items.append(listed)
            continue
        pairs = groups.inner_join(listed, shared) if shared else groups.cross_join(listed)
        items.append(pairs.select(*groups.columns, "item"))
    return expressions.union(items).distinct()


def write_snapshot(
    log: Log,
    store: Store,
    backend: ibis.BaseBackend,
    out: files.PathLike,
    number: int,
    train_until: int | None = None,
) -> dict[str, Any]:
    """Writes the serving table of a day, by its number; returns what `snapshot.json` says.

    Raises:
      InputError: the store ends before the last day that the snapshot needs, or there are rates
        and no last day for their mean, which a model must be served with as it was trained.
    """
    _check_counted(store, number)
    means = _training_means(store, backend, train_until)
    with files.new_directory(out) as directory:
        sizes = {}
        for keys, table in snapshot(log, store, backend, number, means).items():
            place = directory / ("+".join(keys) or "item")
            engines.write_parquet(backend, table, place)
            written = engines.read_parquet(backend, [place])
            sizes[place.name] = backend.to_pyarrow(written.count()).as_py()
        record = {
            "as_of": date(number),
            "description": store.description.to_json(),
            "mean_rates": means,
            "rows": sizes,
        }
        files.write_sealed(Path(directory) / "snapshot.json", record)
    return record
