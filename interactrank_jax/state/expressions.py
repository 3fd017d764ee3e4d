"""ItemQueryPerf as Ibis expressions: the same on the embedded DuckDB and on a Spark cluster.

    IQP_{w,s,a}(q, p) = C_{w,s,a}(q, p) / C_{w,s,a}(q)          (InteractRank, section "IQP")

A count as of day(t) covers the days d with  day(t) - lag - window < d <= day(t) - lag,  lag >= 1,
so no engagement of the request's own day is ever in it. Timeless data has no days: a training row
gets the counts over the training rows of other folds, an evaluation row those over all.

`period_counts` sums engagements per key and day (or fold); `windowed` and `out_of_fold` turn those
into the counts at given probes. Keys with the item make the numerator of a feature, the same keys
without it the denominator of a share; `Recipe.value` makes a feature of the two. A count's column
has a colon in its name, which no column of a log has. Counts are
integers, weighted ones multiples of 1 / `recipe.WEIGHT_STEPS`, so that no engine can round them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir

from interactrank_jax.log.schema import IMPLICIT_ACTION
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.spec import CrossSpec


def frame(window: int, lag_days: int) -> tuple[int, int]:
    """Returns how many days before the request's day a window starts and ends, both included."""
    return lag_days + window - 1, lag_days


def period_counts(
    engagements: ir.Table, keys: Sequence[str], actions: Mapping[str, Any]
) -> ir.Table:
    """Counts engagements per key and period.

    Args:
      engagements: columns `action`, `period`, the keys and, where impressions count something else
        than 1, `weight`; a null key is unknown, and its row counts for nothing that needs the key.
      keys: columns to count by; may be empty.
      actions: by name the value in column `action` of each action to count.

    Returns:
      Columns keys, `period` and one count per action.
    """
    is_weighted = "weight" in engagements.columns
    rows = engagements.filter(
        [
            engagements.action.isin(list(actions.values())),
            *(engagements[key].notnull() for key in keys),
        ]
    )
    counts = {}
    for name, code in actions.items():
        is_action = rows.action == code
        if is_weighted and name == IMPLICIT_ACTION:
            counts[name] = rows.weight.sum(where=is_action).fill_null(0.0)
        else:
            # Not a sum of flags, which DuckDB makes wider than any integer that Parquet has.
            counts[name] = rows.action.count(where=is_action)
    return rows.group_by([*keys, "period"]).aggregate(**counts)


def _sum(counts: ir.Column) -> ir.Value:
    """Returns a sum of counts in their own type."""
    return counts.sum().cast(_type(counts))


def _type(counts: ir.Column) -> str:
    return "float64" if counts.type().is_floating() else "int64"


def _zero(counts: ir.Column) -> ir.Value:
    return ibis.literal(0, _type(counts))


def _with_probes(
    counts: ir.Table, probes: ir.Table, keys: Sequence[str], actions: Sequence[str]
) -> ir.Table:
    """Returns counts, and probes as rows with zero counts; of both those whose keys the other has.

    Most of what is asked was never engaged with, and most of what was ever counted is not asked.
    """
    if keys:
        met = probes.semi_join(counts, list(keys))
        counts, probes = counts.semi_join(probes, list(keys)), met
    columns = [*keys, "period", "probe", *actions]
    zeros = {name: _zero(counts[name]) for name in actions}
    return ibis.union(
        counts.mutate(probe=ibis.literal(None, "int64")).select(columns),
        probes.mutate(**zeros).select(columns),
    )


def windowed(
    counts: ir.Table,
    probes: ir.Table,
    keys: Sequence[str],
    windows: Sequence[tuple[str, int]],
    lag_days: int,
) -> ir.Table:
    """Sums daily counts over the days that a request may use.

    Args:
      counts: from `period_counts`, periods being days.
      probes: columns keys, `period` and `probe` (an id), each key and day once.
      keys: columns to match.
      windows: pairs of action and days.
      lag_days: the last day used is so many before the probe's.

    Returns:
      Columns keys, `period`, `probe` and `<action>:<days>`, one row per probe whose keys were ever
      counted: all sums of the others are zero.
    """
    # All windows end with one day. There the probe stands, for an engine finds a row's own day at
    # once, and searches for any other.
    _, last = frame(1, lag_days)
    ends = probes.mutate(period=(probes.period - last).cast(probes.period.type()))
    rows = _with_probes(counts, ends, keys, sorted({action for action, _ in windows}))
    sums = {
        f"{action}:{days}": rows[action]
        .sum()
        .over(
            ibis.range_window(
                preceding=frame(days, lag_days)[0] - last,
                following=0,
                group_by=list(keys) or None,
                order_by="period",
            )
        )
        .fill_null(0)
        .cast(_type(rows[action]))
        for action, days in windows
    }
    rows = rows.mutate(**sums)
    rows = rows.filter(rows.probe.notnull())
    rows = rows.mutate(period=(rows.period + last).cast(rows.period.type()))
    return rows.select([*keys, "period", "probe", *sums])


def within(
    counts: ir.Table,
    keys: Sequence[str],
    windows: Sequence[tuple[str, int]],
    day: int,
    lag: int | None,
) -> ir.Table:
    """Sums daily counts over the days that requests of one day may use; as `windowed` otherwise.

    Without a lag there are no days, and the sums are over all folds.

    Returns:
      Columns keys and `<action>:<days>`: a row for each key that was ever counted in any window.
    """
    rows = counts
    if lag is not None:
        longest = max(days for _, days in windows)
        rows = counts.filter(counts.period.between(day - frame(longest, lag)[0], day - lag))

    def count(action: str, days: int) -> ir.Value:
        if lag is None:
            return rows[action]
        is_within = rows.period >= day - frame(days, lag)[0]
        return ibis.ifelse(is_within, rows[action], _zero(rows[action]))

    sums = {
        f"{action}:{days}": count(action, days).sum().fill_null(0).cast(_type(rows[action]))
        for action, days in windows
    }
    return rows.group_by(list(keys)).aggregate(**sums) if keys else rows.aggregate(**sums)


def out_of_fold(
    counts: ir.Table, probes: ir.Table, keys: Sequence[str], windows: Sequence[tuple[str, int]]
) -> ir.Table:
    """Sums counts over all folds but the probe's own; arguments and columns as for `windowed`."""
    actions = sorted({action for action, _ in windows})
    rows = _with_probes(counts, probes, keys, actions)
    # A probe and the count of its own fold become one row, for that count to be taken off.
    rows = rows.group_by([*keys, "period"]).aggregate(
        probe=rows.probe.max(), **{name: _sum(rows[name]) for name in actions}
    )
    everything = ibis.window(group_by=list(keys) or None)
    sums = {
        f"{action}:{days}": (rows[action].sum().over(everything) - rows[action]).cast(
            _type(rows[action])
        )
        for action, days in windows
    }
    rows = rows.mutate(**sums)
    return rows.filter(rows.probe.notnull()).select([*keys, "period", "probe", *sums])


def items_by_key(counts: ir.Table, keys: Sequence[str]) -> ir.Table:
    """Returns the items that were ever counted, with the first period of each, per key."""
    return counts.group_by([*keys, "item"]).aggregate(first=counts.period.min())


def items_of_groups(
    groups: ir.Table, items: ir.Table, keys: Sequence[str], lag_days: int | None
) -> ir.Table:
    """Pairs each group (columns `group`, `period` and keys) with the items it may have values for.

    Returns:
      Columns `group` and `item`.
    """
    pairs = groups.join(items, list(keys)) if keys else groups.cross_join(items)
    if lag_days is not None:
        pairs = pairs.filter(pairs["first"] <= pairs.period - lag_days)
    return pairs.select("group", "item")


def union(tables: Sequence[ir.Table]) -> ir.Table:
    """Returns the rows of all tables."""
    return ibis.union(*tables) if len(tables) > 1 else tables[0]


def sums_of(rows: ir.Table, counts: ir.Table, keys: tuple[str, ...], recipe: Recipe) -> ir.Table:
    """Returns the counts by some keys that rows may use: `windowed`, or `out_of_fold`.

    Args:
      rows: columns keys and `period`.
      counts: from `period_counts`, by these keys.
      keys: among `recipe.windows`.
      recipe: the features.
    """
    probes = rows.select([*keys, "period"]).distinct().mutate(probe=ibis.literal(0, "int64"))
    windows = recipe.windows[keys]
    if recipe.lag_days is None:
        return out_of_fold(counts, probes, keys, windows).drop("probe")
    return windowed(counts, probes, keys, windows, recipe.lag_days).drop("probe")


def with_counts(
    rows: ir.Table,
    sums: Mapping[tuple[str, ...], ir.Table],
    recipe: Recipe,
    also: Sequence[str] = (),
) -> tuple[ir.Table, dict[tuple[tuple[str, ...], str, int], str]]:
    """Joins counts to rows; what was never counted is 0.

    Args:
      rows: with all keys, and `also`.
      sums: by their keys, counts `<action>:<days>` with those keys and `also`.
      recipe: what is counted by which keys.
      also: further columns to match.

    Returns:
      (the rows, from keys, action and days to the column of that count).
    """
    places = {}
    joined = rows
    for number, (keys, counts) in enumerate(sums.items()):
        names = {}
        for action, days in recipe.windows[keys]:
            name = f"{action}:{days}:{number}"
            places[keys, action, days] = name
            names[name] = f"{action}:{days}"
        counts = counts.rename(names)
        by = [*keys, *also]
        if by:
            joined = joined.left_join(counts, by, rname=f"{{name}}_right_{number}")
        else:
            joined = joined.cross_join(counts)
    zeros = {name: joined[name].fill_null(0) for name in places.values()}
    return joined.select(*rows.columns, **zeros), places


def values(
    rows: ir.Table,
    places: Mapping[tuple[tuple[str, ...], str, int], str],
    recipe: Recipe,
    levels: Sequence[Sequence[CrossSpec]],
    mean_rates: Mapping[str, float],
) -> dict[str, ir.Value]:
    """Returns the `raw_values` of a table, float32, by name."""
    result = raw_values(rows, places, recipe, levels, mean_rates)
    return {name: value.cast("float32") for name, value in result.items()}


def raw_values(
    counts: Any,
    places: Mapping[tuple[tuple[str, ...], str, int], str],
    recipe: Recipe,
    levels: Sequence[Sequence[CrossSpec]],
    mean_rates: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns features made of counts, by name.

    Args:
      counts: by column, arrays or columns of a table.
      places: from keys, action and days to the column of their count.
      recipe: how counts become values.
      levels: of each feature, from fine to coarse.
      mean_rates: see `Recipe.value`, by action.
    """
    result = {}
    for finest, *coarser in levels:
        pairs = [
            (
                counts[places[level.count_keys, level.action, level.window]],
                counts[places[level.total_keys, level.total_action, level.window]],
            )
            for level in (finest, *coarser)
        ]
        mean = mean_rates[finest.action] if finest.is_rate else 0.0
        result[finest.name] = recipe.value(finest, pairs, mean)
    return result
