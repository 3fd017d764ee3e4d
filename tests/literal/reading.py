"""Every value that depends on history, read from the log as the contract says it: a rule a method.

Slow on purpose: plain rows, loops over all of them, nothing shared with the package. A fault of the
package and the same fault here would have to be written twice. Tests that the comparison catches
faults override single rules.
"""

import dataclasses
from collections import Counter
from typing import Any

from tests.literal.encoding import float32, plain
from tests.literal.random_logs import RandomLog
from tests.literal.rows import IMPRESSION, TRAIN, Done, Row, Rows, day, ids


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request that features are asked for.

    Attributes:
      request: its row.
      fold: fold of the training rows of the example; None in evaluation, and where there is time.
    """

    request: Row
    fold: int | None = None


class Reading(Rows):
    """The features of any request of a log; arguments as for `Rows`."""

    def __init__(self, log: RandomLog, options: Any, split_of: dict[tuple[str, str], str]):
        super().__init__(log, options, split_of)
        self.done = list(self.engagements())
        self.shown = list(self.impressions_shown())
        self.counted = self.within_cap(self.done) + self.within_cap(self.shown)
        self._counts: dict[Any, float] = {}
        self._means: dict[Any, tuple[float, float]] = {}
        self._rows_of: dict[Any, list[Done]] = {}
        for row in self.counted:
            self._rows_of.setdefault((row.action, None), []).append(row)
            self._rows_of.setdefault((row.action, row.item), []).append(row)

    # What a request may use.

    def may_use_fold(self, asked: Asked, fold: int | None) -> bool:
        """A training row may use the training rows of other folds, an evaluation row all."""
        return asked.fold is None or fold != asked.fold

    def known_until(self, asked: Asked) -> int:
        """A user's history at t holds what arrived at or before t - delay_s."""
        return self.time(asked.request) - self.options.history.delay_s

    def last_day(self, asked: Asked) -> int:
        """Counts at t end `lag_days` before day(t), that day included."""
        return day(self.time(asked.request)) - self.cross.lag_days

    def first_day(self, asked: Asked, window: int) -> int:
        """A window of w days begins after day(t) - lag_days - w."""
        return self.last_day(asked) - window + 1

    def past_of_user(self, asked: Asked, rows: list[Done]) -> list[Done]:
        """What the request's user did, as far as the request may know of it."""
        rows = [row for row in rows if row.user == asked.request["user_id"]]
        if self.timeless:
            return [row for row in rows if self.may_use_fold(asked, row.fold)]
        return [row for row in rows if row.time <= self.known_until(asked)]

    # The features.

    def user_history(self, asked: Asked) -> list[list[tuple[str, int, float]]]:
        """Item, action and age of the last things the user did, in groups that arrived at once.

        The latest group comes first; within a group any order will do. Actions are numbered from 1
        in the schema's order, ages are hours from the event to the request.
        """
        groups: dict[int, list[tuple[str, int, float]]] = {}
        for row in self.past_of_user(asked, self.done):
            if row.action in self.options.history.actions:
                action = 1 + self.log.schema.actions.index(row.action)
                age = float32((self.time(asked.request) - row.event_time) / 3600)
                groups.setdefault(row.time, []).append((plain(row.item), action, age))
        return [groups[time] for time in sorted(groups, reverse=True)]

    def query_history(self, asked: Asked) -> dict[str, int]:
        """How often each item was engaged for the query, ever: no window, and no cap."""
        counts: Counter = Counter()
        for row in self.done:
            is_usable = (
                self.may_use_fold(asked, row.fold)
                if self.timeless
                else day(row.time) <= self.last_day(asked)
            )
            if is_usable and row.keys["query"] == asked.request["query_id"]:
                counts[plain(row.item)] += row.action in self.options.query_history.actions
        return {item: count for item, count in counts.items() if count}

    def user_rate(self, asked: Asked, action: str) -> tuple[float, float]:
        """Count c of an action of the user, and its rate (c - m n) / (n + 5).

        n is how many impressions the user saw, m the mean of the action over training's.
        """
        count = sum(row.action == action for row in self.past_of_user(asked, self.done))
        shown = len(self.past_of_user(asked, self.shown))
        mean, _ = self.training_means_once(asked, action)
        return float32(count), float32((count - mean * shown) / (shown + 5.0))

    def training_means(self, asked: Asked, action: str) -> tuple[float, float]:
        """Means of an action and of the weights, over training's impressions that users saw.

        Where the split is random, over those that the request may use. Caps do not matter.
        """
        rows = [
            row
            for row in self.log.tables["impressions"]
            if self.split_of[ids(row)] == TRAIN
            and self.was_seen(row)
            and self.may_use_fold(asked, self.fold_of.get(ids(row)))
        ]
        if not rows:
            return 0.0, 0.0
        weight = sum(self.impression_weight(row) for row in rows)
        return sum(bool(row[action]) for row in rows) / len(rows), weight / len(rows)

    def levels(self, name: str) -> list[tuple[str, ...]]:
        """Keys of a feature and of what it backs off to, from fine to coarse, without the item.

        Within its segment, over all segments, for the query's form.
        """
        kind, _, _, *segment = name.split(":")
        query = [] if kind.startswith("item_") else ["query"]
        levels = [(*query, *segment)]
        if self.cross.backoff.strength and segment:
            levels.append(tuple(query))
        if self.cross.backoff.strength and query and self.cross.backoff.query_form:
            levels.append(("query_form",))
        return levels

    def count(self, asked: Asked, keys: dict[str, Any], action: str, window: int) -> float:
        """Sum of the weights of what an action was done with these keys, in a window of days.

        Of weights only impressions have others than 1. Where the split is random there are no days.
        """
        period = asked.fold if self.timeless else self.last_day(asked)
        name = (period, tuple(sorted(keys.items())), action, window)
        if name not in self._counts:
            rows = self._rows_of.get((action, keys.get("item")), ())
            self._counts[name] = sum(
                row.weight
                for row in rows
                if all(value is not None and row.keys[key] == value for key, value in keys.items())
                and (
                    self.may_use_fold(asked, row.fold)
                    if self.timeless
                    else self.first_day(asked, window) <= day(row.time) <= self.last_day(asked)
                )
            )
        return self._counts[name]

    def counts(self, asked: Asked, item: Any, name: str) -> list[tuple[float, float]]:
        """Count and total of each level of a feature.

        A share is of all that was done with its keys, a rate of the impressions of the item.
        """
        kind, action, days, *_ = name.split(":")
        request = asked.request
        keys_of_row = self.keys(request, request["query_id"], item, day(self.time(request)))
        result = []
        for level in self.levels(name):
            without = {key: keys_of_row[key] for key in level}
            keys = {**without, "item": item}
            count = self.count(asked, keys, action, int(days))
            if kind.endswith("rate"):
                total = self.count(asked, keys, IMPRESSION, int(days))
            else:
                total = self.count(asked, without, action, int(days))
            result.append((count, total))
        return result

    def cross_value(self, asked: Asked, item: Any, name: str) -> float:
        """v_0 = e_0 / (n_0 + prior), v_j = (e_j + k v_{j-1}) / (n_j + k); level 0 is the coarsest.

        Of a share e is the count, of a rate what the count exceeds m n by, m being the mean rate.
        """
        kind, action, *_ = name.split(":")
        mean = 0.0
        if kind.endswith("rate"):
            mean, weight = self.training_means_once(asked, action)
            mean /= weight or 1.0
        value = None
        for count, total in reversed(self.counts(asked, item, name)):
            excess = count - mean * total
            if value is None:
                value = excess / (total + self.cross.prior)
            else:
                strength = self.cross.backoff.strength
                value = (excess + strength * value) / (total + strength)
        return float32(value)

    def training_means_once(self, asked: Asked, action: str) -> tuple[float, float]:
        """Does what `training_means` does, which a request and every other of its fold share."""
        name = asked.fold, action
        if name not in self._means:
            self._means[name] = self.training_means(asked, action)
        return self._means[name]
