"""From the tables of a log to rows that count, and to rows that features are asked for."""

import dataclasses
from collections.abc import Sequence

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.contract import OPTIONAL_COLUMNS, STAGES
from interactrank_jax.log.schema import IMPLICIT_ACTION, Log
from interactrank_jax.state.days import SECONDS_PER_DAY, day
from interactrank_jax.state.expressions import union
from interactrank_jax.state.normalized_query import query_form
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.spec import FRESH


@dataclasses.dataclass(frozen=True)
class Source:
    """A log, read by a backend for a recipe.

    Bounds of days, `since` and `until`, are both included; None is no bound.

    Attributes:
      log: the log, with time.
      recipe: what is counted.
      backend: where the tables are read.
      forms: the form of each query, see `query_forms`; None: of those that the log's requests have.

    Raises:
      InputError: the requests lack a column that the recipe counts by.
    """

    log: Log
    recipe: Recipe
    backend: ibis.BaseBackend
    forms: ir.Table | None = None

    def __post_init__(self):
        present = self.log.columns("requests")
        for column in filter(None, (*self.recipe.segments, self.recipe.query_form)):
            if column not in present:
                raise InputError(
                    f"requests ({self.log.path}): column '{column}' is missing, which "
                    f"config.data.cross counts by." + did_you_mean(column, present)
                )

    def requests(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the rows of the log's requests of some days."""
        return _between(self.log.table("requests", self.backend), "timestamp", since, until)

    def impressions(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the rows of the log's impressions whose request is of some days."""
        table = self.log.table("impressions", self.backend)
        return table.semi_join(self.requests(since, until), "request_id")

    def items(self) -> ir.Table:
        """Returns one column, item: the ids of the log's items."""
        items = self.log.table("items", self.backend)
        return items.select(item=_wide(items.item_id))

    def query_forms(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the queries of the requests of some days with the form that each is counted as.

        Returns:
          Columns query, query_form, and period, the first day: the form is of that day's text, the
          first in order where there are several. A text without words has none: null.
        """
        table = self.requests(since, until)
        text = table[self.recipe.query_form].cast("string").fill_null("")
        asked = table.select(
            query=_wide(table.query_id), text=text, period=day(table.timestamp)
        ).distinct()
        firsts = asked.group_by("query").aggregate(period=asked.period.min())
        asked = asked.inner_join(firsts, ["query", "period"])
        asked = asked.group_by(["query", "period"]).aggregate(text=asked.text.min())
        return asked.select("query", "period", query_form=query_form(asked.text).nullif(""))

    def candidates(
        self, since: int | None = None, until: int | None = None, fresh_on: int | None = None
    ) -> ir.Table:
        """Returns a row per impression, with what features need of its request.

        Args:
          since, until: days.
          fresh_on: the day of which column `fresh` tells; None: that of the request.

        Returns:
          Columns query, item, user, time, period (day of the request), `recipe.key_columns`, and
          those of the impressions.
        """
        requests = self.requests(since, until)
        impressions = self.log.table("impressions", self.backend)
        requests = requests.select(
            "request_id",
            **self._segments(requests),
            query=_wide(requests.query_id),
            user=_wide(requests.user_id),
            time=_wide(requests.timestamp),
            period=lambda table: day(table.timestamp),
        )
        if self.recipe.query_form:
            forms = self.query_forms() if self.forms is None else self.forms
            requests = requests.inner_join(forms.select("query", "query_form"), "query")
        held = self.log.columns("impressions")
        optional = [name for name in OPTIONAL_COLUMNS if name in held]
        impressions = impressions.select(
            "request_id", "item_id", "position", *self.log.schema.actions, *optional
        )
        rows = impressions.inner_join(requests, "request_id")
        return self._with_fresh(rows.mutate(item=_wide(rows.item_id)), fresh_on)

    def shown(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the `candidates` that users saw."""
        return self._seen(self.candidates(since, until))

    def _seen(self, candidates: ir.Table) -> ir.Table:
        if "stage" not in self.log.columns("impressions"):
            return candidates
        return candidates.filter(candidates.stage == STAGES[0])

    def raw_events(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the rows of the log's events that arrived on some days."""
        return _between(self.log.table("events", self.backend), "arrival_time", since, until)

    def events(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the events that arrived on some days, as they came.

        Returns:
          Columns query, item, user, action, time (of arrival), period (day of arrival),
          `recipe.key_columns`, event_id, event_time, and is_late: whether they arrived on a later
          day than they happened.

        Raises:
          InputError: the events lack a column that a cross feature is segmented by.
        """
        check_event_columns(self.log, self.recipe.segments)
        table = self.raw_events(since, until)
        # Where no event has a query, the column may be of any type.
        query = _wide(self.log.table("requests", self.backend).query_id)
        table = table.select(
            *("event_time", "action"),
            **self._segments(table),
            event_id=_wide(table.event_id),
            query=table.query_id.cast(query.type()),
            item=_wide(table.item_id),
            user=_wide(table.user_id),
            time=_wide(table.arrival_time),
            period=day(table.arrival_time),
            is_late=day(table.arrival_time) > day(table.event_time),
        )
        if self.recipe.query_form:
            forms = self.query_forms() if self.forms is None else self.forms
            forms = forms.select("query", "query_form", known="period")
            table = table.left_join(forms, "query").drop("query_right")
            # A query that nobody had asked by then has no form yet.
            form = ibis.ifelse(table.known <= table.period, table.query_form, ibis.null("string"))
            table = table.mutate(query_form=form).drop("known")
        return self._with_fresh(table)

    def _segments(self, table: ir.Table) -> dict[str, ir.Column]:
        return {name: _wide(table[name]) for name in self.recipe.segments}

    def _with_fresh(self, rows: ir.Table, on: int | None = None) -> ir.Table:
        if not self.recipe.has_fresh:
            return rows
        created = self.created()
        rows = rows.left_join(created, "item").drop("item_right")
        period = rows.period if on is None else ibis.literal(on)
        fresh = is_fresh(period, rows.created, self.recipe.fresh_days)
        return rows.mutate(**{FRESH: fresh}).drop("created")

    def created(self) -> ir.Table:
        """Returns columns item and created, the day when it came to be (null if unknown)."""
        items = self.log.table("items", self.backend)
        return items.select(item=_wide(items.item_id), created=day(items.created_at))

    def counted(
        self,
        since: int | None = None,
        until: int | None = None,
        arrived: ir.Table | None = None,
    ) -> ir.Table:
        """Returns a row for everything that counts: engagements, and impressions where needed.

        Engagements are the events, on the day of their arrival; a log without events has them from
        the actions of its impressions, on the day of the request. Impressions that users saw are
        the action 'impression'.

        Args:
          since, until: days.
          arrived: the events to count, of `events`; None for all of those days, copies too.

        Returns:
          Columns query, item, user, action, time, period, `recipe.key_columns`, and weight where
          impressions do not all count 1.
        """
        recipe = self.recipe
        columns = ["query", "item", "user", "action", "time", "period", *recipe.key_columns]
        one = {}
        if recipe.is_weighted:
            columns.append("weight")
            one["weight"] = ibis.literal(1) / 1  # not 1.0, which is a decimal
        shown = self.candidates(since, until)
        parts = []
        if self.log.has_events:
            arrived = self.events(since, until) if arrived is None else arrived
            parts.append(arrived.mutate(**one).select(columns))
        else:
            for action in self.log.schema.actions:
                rows = shown.filter(shown[action].cast("boolean"))
                parts.append(rows.mutate(action=ibis.literal(action), **one).select(columns))
        if recipe.counts_impressions:
            shown = self._seen(shown)
            if recipe.is_weighted:
                shown = shown.mutate(weight=recipe.impression_weight_column(shown))
            parts.append(shown.mutate(action=ibis.literal(IMPLICIT_ACTION)).select(columns))
        rows = union(parts)
        return _capped(rows, recipe.user_day_cap) if recipe.user_day_cap else rows


def requests_per_day(log: Log, backend: ibis.BaseBackend) -> tuple[np.ndarray, np.ndarray]:
    """Returns the days with requests, ascending, and how many each has."""
    requests = log.table("requests", backend)
    asked = requests.select(day=day(requests.timestamp))
    found = asked.group_by("day").aggregate(requests=asked.count()).order_by("day")
    table = backend.to_pyarrow(found)
    return table["day"].to_numpy(), table["requests"].to_numpy()


def first_copies(events: ir.Table) -> ir.Table:
    """Returns the events, each event_id once: of several copies the one that arrived first.

    Of copies that arrived and happened at one time the first by item, action, query, user and
    segments, so that what is counted does not depend on the order of rows.
    """
    copies = events.group_by("event_id").aggregate(copies=events.count())
    repeated = copies.filter(copies.copies > 1).select("event_id")
    # Few ids repeat, so that ranking copies is left to those.
    some = events.semi_join(repeated, "event_id")
    own = ("event_id", "item", "action", "query", "user", "time", "event_time", "period", "is_late")
    segments = sorted(name for name in events.columns if name not in (*own, "query_form", FRESH))
    order = ["time", "event_time", "item", "action"]
    for name in ("query", "user", *segments):
        order += [events[name].notnull(), name]
    rank = ibis.row_number().over(group_by="event_id", order_by=order)
    some = some.mutate(copy=rank).filter(ibis._.copy == 0).drop("copy")
    return ibis.union(events.anti_join(repeated, "event_id"), some)


def _capped(rows: ir.Table, cap: int) -> ir.Table:
    """Returns the rows; of a user's rows of one action on one day the first `cap`.

    Of rows at one time those of the first items go first, then queries, then small weights; what is
    still alike counts alike, but for a user who was in two segments in one second.
    """
    by = ["user", "action", "period"]
    sizes = rows.group_by(by).aggregate(copies=rows.count())
    many = sizes.filter(sizes.copies > cap).select(by)
    order = ["time", "item", rows.query.notnull(), "query"]
    order += ["weight"] if "weight" in rows.columns else []
    rank = ibis.row_number().over(group_by=by, order_by=order)
    # Few users reach it, so that ranking is left to those.
    some = rows.semi_join(many, by).mutate(rank=rank)
    return ibis.union(rows.anti_join(many, by), some.filter(some["rank"] < cap).drop("rank"))


def is_fresh(period: ir.Value, created: ir.Value, fresh_days: int) -> ir.Value:
    """Returns 1 for an item that is fresh on a day, else 0; one of unknown age is not."""
    return (period - created < fresh_days).fill_null(False).cast("int32")


def _wide(values: ir.Column) -> ir.Column:
    """Returns integers as int64, others as is: tables, and nights, of several widths are one."""
    return values.cast("int64") if values.type().is_integer() else values


def _between(table: ir.Table, column: str, since: int | None, until: int | None) -> ir.Table:
    """Returns the rows of some days; bounds in seconds, which Parquet's statistics know."""
    if since is not None:
        table = table.filter(table[column] >= since * SECONDS_PER_DAY)
    if until is not None:
        table = table.filter(table[column] < (until + 1) * SECONDS_PER_DAY)
    return table


def check_event_columns(log: Log, segments: Sequence[str]) -> None:
    """Raises InputError where the events lack a column that a cross feature is segmented by."""
    for name in segments:
        if name not in log.columns("events"):
            raise InputError(
                f"config.data.cross.features: '{name}' is a segment, but the events have no column "
                f"'{name}'. Add it to the events (its value as of the event), or leave that "
                f"cross feature out."
            )
