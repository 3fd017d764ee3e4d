"""What counts: who did what when, read from the log as the contract says it, one rule a method."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.literal.encoding import float32, form, plain
from tests.literal.random_logs import DAY, RandomLog

Row = dict[str, Any]
IMPRESSION = "impression"
TRAIN = "train"


@dataclasses.dataclass(frozen=True)
class Done:
    """One thing that a user did to an item, or an impression that the user saw.

    Attributes:
      user, item, action: ids and a name; the action of an impression is IMPRESSION.
      time: seconds when it became known; 0 where nothing is as of anything.
      event_time: seconds when it happened.
      weight: what it counts.
      fold: of the training row that it comes from, where the split is random.
      keys: what it can be counted by: query, item, segments, query_form, fresh; None is unknown.
    """

    user: Any
    item: Any
    action: str
    time: int
    event_time: int
    weight: float
    fold: int | None
    keys: dict[str, Any]


def day(seconds: int) -> int:
    """UTC days since 1970."""
    return seconds // DAY


class Rows:
    """The rows of a log that count, and what they can be counted by.

    Args:
      log: the log.
      options: of `random_configs`, defaults included, nested as in `config.data`.
      split_of: the split in which each impression landed, by plain request and item id.
    """

    def __init__(self, log: RandomLog, options: Any, split_of: dict[tuple[str, str], str]):
        self.log, self.options, self.cross = log, options, options.cross
        self.split_of = split_of
        self.timeless = options.protocol == "clean_random"
        self.requests = {row["request_id"]: row for row in log.tables["requests"]}
        self.by_plain_id = {plain(key): row for key, row in self.requests.items()}
        self.created = {row["item_id"]: row.get("created_at") for row in log.tables["items"]}
        self.forms = self.forms_of_queries()
        self.fold_of = self.folds() if self.timeless else {}

    def time(self, request: Row) -> int:
        """The second of a request; where the split is random nobody looks at it."""
        return 0 if self.timeless else request["timestamp"]

    def is_usable(self, impression: Row) -> bool:
        """With time all rows count, each as of a request; at random, training rows alone do."""
        return not self.timeless or self.split_of[ids(impression)] == TRAIN

    def was_seen(self, impression: Row) -> bool:
        """Candidates of other stages than 'shown' were never seen; without stages all were."""
        return impression.get("stage", "shown") == "shown"

    def impression_weight(self, impression: Row) -> float:
        """What an impression counts: 1, its propensity or its position's weight, in 1/128."""
        debias = self.cross.debias
        if debias.name == "none":
            return 1.0
        if debias.name == "propensity":
            smallest = float32(debias.smallest_propensity)
            value = max(float32(impression["propensity"]), smallest)
        else:
            weights = debias.position_weights
            value = weights[min(impression["position"], len(weights) - 1)]
        return math.floor(value * 128 + 0.5) / 128

    def engagements(self) -> Iterator[Done]:
        """What users did: the events, by arrival; else the impressions' actions, at the request."""
        if self.log.events and not self.timeless:
            for event in self.first_copies():
                yield self.of_event(event)
            return
        for impression in self.usable_impressions():
            for action in self.log.schema.actions:
                if impression[action]:
                    yield self.of_impression(impression, action, 1.0)

    def impressions_shown(self) -> Iterator[Done]:
        """The impressions that users saw, each at its request."""
        for impression in self.usable_impressions():
            if self.was_seen(impression):
                weight = self.impression_weight(impression)
                yield self.of_impression(impression, IMPRESSION, weight)

    def usable_impressions(self) -> list[Row]:
        """The impressions that count."""
        return [row for row in self.log.tables["impressions"] if self.is_usable(row)]

    def first_copies(self) -> list[Row]:
        """Each event once: the copy that arrived first, then happened first.

        Of those the first by item, action, query (none before any), user and segments by name.
        """
        segments = sorted(self.segments())
        first: dict[Any, Row] = {}
        for event in sorted(self.log.events, key=lambda event: (
            event["arrival_time"],
            event["event_time"],
            event["item_id"],
            event["action"],
            _none_first(event["query_id"]),
            event["user_id"],
            *(event[name] for name in segments),
        )):  # fmt: skip
            first.setdefault(event["event_id"], event)
        return list(first.values())

    def segments(self) -> list[str]:
        """Columns of the log that cross features are counted within."""
        names = {name.split(":")[3] for name in self.cross.features if name.count(":") == 3}
        return [name for name in names if name != "fresh"]

    def of_event(self, event: Row) -> Done:
        """An event counts from its arrival on, in the segments that it names itself."""
        time = event["arrival_time"]
        return Done(
            event["user_id"], event["item_id"], event["action"], time, event["event_time"],
            1.0, None, self.keys(event, event["query_id"], event["item_id"], day(time)),
        )  # fmt: skip

    def of_impression(self, impression: Row, action: str, weight: float) -> Done:
        """An impression's action counts from its request on, in the segments of that."""
        request = self.requests[impression["request_id"]]
        time, item = self.time(request), impression["item_id"]
        return Done(
            request["user_id"], item, action, time, time, weight,
            self.fold_of.get(ids(impression)),
            self.keys(request, request["query_id"], item, day(time)),
        )  # fmt: skip

    def keys(self, row: Row, query: Any, item: Any, on: int) -> dict[str, Any]:
        """What a row of a day can be counted by."""
        return {
            **{name: row[name] for name in self.segments()},
            "query": query,
            "item": item,
            "query_form": self.form_on(query, on),
            "fresh": self.is_fresh(item, on),
        }

    def is_fresh(self, item: Any, on: int) -> bool:
        """An item is fresh for `fresh_days` from its creation on, and before; else it is not."""
        created = self.created[item]
        return created is not None and on - day(created) < self.cross.fresh_days

    def forms_of_queries(self) -> dict[Any, tuple[int, str | None]]:
        """First day and form of each query: of that day's text, the first in order.

        A text without words has no form.
        """
        column = self.cross.backoff.query_form
        texts: dict[Any, tuple[int, str]] = {}
        for request in self.requests.values() if column else ():
            first = day(self.time(request)), plain(request[column])
            query = request["query_id"]
            texts[query] = min(texts.get(query, first), first)
        return {query: (on, form(text) or None) for query, (on, text) in texts.items()}

    def form_on(self, query: Any, on: int) -> str | None:
        """A query has its form from the day on when it was first asked."""
        first, text = self.forms.get(query, (0, None))
        return text if first <= on else None

    def within_cap(self, rows: list[Done]) -> list[Done]:
        """Of a user's rows of one action on one day the first `user_day_cap` count; 0: all.

        Of one second those of the first items go first, then queries, then small weights.
        """
        cap = self.cross.user_day_cap
        rows = sorted(rows, key=lambda row: (
            row.time, row.item, _none_first(row.keys["query"]), row.weight
        ))  # fmt: skip
        number: Counter = Counter()
        result = []
        for row in rows:
            group = row.user, row.action, day(row.time)
            number[group] += 1
            if not cap or number[group] <= cap:
                result.append(row)
        return result

    def folds(self) -> dict[tuple[str, str], int]:
        """The fold of each training impression: of equal size, by a seeded permutation.

        The permutation is numpy's; rows are numbered by request, position and item. The examples
        show which rows of a request share a fold, but not its number.
        """
        rows = self.usable_impressions()
        rows.sort(key=lambda row: (row["request_id"], row["position"], row["item_id"]))
        shuffled = np.random.default_rng([self.options.seed, 3]).permutation(len(rows)).tolist()
        return {
            ids(row): number % self.options.folds
            for row, number in zip(rows, shuffled, strict=True)
        }


def ids(impression: Row) -> tuple[str, str]:
    """An impression's request and item, as the examples name them."""
    return plain(impression["request_id"]), plain(impression["item_id"])


def _none_first(value: Any) -> tuple:
    return (value is not None, value) if value is not None else (False,)
