"""User histories: what each user had done at a request, looked up in arrays of timelines.

One rule (`known_until`): a request at t may use what arrived at or before t - delay. Where there is
no time, a training row may use the training rows of other folds, and an evaluation row all of them.

Needs numpy only, so that serving looks them up by the same code.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

NO_FOLD = -1  # evaluation rows: no training row is theirs
IMPRESSION = -1  # the code of 'impression' among those of the actions, 0, 1, ...
SECONDS_PER_HOUR = 3600
_ALWAYS = np.iinfo(np.int64).max


def known_until(timestamp: np.ndarray, delay_s: int) -> np.ndarray:
    """Returns the last second whose arrivals a request at `timestamp` may use."""
    return timestamp - delay_s


class Timelines:
    """Timelines as arrays, one row per engagement, by user and then arrival.

    A user's past is one range of rows; a lookup costs a binary search in that range.

    Attributes:
      item: `[E]` row of the item store.
      action: `[E]` index of the action, or `IMPRESSION`.
      time, event_time: `[E]` seconds of arrival and of the event.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], users: int, start: np.ndarray | None = None
    ):
        """Takes the arrays as they are.

        Args:
          arrays: `user`, `item`, `action`, `time`, `event_time` and, out of fold, `period`.
          users: U.
          start: `[U + 1]` first row of each user, if it is known; `user` may then be absent unless
            some of the rows are to be selected.
        """
        self._arrays = arrays
        self.item, self.action = arrays["item"], arrays["action"]
        self.time, self.event_time = arrays["time"], arrays["event_time"]
        if start is None:
            start = np.searchsorted(arrays["user"], np.arange(users + 1))
        self._start = start
        self._running: dict[int, np.ndarray] = {}

    def users(self) -> np.ndarray:
        """Returns the user of each row, `[E]`."""
        return self._arrays["user"]

    def visible_to(self, fold: int) -> "Timelines":
        """Returns the timelines that a row of a fold may use: training rows of other folds."""
        return self._take(self._arrays["period"] != fold)

    def select(self, actions: Sequence[int]) -> "Timelines":
        """Returns the timelines of some actions."""
        chosen = np.isin(self.action, np.asarray(actions, np.int8))
        return self if chosen.all() else self._take(chosen)

    def _take(self, chosen: np.ndarray) -> "Timelines":
        arrays = {name: array[chosen] for name, array in self._arrays.items()}
        return Timelines(arrays, len(self._start) - 1)

    def running_count(self, action: int) -> np.ndarray:
        """Returns `[E + 1]` how many of the first rows are of an action."""
        if action not in self._running:
            self._running[action] = np.concatenate([[0], np.cumsum(self.action == action)])
        return self._running[action]

    def range_until(self, user: np.ndarray, until: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns first row and end `[N]` of what each user had done `until` then."""
        start, end = self._start[user], self._start[user + 1]
        low, high = start.copy(), end.copy()
        # All binary searches advance together.
        while (open_ranges := np.flatnonzero(low < high)).size:
            middle = (low[open_ranges] + high[open_ranges]) // 2
            is_known = self.time[middle] <= until[open_ranges]
            low[open_ranges] = np.where(is_known, middle + 1, low[open_ranges])
            high[open_ranges] = np.where(is_known, high[open_ranges], middle)
        return start, low


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


class UserHistory:
    """The user's past for any request, timed or out of fold.

    Args:
      timelines: of the users who ask.
      actions: indices of the actions that enter histories (counts take all).
      length: L.
      delay_s: see `known_until`; None where there is no time.
      folds: number of folds, where there is no time.
    """

    def __init__(
        self,
        timelines: Timelines,
        *,
        actions: Sequence[int],
        length: int,
        delay_s: int | None,
        folds: int = 0,
    ):
        self._length, self._delay_s = length, delay_s
        by_fold = {NO_FOLD: timelines}
        if delay_s is None:
            by_fold = {fold: timelines.visible_to(fold) for fold in range(NO_FOLD, folds)}
        self._all = by_fold
        self._chosen = {fold: part.select(actions) for fold, part in by_fold.items()}

    def last(self, user: np.ndarray, timestamp: np.ndarray, fold: np.ndarray) -> History:
        """Returns the padded histories `[N, L]` of requests.

        Args:
          user: `[N]` codes of the users.
          timestamp: `[N]` seconds of the requests.
          fold: `[N]`; `NO_FOLD` in evaluation and where there is time.
        """
        shape = (len(user), self._length)
        item, action = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        age = np.zeros(shape, np.float32)
        for key, requests in self._by_fold(fold):
            requests = requests[np.argsort(user[requests], kind="stable")]  # page by page
            timelines = self._chosen[key]
            start, end = timelines.range_until(user[requests], self._until(timestamp[requests]))
            rows = end[:, None] - 1 - np.arange(self._length)
            row, column = np.nonzero(rows >= start[:, None])
            rows = rows[row, column]
            row = requests[row]
            item[row, column] = timelines.item[rows]
            action[row, column] = timelines.action[rows].astype(np.int32) + 1
            age[row, column] = (timestamp[row] - timelines.event_time[rows]) / SECONDS_PER_HOUR
        return History(item, action, age)

    def counts(
        self, user: np.ndarray, timestamp: np.ndarray, fold: np.ndarray, actions: Sequence[int]
    ) -> np.ndarray:
        """Returns how often each user had done each action, int64 `[N, A]`; as of the same."""
        result = np.zeros((len(user), len(actions)), np.int64)
        for key, requests in self._by_fold(fold):
            timelines = self._all[key]
            start, end = timelines.range_until(user[requests], self._until(timestamp[requests]))
            for column, action in enumerate(actions):
                running = timelines.running_count(action)
                result[requests, column] = running[end] - running[start]
        return result

    def _until(self, timestamp: np.ndarray) -> np.ndarray:
        if self._delay_s is None:
            return np.full(len(timestamp), _ALWAYS)
        return known_until(timestamp, self._delay_s)

    def _by_fold(self, fold: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for key in self._all:
            requests = np.flatnonzero(fold == key)
            if len(requests):
                yield key, requests
