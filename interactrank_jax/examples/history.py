"""What was known at the request: the user's last engagements, counts of them, and the items most
engaged for the query.

One rule (`known_until`): a request at t may use what arrived at or before t - delay_s. Timeless
data has no t: there a training row may use the training rows of other folds, and an evaluation row
all training rows.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from interactrank_jax.examples.engagements import Engagements
from interactrank_jax.examples.format import Feature
from interactrank_jax.examples.frames import day
from interactrank_jax.log.values import group_ids

NO_FOLD = -1  # evaluation rows: no training row is theirs
RATE_PRIOR = 5.0
_ALWAYS = np.iinfo(np.int64).max // 2


def known_until(timestamp: np.ndarray, delay_s: int) -> np.ndarray:
    """Returns the last second whose arrivals a request at `timestamp` may use."""
    return timestamp - delay_s


@dataclasses.dataclass(frozen=True)
class History:
    """Padded histories of N requests, most recent first.

    Attributes:
      item: `[N, L]` int32 rows of the item store, 0 is padding.
      action: `[N, L]` int32, 1 + index into the actions, 0 is padding.
      age: `[N, L]` float32 hours between event and request, 0 where padded.
    """

    item: np.ndarray
    action: np.ndarray
    age: np.ndarray


class UserTimeline:
    """Engagements by user, then arrival, so that a user's past is one range of rows.

    The constructor sorts once; a lookup costs one binary search per request.
    """

    def __init__(self, engagements: Engagements, users: int):
        engagements = engagements.take(engagements.user >= 0)
        # Stable: what arrived in the same second stays in the order that it came in.
        order = np.lexsort((engagements.time, engagements.user))
        self._item = engagements.item[order]
        self._action = engagements.action[order]
        self._event_time = engagements.event_time[order]
        user, time = engagements.user[order].astype(np.int64), engagements.time[order]
        self._first_time = int(time.min(initial=0))
        self._span = int(time.max(initial=0)) - self._first_time + 2
        self._key = user * self._span + (time - self._first_time + 1)
        self._start = np.searchsorted(user, np.arange(users))

    def _range(self, user: np.ndarray, until: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns first row and end `[N]` of what each user had done `until` then."""
        offset = np.clip(until - self._first_time + 1, 0, self._span - 1)
        key = user.astype(np.int64) * self._span + offset
        return self._start[user], np.searchsorted(self._key, key, side="right")

    def last(
        self, user: np.ndarray, until: np.ndarray, timestamp: np.ndarray, length: int
    ) -> History:
        """Returns the last `length` engagements of each user as of `until`.

        Args:
          user: `[N]` user positions.
          until: `[N]` seconds, see `known_until`.
          timestamp: `[N]` seconds of the request, for ages.
          length: L.
        """
        start, end = self._range(user, until)
        row = end[:, None] - 1 - np.arange(length)
        valid = row >= start[:, None]
        row = np.where(valid, row, 0)
        if not len(self._item):
            empty = np.zeros(row.shape, np.int32)
            return History(empty, empty, empty.astype(np.float32))
        age = (timestamp[:, None] - self._event_time[row]) / 3600
        return History(
            item=np.where(valid, self._item[row], 0).astype(np.int32),
            action=np.where(valid, self._action[row].astype(np.int32) + 1, 0).astype(np.int32),
            age=np.where(valid, age, 0).astype(np.float32),
        )

    def counts(self, user: np.ndarray, until: np.ndarray, actions: Sequence[int]) -> np.ndarray:
        """Returns how often each user had done each action as of `until`, int64 `[N, A]`."""
        start, end = self._range(user, until)
        result = np.zeros((len(user), len(actions)), np.int64)
        for column, action in enumerate(actions):
            running = np.concatenate([[0], np.cumsum(self._action == action)])
            result[:, column] = running[end] - running[start]
        return result


class UserHistory:
    """The user's past for any request, timed or out of fold.

    Args:
      engagements: all of them, impressions too where they are counted. Those of one second (all,
        where timeless) are in an order that no label has a part in.
      users: number of users.
      actions: indices of the actions that enter histories (counts take all).
      length: L.
      delay_s: see `known_until`; None where the data is timeless.
      folds: number of folds, timeless only.
    """

    def __init__(
        self,
        engagements: Engagements,
        *,
        users: int,
        actions: Sequence[int],
        length: int,
        delay_s: int | None,
        folds: int = 0,
    ):
        self._length, self._delay_s = length, delay_s
        timeless = delay_s is None
        in_history = np.isin(engagements.action, np.asarray(actions, np.int8))
        self._all: dict[int, UserTimeline] = {}
        self._chosen: dict[int, UserTimeline] = {}
        for fold in range(-1, folds) if timeless else [NO_FOLD]:
            visible = visible_to(engagements.fold, fold) if timeless else np.ones_like(in_history)
            self._all[fold] = UserTimeline(engagements.take(visible), users)
            self._chosen[fold] = UserTimeline(engagements.take(visible & in_history), users)

    def _until(self, timestamp: np.ndarray) -> np.ndarray:
        if self._delay_s is None:
            return np.full(len(timestamp), _ALWAYS)
        return known_until(timestamp, self._delay_s)

    def last(self, user: np.ndarray, timestamp: np.ndarray, fold: np.ndarray) -> History:
        """Returns the padded histories `[N, L]` of requests by `user` at `timestamp`, in `fold`."""
        shape = (len(user), self._length)
        result = History(
            np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        )
        for key, rows in self._by_fold(fold):
            part = self._chosen[key].last(
                user[rows], self._until(timestamp[rows]), timestamp[rows], self._length
            )
            for field in dataclasses.fields(History):
                getattr(result, field.name)[rows] = getattr(part, field.name)
        return result

    def counts(
        self, user: np.ndarray, timestamp: np.ndarray, fold: np.ndarray, actions: Sequence[int]
    ) -> np.ndarray:
        """Returns the number of engagements by action, int64 `[N, A]`, as of the same."""
        result = np.zeros((len(user), len(actions)), np.int64)
        for key, rows in self._by_fold(fold):
            result[rows] = self._all[key].counts(user[rows], self._until(timestamp[rows]), actions)
        return result

    def _by_fold(self, fold: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for key in self._all:
            rows = np.flatnonzero(fold == key)
            if len(rows):
                yield key, rows


def visible_to(engagement_fold: np.ndarray, fold: int) -> np.ndarray:
    """Returns which training rows a row of `fold` may use: those of other folds."""
    return engagement_fold != fold


def mean_over_visible(values: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    """Means of training rows, out of fold.

    Args:
      values: `[N, A]`.
      fold: `[N]` fold of each row.
      folds: number of folds; 0 where there is time.

    Returns:
      float64 `[folds + 1, A]`: row f over what fold f may use, and the last row (`NO_FOLD`) over
      all; 0 where there is nothing.
    """
    result = np.zeros((folds + 1, values.shape[1]))
    for key in (*range(folds), NO_FOLD):
        visible = values[visible_to(fold, key)] if folds else values
        result[key] = visible.mean(axis=0) if len(visible) else 0
    return result


def rate_names(actions: Sequence[str], rates: Sequence[int]) -> tuple[Feature, ...]:
    """Returns the features that `rate_features` makes, in its order."""
    return tuple(
        Feature(f"user_{what}_{actions[action]}", "user", "numeric")
        for action in rates
        for what in ("count", "rate")
    )


def rate_features(
    counts: np.ndarray, shown: np.ndarray, actions: Sequence[int], mean_rate: np.ndarray
) -> np.ndarray:
    """Returns what a user did so far as numbers: per action its count c and its rate.

    The rate is (c - m n) / (n + 5): how much more than others a user does it of the n items that
    the user was shown, shrunk. Cross features of kind `rate` say the same of an item.

    Args:
      counts: `[N, A]` engagements by action.
      shown: `[N]` n.
      actions: indices of the actions to describe.
      mean_rate: `[N, A]` m, the share of shown items with each action in training.

    Returns:
      float32 `[N, 2 * len(actions)]`: count and rate of the first action, and so on; zeros for a
      user never seen.
    """
    columns = []
    for action in actions:
        expected = mean_rate[:, action] * shown
        columns += [counts[:, action], (counts[:, action] - expected) / (shown + RATE_PRIOR)]
    return (
        np.stack(columns, axis=1).astype(np.float32)
        if columns
        else np.zeros((len(counts), 0), np.float32)
    )


class QueryHistory:
    """The items most engaged for a query, as of a period.

    Timed: counts over all days at or before day(t) - lag_days. Timeless: over the training rows of
    other folds. Equal counts are ordered by item row.

    Args:
      engagements: all of them; those without a query are left out.
      actions: indices of the actions to count.
      length: Lq.
      lag_days: None where the data is timeless.
    """

    def __init__(
        self,
        engagements: Engagements,
        *,
        actions: Sequence[int],
        length: int,
        lag_days: int | None,
    ):
        self._length, self._lag_days = length, lag_days
        chosen = np.isin(engagements.action, np.asarray(actions, np.int8))
        engagements = engagements.take(chosen & (engagements.query >= 0))
        period = engagements.fold if lag_days is None else day(engagements.time)
        columns = (engagements.query, period, engagements.item)
        group, first = group_ids(columns)
        self._query, self._period, self._item = (column[first] for column in columns)
        self._count = np.bincount(group, minlength=len(first))

    def top(self, query: np.ndarray, period: np.ndarray) -> np.ndarray:
        """Returns the most engaged items of each query, int32 `[N, Lq]`, padded with 0.

        Args:
          query: `[N]` query positions.
          period: `[N]` day of the request; its fold where timeless (`NO_FOLD` in evaluation).
        """
        group, first = group_ids((query, period))
        result = np.zeros((len(first), self._length), np.int32)
        asked, when = query[first], period[first]
        sweep = self._out_of_fold if self._lag_days is None else self._as_of
        starts = np.searchsorted(self._query, asked, side="left")
        ends = np.searchsorted(self._query, asked, side="right")
        # Groups are sorted by query, then period: one sweep per query that has any past.
        bounds = np.flatnonzero(np.diff(asked, prepend=-1))
        for low, high in zip(bounds, [*bounds[1:], len(asked)], strict=True):
            rows = slice(starts[low], ends[low])
            if rows.start < rows.stop:
                items, local = np.unique(self._item[rows], return_inverse=True)
                sweep(items, local, self._period[rows], self._count[rows], when[low:high],
                      result[low:high])  # fmt: skip
        return result[group]

    def _as_of(
        self,
        items: np.ndarray,
        local: np.ndarray,
        days: np.ndarray,
        counts: np.ndarray,
        when: np.ndarray,
        result: np.ndarray,
    ) -> None:
        """Walks over the days of one query with a running count of its items."""
        assert self._lag_days is not None
        running = np.zeros(len(items), np.int64)
        done = 0
        for row, end in enumerate(np.searchsorted(days, when - self._lag_days, side="right")):
            if end > done:
                np.add.at(running, local[done:end], counts[done:end])
                done = end
                self._rank(items, running, result[row])
            elif row:
                result[row] = result[row - 1]

    def _out_of_fold(
        self,
        items: np.ndarray,
        local: np.ndarray,
        folds: np.ndarray,
        counts: np.ndarray,
        when: np.ndarray,
        result: np.ndarray,
    ) -> None:
        """Counts the rows of one query that each fold may use."""
        for row, fold in enumerate(when):
            visible = visible_to(folds, fold)
            running = np.bincount(local[visible], counts[visible], len(items)).astype(np.int64)
            self._rank(items, running, result[row])

    def _rank(self, items: np.ndarray, counts: np.ndarray, result: np.ndarray) -> None:
        """Writes the items of the highest counts, zero counts left out."""
        seen = np.flatnonzero(counts)
        if len(seen) > 4 * self._length:
            # All that tie with the last place stay in, so that item order decides among them.
            place = len(seen) - self._length
            seen = seen[counts[seen] >= np.partition(counts[seen], place)[place]]
        best = seen[np.argsort(-counts[seen], kind="stable")][: self._length]
        result[: len(best)] = items[best]
