"""A day's table for serving: what requests of that day get, by what they are asked with.

    SNAPSHOT/KEYS/*.parquet        keys, item, one column per feature, sorted
    SNAPSHOT/snapshot.json         the day, what the features are, rows per table, and the digests
                                   of the files

A feature with a back-off is in a table for each of its levels, and the rule to look it up is: its
value is that of the finest level whose keys are in the table at all; where that has no such item,
the value is 0. An item is fresh if it is on the snapshot's day. `served` follows the rule.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from interactrank_jax.io import files, outputs
from interactrank_jax.io.artifact import Artifact, Kind, open_artifact
from interactrank_jax.io.artifact import write as write_artifact
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import Log
from interactrank_jax.state import engines, expressions
from interactrank_jax.state.as_of import (
    FEATURES,
    add_record,
    check_counted,
    check_has_days,
    check_means,
    days_asked,
)
from interactrank_jax.state.days import date, day_number
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.rules import is_fresh
from interactrank_jax.state.source import Source
from interactrank_jax.state.spec import FRESH, CrossSpec
from interactrank_jax.state.store import Description, Store

KIND = Kind("snapshot", "state snapshot", "snapshot.json", version=5)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A snapshot on disk, opened.

    Attributes:
      day: number of the day it is for.
      description: what the features are.
      artifact: `snapshot.json` and the files that it names.
    """

    day: int
    description: Description
    artifact: Artifact

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.artifact.root

    @property
    def recipe(self) -> Recipe:
        """The features and how they are counted."""
        return self.description.recipe

    def table(self, keys: Sequence[str], backend: ibis.BaseBackend) -> ir.Table:
        """Returns the table of some keys, see `tables`."""
        return engines.read_artifact(backend, [(self.artifact, _folder(keys))])


def open_snapshot(path: files.PathLike, log: Log) -> Snapshot:
    """Opens a snapshot.

    Raises:
      InputError: none there, damaged, of another release, or of features that the log cannot have.
    """
    fields = ("as_of", "description", "mean_rates", "rows", "counts")
    opened = open_artifact(KIND, path, fields)
    description = Description.from_json(opened.record["description"], log.schema, log.path)
    description.recipe.check(log)
    return Snapshot(day_number(opened.record["as_of"]), description, opened)


def _folder(keys: Sequence[str]) -> str:
    return "+".join(keys) or "item"


def tables(
    store: Store,
    backend: ibis.BaseBackend,
    number: int,
    means: Mapping[str, float],
    created: ir.Table | None = None,
) -> dict[tuple[str, ...], ir.Table]:
    """Returns the features that requests of a day get, by what is asked with beside the item.

    Where there are no days, it is what evaluation rows get: of all folds.

    Args:
      store: STATE.
      backend: where it is read.
      number: of the day; 0 where there are no days.
      means: mean rates in training, by action.
      created: columns item and created, the day when it came to be, where features set fresh items
        apart.

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
        keys: _table(store, backend, number, means, created, keys, features)
        for keys, features in by_keys.items()
    }


def _table(
    store: Store,
    backend: ibis.BaseBackend,
    number: int,
    means: Mapping[str, float],
    created: ir.Table | None,
    keys: tuple[str, ...],
    features: Sequence[tuple[CrossSpec, ...]],
) -> ir.Table:
    """Returns one table of a snapshot: the features, given by their levels, that `keys` ask for."""
    recipe = store.recipe
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
        assert created is not None
        table = table.left_join(created, "item").drop("item_right")
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


def write(
    log: Log,
    store: Store,
    backend: ibis.BaseBackend,
    out: files.PathLike,
    number: int,
    means: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Writes the serving table of a day, by its number; returns what `snapshot.json` says.

    Args:
      log: the log.
      store: its STATE.
      backend: where both are read.
      out: new.
      number: of the day.
      means: mean rates in training, by action: a model is served with those that it was trained
        with. Needed where a feature is a rate.

    Raises:
      InputError: STATE ends before the last day that the snapshot needs, or there are rates and no
        mean of theirs.
    """
    outputs.output_directory(out, log.path, store.path)
    check_has_days(store)
    check_counted(store, number, log)
    means = means or {}
    check_means(store, means)
    with outputs.new_directory(out) as directory:
        sizes = {}
        created = Source(log, store.recipe, backend).created() if store.recipe.has_fresh else None
        for keys, table in tables(store, backend, number, means, created).items():
            folder = _folder(keys)
            engines.write_parquet(backend, table, directory / folder)
            sizes[folder] = engines.count_rows(directory / folder)
        record = {
            "as_of": date(number),
            "description": store.description.to_json(),
            "mean_rates": dict(means),
            "rows": sizes,
            "counts": store.figures(),
        }
        write_artifact(KIND, directory, record, sizes)
    return record


def served(
    log: Log,
    snapshot: Snapshot,
    backend: ibis.BaseBackend,
    since: int | None = None,
    until: int | None = None,
) -> ir.Table:
    """Returns what impressions of some days get from a snapshot; as `as_of.features_as_of`."""
    recipe = snapshot.recipe
    rows = Source(log, recipe, backend).candidates(since, until, fresh_on=snapshot.day)
    asked = ("request_id", "item_id", *log.schema.actions, *recipe.key_columns)
    rows = rows.select(*asked, "query", "item")
    chains = {spec.name: [level.keys for level in recipe.levels(spec)] for spec in recipe.specs}
    for keys in sorted({*itertools.chain(*chains.values())}):
        names = [name for name, chain in chains.items() if keys in chain]
        rows = _look_up(rows, snapshot.table(keys, backend), keys, names)
    values = {}
    for name, chain in chains.items():
        found = [(rows[_column("is_known", keys)], rows[_column(name, keys)]) for keys in chain]
        values[name] = ibis.cases(*found).fill_null(0).cast("float32")
    return rows.select("request_id", "item_id", *log.schema.actions, **values)


def _look_up(
    rows: ir.Table, table: ir.Table, keys: tuple[str, ...], names: Sequence[str]
) -> ir.Table:
    """Adds a table's features to rows, and whether the table has their keys at all."""
    by = [*keys, "item"]
    held = table.select(*by, **{_column(name, keys): name for name in names})
    rows = rows.left_join(held, by).drop([f"{key}_right" for key in by])
    is_known = {_column("is_known", keys): ibis.literal(True)}
    if not keys:
        return rows.mutate(**is_known)
    known = table.select(keys).distinct().mutate(**is_known)
    return rows.left_join(known, keys).drop([f"{key}_right" for key in keys])


def _column(name: str, keys: tuple[str, ...]) -> str:
    return "/".join((name, *keys))


def write_served(
    log: Log,
    snapshot: Snapshot,
    backend: ibis.BaseBackend,
    out: files.PathLike,
    since: int | None = None,
    until: int | None = None,
) -> dict[str, Any]:
    """Writes what a snapshot serves, by default from its day on; otherwise as `as_of.write`.

    Raises:
      InputError: requests of days before the snapshot's, or none from it on.
    """
    outputs.output_directory(out, log.path, snapshot.path)
    since = snapshot.day if since is None else since
    if since < snapshot.day:
        raise InputError(
            f"{snapshot.path} is served from {date(snapshot.day)} on, not on {date(since)}: name a "
            f"later --since, or none."
        )
    first, last, _ = days_asked(log, backend, since, until)
    assert snapshot.recipe.lag_days is not None
    record = {
        **{
            name: snapshot.artifact.record[name] for name in ("description", "mean_rates", "counts")
        },
        "known": snapshot.day - snapshot.recipe.lag_days,
        "first_day": first,
        "last_day": last,
    }
    with outputs.new_directory(out) as directory:
        table = served(log, snapshot, backend, first, last)
        engines.write_parquet(backend, table, directory / FEATURES / "all")
        return add_record(directory, record)
