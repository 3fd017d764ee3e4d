"""From the tables of a log to rows that count, and to rows that features are asked for."""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from interactrank_jax.data.dense import SECONDS_PER_DAY
from interactrank_jax.data.examples import STAGES
from interactrank_jax.data.schema import IMPLICIT_ACTION, Log
from interactrank_jax.iqp.expressions import union
from interactrank_jax.iqp.spec import (
    CrossSpec,
    check_event_columns,
    counts_impressions,
    segments_of,
)


def candidates(
    log: Log,
    segments: Sequence[str],
    backend: ibis.BaseBackend,
    since: int | None = None,
    until: int | None = None,
) -> ir.Table:
    """Returns a row per impression, with what features need of its request.

    Args:
      log: the log, with time.
      segments: categorical features.
      backend: where the tables are read.
      since, until: first and last day of the requests, both included; None for no bound.

    Returns:
      Columns query, item, user, period (day of the request), the segments, and those of the
      impressions.
    """
    requests, impressions = (log.table(name, backend) for name in ("requests", "impressions"))
    requests = _between(requests, "timestamp", since, until).select(
        "request_id",
        *segments,
        query="query_id",
        user="user_id",
        period=lambda table: day(table.timestamp),
    )
    rows = impressions.inner_join(requests, "request_id")
    return rows.mutate(item=rows.item_id)


def events(
    log: Log,
    segments: Sequence[str],
    backend: ibis.BaseBackend,
    since: int | None = None,
    until: int | None = None,
) -> ir.Table:
    """Returns the events that arrived on some days, as they came; arguments as of `candidates`.

    Returns:
      Columns query, item, user, action, period (day of arrival), the segments, event_id,
      event_time, arrival_time, and is_late: whether they arrived on a later day than they happened.

    Raises:
      InputError: the events lack a column that a cross feature is segmented by.
    """
    check_event_columns(log, segments)
    table = _between(log.table("events", backend), "arrival_time", since, until)
    return table.select(
        *("event_id", "event_time", "arrival_time", "action", *segments),
        query="query_id",
        item="item_id",
        user="user_id",
        period=day(table.arrival_time),
        is_late=day(table.arrival_time) > day(table.event_time),
    )


def first_copies(events: ir.Table) -> ir.Table:
    """Returns the events, each event_id once: of several copies the one that arrived first."""
    copies = events.group_by("event_id").aggregate(copies=events.count())
    repeated = copies.filter(copies.copies > 1).select("event_id")
    # Few ids repeat, so that ranking copies is left to those.
    some = events.semi_join(repeated, "event_id")
    rank = ibis.row_number().over(
        group_by="event_id", order_by=["arrival_time", "event_time", "item", "action"]
    )
    some = some.mutate(copy=rank).filter(ibis._.copy == 0).drop("copy")
    return ibis.union(events.anti_join(repeated, "event_id"), some)


def counted(
    log: Log,
    specs: Sequence[CrossSpec],
    backend: ibis.BaseBackend,
    since: int | None = None,
    until: int | None = None,
    arrived: ir.Table | None = None,
) -> ir.Table:
    """Returns a row for everything that counts: engagements, and impressions where a spec asks.

    Engagements are the events, on the day of their arrival; a log without events has them from the
    actions of its impressions, on the day of the request. Impressions that users saw are the action
    'impression'.

    Args:
      log: the log, with time.
      specs: the features.
      backend: where the tables are read.
      since, until: see `candidates`.
      arrived: the events to count, of `events`; None for all of those days, copies too.

    Returns:
      Columns query, item, user, action, period and the segments.
    """
    segments = segments_of(specs)
    columns = ["query", "item", "user", "action", "period", *segments]
    shown = candidates(log, segments, backend, since, until)
    parts = []
    if log.has_events:
        arrived = events(log, segments, backend, since, until) if arrived is None else arrived
        parts.append(arrived.select(columns))
    else:
        for action in log.schema.actions:
            rows = shown.filter(shown[action].cast("boolean"))
            parts.append(rows.mutate(action=ibis.literal(action)).select(columns))
    if counts_impressions(specs):
        if "stage" in log.columns("impressions"):
            shown = shown.filter(shown.stage == STAGES[0])
        parts.append(shown.mutate(action=ibis.literal(IMPLICIT_ACTION)).select(columns))
    return union(parts)


def _between(table: ir.Table, column: str, since: int | None, until: int | None) -> ir.Table:
    """Returns the rows of some days; bounds in seconds, which Parquet's statistics know."""
    if since is not None:
        table = table.filter(table[column] >= since * SECONDS_PER_DAY)
    if until is not None:
        table = table.filter(table[column] < (until + 1) * SECONDS_PER_DAY)
    return table


def day(seconds: ir.IntegerValue) -> ir.IntegerValue:
    """Returns the UTC day number of times in seconds, as int32."""
    return (seconds // SECONDS_PER_DAY).cast("int32")
