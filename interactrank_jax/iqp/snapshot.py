"""What a store is read for: features of a log's impressions as of their day, and a day's table.

    FEATURES/features/*.parquet    request_id, item_id, the actions, one column per feature
    SNAPSHOT/KEYS/*.parquet        keys, item, one column per feature, sorted
    SNAPSHOT/snapshot.json         the day, what the features are, rows per table

The rows of features are in no order: sorting them would cost more than making them.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax import files
from interactrank_jax.data.schema import IMPLICIT_ACTION, Log
from interactrank_jax.errors import InputError
from interactrank_jax.iqp import engines, expressions, rows
from interactrank_jax.iqp.spec import segments_of
from interactrank_jax.iqp.store import Store


def mean_rates(
    store: Store, backend: ibis.BaseBackend, until: int | None = None
) -> dict[str, float]:
    """Returns the mean rate of each action that a rate is of: engagements per impression.

    Args:
      store: the counts.
      backend: where it is read.
      until: the last day to look at, such as training's last; None for all.
    """
    actions = sorted({spec.action for spec in store.specs if spec.is_rate})
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
    segments = segments_of(store.specs)
    shown = rows.candidates(log, segments, backend, since, until)
    found = expressions.as_of(
        shown.select(
            *("request_id", "item_id", *log.schema.actions, *segments, "query", "item", "period")
        ),
        {keys: store.counts(keys, backend) for keys in store.counted_keys},
        store.specs,
        lag_days=store.description.lag_days,
        prior=store.description.prior,
        mean_rates=means,
    )
    names = [spec.name for spec in store.specs]
    return found.select("request_id", "item_id", *log.schema.actions, *names)


def write_features(
    log: Log,
    store: Store,
    backend: ibis.BaseBackend,
    out: files.PathLike,
    since: int | None = None,
    until: int | None = None,
    train_until: int | None = None,
) -> dict[str, Any]:
    """Writes `features` into a new directory; returns what it says of them.

    Raises:
      InputError: the store ends before the last day that the features need.
    """
    last = backend.to_pyarrow(rows.day(log.table("requests", backend).timestamp.max())).as_py()
    last = last if until is None else min(last, until)
    _check_counted(store, last)
    means = mean_rates(store, backend, train_until)
    with files.new_directory(out) as directory:
        table = features(log, store, backend, means, since, until)
        engines.write_parquet(backend, table, directory / "features")
        written = engines.read_parquet(backend, [directory / "features"])
        record = {
            "description": dataclasses.asdict(store.description),
            "mean_rates": means,
            "rows": backend.to_pyarrow(written.count()).as_py(),
        }
        files.write_sealed(directory / "features.json", record)
    return record


def _check_counted(store: Store, day: int) -> None:
    needed = day - store.description.lag_days
    if store.next_day is None or store.next_day <= needed:
        held = "nothing" if store.next_day is None else str(np.datetime64(store.next_day - 1, "D"))
        raise InputError(
            f"{store.path} is counted through {held}, but day {np.datetime64(day, 'D')} needs "
            f"{np.datetime64(needed, 'D')}: run `interactrank iqp build` again."
        )


def snapshot(
    store: Store, backend: ibis.BaseBackend, day: int, means: Mapping[str, float]
) -> dict[tuple[str, ...], ir.Table]:
    """Returns the features that requests of a day get, by what is asked with beside the item.

    Returns:
      By keys, such as ('query',) or ('query', 'country'): columns keys, item and the features that
      are taken by those keys; rows with any value, sorted.
    """
    lag, prior = store.description.lag_days, store.description.prior
    by_keys: dict[tuple[str, ...], list[Any]] = {}
    for spec in store.specs:
        by_keys.setdefault(spec.keys, []).append(spec)
    result = {}
    for keys, specs in by_keys.items():
        of_item = expressions.windows_of(specs)
        count_keys = (*keys, "item")
        table = expressions.within(
            store.counts(count_keys, backend), count_keys, of_item[count_keys], day, lag
        )
        totals = dict(of_item)
        totals.pop(count_keys)
        for total_keys, windows in totals.items():
            found = expressions.within(
                store.counts(total_keys, backend), total_keys, windows, day, lag
            )
            found = found.rename({f"total_{a}_{days}": f"{a}_{days}" for a, days in windows})
            table = (
                table.inner_join(found, list(total_keys)) if total_keys else table.cross_join(found)
            )
        values = {}
        for spec in specs:
            prefix = "" if spec.is_rate else "total_"
            values[spec.name] = expressions.value(
                spec,
                table[f"{spec.action}_{spec.window}"],
                table[f"{prefix}{spec.total_action}_{spec.window}"],
                prior,
                means.get(spec.action, 0.0),
            ).cast("float32")
        table = table.select(*count_keys, **values)
        kept = [table[name] != 0 for name in values]
        result[keys] = table.filter(ibis.or_(*kept)).order_by(list(count_keys))
    return result


def write_snapshot(
    store: Store,
    backend: ibis.BaseBackend,
    out: files.PathLike,
    day: int,
    train_until: int | None = None,
) -> dict[str, Any]:
    """Writes the serving table of a day into a new directory; returns what `snapshot.json` says.

    Raises:
      InputError: the store ends before the last day that the snapshot needs.
    """
    _check_counted(store, day)
    means = mean_rates(store, backend, train_until)
    with files.new_directory(out) as directory:
        sizes = {}
        for keys, table in snapshot(store, backend, day, means).items():
            place = directory / ("+".join(keys) or "item")
            engines.write_parquet(backend, table, place)
            written = engines.read_parquet(backend, [place])
            sizes[place.name] = backend.to_pyarrow(written.count()).as_py()
        record = {
            "as_of": str(np.datetime64(day, "D")),
            "description": dataclasses.asdict(store.description),
            "mean_rates": means,
            "rows": sizes,
        }
        files.write_sealed(Path(directory) / "snapshot.json", record)
    return record
