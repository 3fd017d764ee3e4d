"""Counts a run of days: everything that STATE holds of them.

Rows of the log are written once and read from there; the chunk is complete once its JSON is there.
"""

import dataclasses
import shutil
from pathlib import Path

import ibis
import ibis.expr.types as ir

from interactrank_jax.io import artifact
from interactrank_jax.io.errors import InputError
from interactrank_jax.state import engines, expressions
from interactrank_jax.state.day_rows import day_rows, files_of
from interactrank_jax.state.days import day
from interactrank_jax.state.expressions import union
from interactrank_jax.state.query_history import query_items
from interactrank_jax.state.source import Source
from interactrank_jax.state.spec import FIRST_DAY
from interactrank_jax.state.store import (
    CATALOGUE,
    FORMS,
    KIND,
    QUERY_ITEMS,
    SEEN,
    TIMELINES,
    Chunk,
    Store,
    counts_folder,
)
from interactrank_jax.state.timelines import timeline_rows

PARTIAL = ".partial-"


def count_days(store: Store, source: Source, first: int, last: int) -> None:
    """Counts one chunk: its rows are written once, and everything is made of those."""
    backend, name = source.backend, Chunk.name_of(first, last)
    folders = store.folders(name)
    for folder in folders:
        if (store.path / folder).exists():
            raise InputError(
                f"{store.path / folder} is where these days would be counted, but no file of "
                f"{store.chunks_place} names it: it is not ours, or that file was lost. Move it "
                f"elsewhere, or build again into a new --out."
            )
    partial = store.path / f"{PARTIAL}{name}"
    partial.mkdir()
    days: tuple[int | None, int | None] = (first, last)
    if source.recipe.lag_days is None:
        days = None, None
    if store.recipe.query_form:
        source = dataclasses.replace(source, forms=_add_forms(store, source, name, *days))
    files_seen = files_of(source)  # before they are read: what changes later is seen to
    in_days = {} if source.recipe.lag_days is None else day_rows(source, first, last)
    arrived, figures = None, {"duplicates": 0, "late": 0, "early": 0}
    if source.has_events:
        arrived, figures = _add_events(store, source, name, first, last)
        as_they_came = sum(of_day.rows for of_day in in_days.values())
        figures["duplicates"] = as_they_came - figures.pop("rows")
    engagements = source.engagements(days[0], days[1], arrived)
    if arrived is None:
        engagements = _copied(backend, engagements, partial / "engagements")
    _add_histories(store, source, name, engagements, days)
    counted = source.counted(days[0], days[1], engagements)
    if source.recipe.counts_impressions or source.recipe.user_day_cap:
        counted = _copied(backend, counted, partial / "rows")
    for keys, actions in store.counted_keys.items():
        counts = expressions.period_counts(counted, keys, {action: action for action in actions})
        counts = counts.order_by([*keys, "period"])
        engines.write_parquet(backend, counts, store.path / counts_folder(keys) / name)
    _add_items(store, source, name, first)
    chunk = Chunk(
        first,
        last,
        **figures,
        **_rows_and_unknown(counted, source),
        days=in_days,
        files=files_seen,
    )
    store.chunks_place.mkdir(exist_ok=True)
    follows = store.chunks[-1].name if store.chunks else ""
    record = {"chunk": chunk.to_json(), "follows": follows}
    artifact.write(KIND, store.path, record, folders, store.chunks_place / f"{name}.json")
    shutil.rmtree(partial)


def _copied(backend: ibis.BaseBackend, rows: ir.Table, directory: Path) -> ir.Table:
    """Writes rows that are read several times; returns what reads them."""
    engines.write_parquet(backend, rows, directory)
    return engines.read_parquet(backend, [directory])


def _rows_and_unknown(counted: ir.Table, source: Source) -> dict[str, int]:
    """Returns how many rows count, and how many of them are of no item of the log."""
    items = source.items().rename({"item:id": "item"})
    joined = counted.left_join(items, [("item", "item:id")])
    counts = {"rows": joined.count(), "unknown": joined.count(where=joined["item:id"].isnull())}
    return source.backend.to_pyarrow(joined.aggregate(**counts)).to_pylist()[0]


def _add_events(
    store: Store, source: Source, name: str, first: int, last: int
) -> tuple[ir.Table, dict[str, int]]:
    """Writes the ids of the events of some days; returns the events, each once, and figures."""
    backend = source.backend
    raw = source.events(since=first, until=last)
    copy = store.path / f"{PARTIAL}{name}" / "events"
    arrived = _copied(backend, store.first_copies(raw, backend), copy)
    # In order, as every table: what is built again has the same bytes.
    ids = arrived.select("event_id").order_by("event_id")
    engines.write_parquet(backend, ids, store.path / SEEN / name)
    return arrived, _figures(arrived, source)


def _figures(arrived: ir.Table, source: Source) -> dict[str, int]:
    """Returns how many events there are, came late, and happened before their item was."""
    knows_items = "created_at" in source.log.columns("items")
    if knows_items:
        arrived = arrived.left_join(source.created(), "item")
    counts = {"rows": arrived.count(), "late": arrived.count(where=arrived.is_late)}
    if knows_items:
        counts["early"] = arrived.count(where=day(arrived.event_time) < arrived.created)
    return {"early": 0} | source.backend.to_pyarrow(arrived.aggregate(**counts)).to_pylist()[0]


def _add_histories(
    store: Store,
    source: Source,
    name: str,
    engagements: ir.Table,
    days: tuple[int | None, int | None],
) -> None:
    """Writes the timelines of users, and what query histories are made of."""
    backend, description = source.backend, store.description
    rows = timeline_rows(source, engagements, description.user_impressions, *days)
    order = ["user", "time", "event_time", *source.tie_columns, "item", "action"]
    engines.write_parquet(backend, rows.order_by(order), store.path / TIMELINES / name)
    items = query_items(engagements, description.query_actions)
    items = items.order_by(["query", "item", "period"])
    engines.write_parquet(backend, items, store.path / QUERY_ITEMS / name)


def _add_forms(
    store: Store, source: Source, name: str, first: int | None, last: int | None
) -> ir.Table:
    """Writes the forms of the queries that came up on some days; returns all that are known."""
    # The first chunk begins with what is counted; queries may have been asked before that.
    forms = source.query_forms(since=first if store.chunks else None, until=last)
    new = store.path / FORMS / name
    if not store.chunks:
        engines.write_parquet(source.backend, forms.order_by("query"), new)
        return engines.read_parquet(source.backend, [new])
    earlier = store.forms(source.backend)
    forms = forms.anti_join(earlier, "query").order_by("query")
    engines.write_parquet(source.backend, forms, new)
    return union([earlier, engines.read_parquet(source.backend, [new])])


def _add_items(store: Store, source: Source, name: str, first: int) -> None:
    """Writes the items that STATE does not have yet, or has otherwise."""
    items = source.catalogue()
    if store.chunks:
        earlier = store.catalogue(source.backend)
        kept = items.inner_join(earlier, "item_id", rname="{name}_before")
        same = [
            kept[column].identical_to(kept[f"{column}_before"])
            for column in items.columns
            if column != "item_id"
        ]
        kept = kept.filter(same) if same else kept
        items = items.anti_join(kept, "item_id")
    items = items.mutate(**{FIRST_DAY: ibis.literal(first, "int32")}).order_by("item_id")
    engines.write_parquet(source.backend, items, store.path / CATALOGUE / name)
