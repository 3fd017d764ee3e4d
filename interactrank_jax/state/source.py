"""From the tables of a log to rows that count, and to rows that features are asked for."""

import dataclasses
from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.contract import OPTIONAL_COLUMNS, STAGES
from interactrank_jax.log.read import Log
from interactrank_jax.log.schema import IMPLICIT_ACTION
from interactrank_jax.state.days import day
from interactrank_jax.state.expressions import union
from interactrank_jax.state.log_days import between
from interactrank_jax.state.normalized_query import query_form
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.rules import capped, is_fresh
from interactrank_jax.state.spec import FRESH

_CATALOGUE_TYPES = {"numeric": "float64", "embedding": "array<float64>"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A log, read by a backend for a recipe.

    Bounds of days, `since` and `until`, are both included; None is no bound.

    Where impressions are split at random there are no days: a period is a fold, and a time the
    place of an impression in an order that was shuffled before labels were looked at.

    Attributes:
      log: the log.
      recipe: what is counted.
      backend: where the tables are read.
      forms: the normalized form of each query, see `query_forms`; None: of those that the log's
        requests have.
      rows: the impressions to read, by columns `request_id` and, optionally, `item_id`; further
        columns are handed on. Out of fold it has `period` (the fold) and `time`. None: all of them.

    Raises:
      InputError: the requests lack a column that the recipe counts by.
    """

    log: Log
    recipe: Recipe
    backend: ibis.BaseBackend
    forms: ir.Table | None = None
    rows: ir.Table | None = None

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
        return between(self.log.table("requests", self.backend), "timestamp", since, until)

    def impressions(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the rows of the log's impressions whose request is of some days."""
        table = self.log.table("impressions", self.backend)
        return table.semi_join(self.requests(since, until), "request_id")

    def items(self) -> ir.Table:
        """Returns one column, item: the ids of the log's items."""
        items = self.log.table("items", self.backend)
        return items.select(item=_wide(items.item_id))

    def catalogue(self) -> ir.Table:
        """Returns the log's items: `item_id`, features and, where it is there, `created_at`.

        Each kind of feature has one type, whatever its width is in the log on a night.
        """
        items = self.log.table("items", self.backend)
        types = {
            feature.name: _CATALOGUE_TYPES[feature.kind]
            for feature in self.log.schema.select(("item",))
            if feature.kind in _CATALOGUE_TYPES
        }
        columns = {
            name: items[name].cast(types[name]) if name in types else _wide(items[name])
            for name in items.columns
        }
        return items.select(**columns)

    def query_forms(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the queries of the requests of some days with the form that each is counted as.

        Returns:
          Columns query, query_form, and period, the first day: the form is of that day's text, the
          first in order where there are several. A text without words has none: null.
        """
        table = self.requests(since, until)
        text = table[self.recipe.query_form].cast("string").fill_null("")
        asked = table.select(
            query=_wide(table.query_id), text=text, period=self._day(table)
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
        present = self.log.columns("impressions")
        optional = [name for name in OPTIONAL_COLUMNS if name in present]
        impressions = self.log.table("impressions", self.backend).select(
            "request_id", "item_id", "position", *self.log.schema.actions, *optional
        )
        if self.rows is not None:
            keys = [name for name in ("request_id", "item_id") if name in self.rows.columns]
            impressions = impressions.inner_join(self.rows, keys)
        rows = impressions.inner_join(self.asked(since, until), "request_id")
        return self.with_fresh(rows.mutate(item=_wide(rows.item_id)), fresh_on)

    def asked(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns what features need of the requests of some days.

        Returns:
          Columns request_id, query, user, those of `recipe.key_columns` that are of the request
          and, in a log whose time is looked at, time and period (the day).
        """
        requests = self.requests(since, until)
        times = {}
        if self.recipe.lag_days is not None:
            times = {"time": _wide(requests.timestamp), "period": day(requests.timestamp)}
        requests = requests.select(
            "request_id",
            **self._segments(requests),
            query=_wide(requests.query_id),
            user=_wide(requests.user_id),
            **times,
        )
        if self.recipe.query_form:
            forms = self.query_forms() if self.forms is None else self.forms
            requests = requests.inner_join(forms.select("query", "query_form"), "query")
        return requests

    def _day(self, requests: ir.Table) -> ir.IntegerValue:
        """Returns the day of requests; one and the same where their time is not looked at."""
        if self.recipe.lag_days is None:
            return ibis.literal(0, "int32")
        return day(requests.timestamp)

    def shown(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the `candidates` that users saw."""
        return self._seen(self.candidates(since, until))

    def _seen(self, candidates: ir.Table) -> ir.Table:
        if "stage" not in self.log.columns("impressions"):
            return candidates
        return candidates.filter(candidates.stage == STAGES[0])

    def raw_events(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the rows of the log's events that arrived on some days."""
        return between(self.log.table("events", self.backend), "arrival_time", since, until)

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
            "action",
            **self._segments(table),
            event_time=_wide(table.event_time),
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
        return self.with_fresh(table)

    def _segments(self, table: ir.Table) -> dict[str, ir.Column]:
        return {name: _wide(table[name]) for name in self.recipe.segments}

    def with_fresh(self, rows: ir.Table, on: int | None = None) -> ir.Table:
        """Adds column `fresh` to rows with columns item and period, where features ask for it.

        Args:
          rows: the rows.
          on: the day of which it tells; None: `period`.
        """
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

    @property
    def has_events(self) -> bool:
        """Whether engagements are the log's events."""
        return self.log.has_events and self.recipe.lag_days is not None

    def engagements(
        self,
        since: int | None = None,
        until: int | None = None,
        arrived: ir.Table | None = None,
    ) -> ir.Table:
        """Returns a row for everything that users did.

        Engagements are the events, on the day of their arrival; a log without events has them from
        the actions of its impressions, on the day of the request.

        Args:
          since, until: days.
          arrived: the events to read, of `events`; None for all of those days, copies too.

        Returns:
          Columns query, item, user, action, time, period, event_time, `recipe.key_columns`, and
          what puts those of one user and time in order, `tie_columns`.
        """
        columns = ["query", "item", "user", "action", "time", "period", "event_time"]
        columns += [*self.recipe.key_columns, *self.tie_columns]
        if self.has_events:
            arrived = self.events(since, until) if arrived is None else arrived
            return arrived.select(columns)
        candidates = self._at_their_request(self.candidates(since, until))
        parts = []
        for action in self.log.schema.actions:
            rows = candidates.filter(candidates[action].cast("boolean"))
            parts.append(rows.mutate(action=ibis.literal(action)).select(columns))
        return union(parts)

    def impressions_seen(self, since: int | None = None, until: int | None = None) -> ir.Table:
        """Returns the `shown` candidates as rows of action 'impression', like `engagements`."""
        shown = self._at_their_request(self.shown(since, until))
        return shown.mutate(action=ibis.literal(IMPLICIT_ACTION))

    def _at_their_request(self, candidates: ir.Table) -> ir.Table:
        time = candidates.time
        if self.recipe.lag_days is None:
            time = candidates.time * 0  # DuckDB would make a literal 0 narrower
        return candidates.mutate(
            event_time=time,
            request_id=_wide(candidates.request_id),
            position=_wide(candidates.position),
        )

    @property
    def tie_columns(self) -> tuple[str, ...]:
        """What puts engagements of one user and time in order, beside the item."""
        if self.has_events:
            return ("event_id",)
        # Out of fold each impression has a time of its own.
        return () if self.recipe.lag_days is None else ("request_id", "position")

    def counted(
        self,
        since: int | None = None,
        until: int | None = None,
        engagements: ir.Table | None = None,
    ) -> ir.Table:
        """Returns a row for everything that counts: engagements, and impressions where needed.

        Impressions that users saw are the action 'impression'.

        Args:
          since, until: days.
          engagements: those to count, of `engagements`; None for all of those days, copies too.

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
        engagements = self.engagements(since, until) if engagements is None else engagements
        parts = [engagements.mutate(**one).select(columns)]
        if recipe.counts_impressions:
            shown = self.impressions_seen(since, until)
            if recipe.is_weighted:
                shown = shown.mutate(weight=recipe.impression_weight_column(shown))
            parts.append(shown.select(columns))
        rows = union(parts)
        return capped(rows, recipe.user_day_cap) if recipe.user_day_cap else rows


def _wide(values: ir.Column) -> ir.Column:
    """Returns integers and flags as int64, others as is: nights, and tables, differ in width."""
    kind = values.type()
    return values.cast("int64") if kind.is_integer() or kind.is_boolean() else values


def check_event_columns(log: Log, segments: Sequence[str]) -> None:
    """Raises InputError where the events lack a column that a cross feature is segmented by."""
    for name in segments:
        if name not in log.columns("events"):
            raise InputError(
                f"config.data.cross.features: '{name}' is a segment, but the events have no column "
                f"'{name}'. Add it to the events (its value as of the event), or leave that "
                f"cross feature out."
            )
