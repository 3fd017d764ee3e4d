"""Rules of what counts: the first copy of an event, the first rows of a user's day, fresh items."""

import ibis
import ibis.expr.types as ir

from interactrank_jax.state.spec import FRESH


def first_copies(events: ir.Table, backend: ibis.BaseBackend) -> ir.Table:
    """Returns the events, each event_id once: of several copies the one that arrived first.

    Of copies that arrived and happened at one time the first by item, action, query, user and
    segments, so that what is counted does not depend on the order of rows.
    """
    copies = events.group_by("event_id").aggregate(copies=events.count())
    # Few ids repeat, so that ranking copies is left to those.
    table = backend.to_pyarrow(copies.filter(copies.copies > 1).select("event_id"))
    if not len(table):
        return events
    repeated = ibis.memtable(table)
    some = events.semi_join(repeated, "event_id")
    own = ("event_id", "item", "action", "query", "user", "time", "event_time", "period", "is_late")
    segments = sorted(name for name in events.columns if name not in (*own, "query_form", FRESH))
    order = ["time", "event_time", "item", "action"]
    for name in ("query", "user", *segments):
        order += [events[name].notnull(), name]
    rank = ibis.row_number().over(group_by="event_id", order_by=order)
    some = some.mutate(copy=rank).filter(ibis._.copy == 0).drop("copy")
    return ibis.union(events.anti_join(repeated, "event_id"), some)


def capped(rows: ir.Table, cap: int) -> ir.Table:
    """Returns the rows; of a user's rows of one action on one day the first `cap`.

    Of rows at one time those of the first items go first, then queries, small weights, segments;
    what is still alike counts alike.
    """
    by = ["user", "action", "period"]
    sizes = rows.group_by(by).aggregate(copies=rows.count())
    many = sizes.filter(sizes.copies > cap).select(by)
    order = ["time", "item", rows.query.notnull(), "query"]
    order += ["weight"] if "weight" in rows.columns else []
    plain = {"query", "item", "user", "action", "time", "period", "weight"}
    for name in sorted(set(rows.columns) - plain):
        order += [rows[name].notnull(), name]
    rank = ibis.row_number().over(group_by=by, order_by=order)
    # Few users reach it, so that ranking is left to those.
    some = rows.semi_join(many, by).mutate(rank=rank)
    return ibis.union(rows.anti_join(many, by), some.filter(some["rank"] < cap).drop("rank"))


def is_fresh(period: ir.Value, created: ir.Value, fresh_days: int) -> ir.Value:
    """Returns 1 for an item that is fresh on a day, else 0; one of unknown age is not."""
    return (period - created < fresh_days).fill_null(False).cast("int32")
