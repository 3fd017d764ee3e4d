"""User timelines: what each user did, in order of arrival, as STATE holds it and a log adds to it.

STATE holds them by day of arrival, sorted by user; `read_timelines` makes arrays of those users who
ask, which `histories.py` looks histories up in.
"""

from collections.abc import Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir

from interactrank_jax.state.arrays import columns_on_disk
from interactrank_jax.state.expressions import union
from interactrank_jax.state.histories import IMPRESSION, Timelines
from interactrank_jax.state.source import Source
from interactrank_jax.state.spec import ITEM_ROW
from interactrank_jax.state.store import Store

TIES = ("event_id", "request_id", "position")  # see `Source.tie_columns`


def timeline_rows(
    source: Source,
    engagements: ir.Table,
    with_impressions: bool,
    since: int | None = None,
    until: int | None = None,
) -> ir.Table:
    """Returns what users did and, where asked for, saw, for their timelines.

    Args:
      source: of the log.
      engagements: of `Source.engagements`, of the same days.
      with_impressions: whether rates of users need the number of impressions.
      since, until: days.

    Returns:
      Columns user, item, action, time (of arrival), event_time, `source.tie_columns` and, out of
      fold, period.
    """
    folds = ("period",) if source.recipe.lag_days is None else ()
    columns = ["user", "item", "action", "time", "event_time", *folds, *source.tie_columns]
    rows = engagements.select(columns)
    if not with_impressions:
        return rows
    shown = source.impressions_seen(since, until)
    for name in source.tie_columns:
        if name not in shown.columns:
            shown = shown.mutate(**{name: ibis.null(rows[name].type())})
    return union([rows, shown.select(columns)])


def all_rows(source: Source, store: Store) -> ir.Table:
    """Returns the timelines of STATE, and of the log's days after it, as real time adds them."""
    rows = store.timelines(source.backend)
    since = store.next_day
    if since is None:
        return rows
    arrived = None
    if source.has_events:
        arrived = store.first_copies(source.events(since=since), source.backend)
    engagements = source.engagements(since=since, arrived=arrived)
    recent = timeline_rows(source, engagements, store.description.user_impressions, since=since)
    return union([rows, recent.select(rows.columns).cast(rows.schema())])


def read_timelines(
    backend: ibis.BaseBackend,
    rows: ir.Table,
    actions: Sequence[str],
    users: ir.Table,
    items: ir.Table,
    count: int,
    scratch: Path,
) -> Timelines:
    """Reads the timelines of some users.

    Args:
      backend: where they are read.
      rows: of `all_rows`, or of STATE.
      actions: of the log, in the order of their codes.
      users: columns `user_id` and `user`, its code.
      items: columns `item_id` and `ITEM_ROW`, its row in the item store.
      count: how many users there are.
      scratch: a new directory for the arrays, which are mapped into memory.
    """
    codes = [(rows.action == name, code) for code, name in enumerate(actions)]
    ties = [name for name in TIES if name in rows.columns]
    rows = rows.mutate(action=ibis.cases(*codes, else_=IMPRESSION).cast("int8"))
    rows = rows.rename(user_id="user", item_id="item").inner_join(users, "user_id")
    rows = rows.inner_join(items, "item_id")
    order = ["user", "time", "event_time", *ties, "item_id", "action"]
    folds = ("period",) if "period" in rows.columns else ()
    rows = rows.order_by(order).select(
        "user", "action", "time", "event_time", *folds, item=ITEM_ROW
    )
    return Timelines(columns_on_disk(backend, rows, scratch), count)
