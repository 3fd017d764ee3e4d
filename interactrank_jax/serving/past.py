"""What history knows of the requests of a bundle's day: cross features, queries, users.

`export` writes what the lookups read, from STATE as of the day and by the code that prepares
examples. What users did after STATE ends comes with the requests, as fresh events.

    cross/fresh.npy             int8 `[I]` 1 for items that are fresh on the day, if features ask
    cross/NAME/groups/          keys that a table is asked with beside the item (`KeyIndex`)
    cross/NAME/pair.npy         int64 `[N]`, group << 32 | item row, ascending
    cross/NAME/value.npy        float32 `[N, F]`
    queries/ids, item.npy       query ids; int32 `[Q, Lq]` rows of the items most engaged
    forms/ids, form.arrow       query ids; their normalized queries
    users/ids, start.npy        user ids; `[U + 1]` first row of each user's timeline
    users/{item,action,time,event_time}.npy      timelines, by user and arrival
    users/count.npy             int64 `[U, A + 1]` earlier engagements by action, impressions last
    users/recent/...            timelines of what arrived within the delay before the day
    users/seen.npy              uint64, hashes of the ids of all events, ascending
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from interactrank_jax.log.values import words
from interactrank_jax.serving.keys import KeyIndex, open_array
from interactrank_jax.state.histories import IMPRESSION, NO_FOLD, History, Timelines, UserHistory

SHIFT = 32  # of the group in a pair
FRESH, FORM = "fresh", "query_form"


def normalized_query(text: str) -> str:
    """Returns the words of a text, each once and sorted."""
    return " ".join(sorted(set(words(text))))


@dataclasses.dataclass(frozen=True)
class CrossTable:
    """Features that are asked for by some keys and the item.

    Attributes:
      keys: columns that must match beside the item.
      names: the features.
      groups: the keys that anything is known of; None where there are none to match.
      pair: `[N]` group and item row in one number, ascending.
      value: `[N, F]`.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    groups: KeyIndex | None
    pair: np.ndarray
    value: np.ndarray

    @classmethod
    def open(cls, directory: Path, keys: Sequence[str], names: Sequence[str]) -> "CrossTable":
        """Opens a table."""
        groups = KeyIndex.open(directory / "groups") if keys else None
        pair = open_array(directory / "pair.npy", (rows(directory / "pair.npy"),), "i")
        value = open_array(directory / "value.npy", (len(pair), len(names)), "f")
        return cls(tuple(keys), tuple(names), groups, pair, value)

    def group(self, columns: Mapping[str, pa.Array]) -> np.ndarray:
        """Returns the group that each of R requests asks with, `[R]`; -1 for none."""
        if self.groups is None:
            return np.zeros(len(next(iter(columns.values()))), np.int64)
        return self.groups.find(*(columns[key] for key in self.keys))

    def look_up(self, group: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Returns the values of items for groups, `[..., F]`; zeros where there are none.

        Args:
          group, item: `[...]` each.
        """
        wanted = group << SHIFT | item
        at = np.searchsorted(self.pair, wanted.reshape(-1)).reshape(wanted.shape)
        inside = (at < len(self.pair)) & (group >= 0)
        at = np.where(inside, at, 0)
        if len(self.pair):
            inside &= self.pair[at] == wanted
        values = np.zeros((*wanted.shape, len(self.names)), np.float32)
        values[inside] = self.value[at[inside]]
        return values

    def items(self, group: int) -> np.ndarray:
        """Returns the rows of the items that a group has values for."""
        if group < 0:
            return np.zeros(0, np.int64)
        first, end = np.searchsorted(self.pair, [group << SHIFT, (group + 1) << SHIFT])
        return np.asarray(self.pair[first:end]) & ((1 << SHIFT) - 1)


class CrossFeatures:
    """The cross features of a bundle.

    A feature with a back-off is in a table for each of its levels. Its value is that of the finest
    level whose keys are in their table at all; where that has no such item, it is 0.

    Args:
      chains: by name of each feature, in order, the keys of its levels, from fine to coarse.
      tables: by keys.
      fresh: `[I]` 1 for items that are fresh on the bundle's day, where features ask for it.
    """

    def __init__(
        self,
        chains: Mapping[str, Sequence[tuple[str, ...]]],
        tables: Mapping[tuple[str, ...], CrossTable],
        fresh: np.ndarray | None,
    ):
        self._chains, self._tables, self._fresh = chains, tables, fresh

    @property
    def names(self) -> tuple[str, ...]:
        """The K features, in order."""
        return tuple(self._chains)

    def groups(self, columns: Mapping[str, pa.Array]) -> dict[tuple[str, ...], np.ndarray]:
        """Returns by the keys of each table the groups that requests ask with, `[R, 2]`.

        The first is for items that are not fresh, the second for those that are.
        """
        result = {}
        for keys, table in self._tables.items():
            if FRESH not in keys:
                group = table.group(columns)
                result[keys] = np.stack([group, group], 1)
                continue
            count = len(next(iter(columns.values())))
            flags = (pa.array(np.full(count, flag, np.int64)) for flag in (0, 1))
            both = [table.group({**columns, FRESH: flag}) for flag in flags]
            result[keys] = np.stack(both, 1)
        return result

    def values(self, groups: Mapping[tuple[str, ...], np.ndarray], item: np.ndarray) -> np.ndarray:
        """Returns the features of R requests with C items each, `[R, C, K]`.

        Args:
          groups: of `groups`.
          item: `[R, C]` rows.
        """
        flag = np.zeros(item.shape, np.int64)
        if self._fresh is not None:
            flag = self._fresh[item].astype(np.int64)
        has_group, values = {}, {}
        for keys, table in self._tables.items():
            group = np.take_along_axis(groups[keys], flag, 1)
            has_group[keys], values[keys] = group >= 0, table.look_up(group, item)
        result = np.zeros((*item.shape, len(self._chains)), np.float32)
        for column, (name, chain) in enumerate(self._chains.items()):
            for keys in reversed(chain):  # a finer level goes before
                value = values[keys][..., self._tables[keys].names.index(name)]
                result[..., column] = np.where(has_group[keys], value, result[..., column])
        return result

    def items(self, groups: Mapping[tuple[str, ...], np.ndarray], request: int) -> np.ndarray:
        """Returns the rows of all items that a request may have any value for, ascending."""
        parts = [np.zeros(0, np.int64)]
        for keys, table in self._tables.items():
            parts += [table.items(int(group)) for group in np.unique(groups[keys][request])]
        return np.unique(np.concatenate(parts))


@dataclasses.dataclass(frozen=True)
class QueryPast:
    """The items most engaged for each query.

    Attributes:
      ids: of the queries.
      item: int32 `[Q, Lq]` rows, padded with 0.
    """

    ids: KeyIndex
    item: np.ndarray

    @classmethod
    def open(cls, directory: Path, length: int) -> "QueryPast":
        """Opens it."""
        ids = KeyIndex.open(directory / "ids")
        return cls(ids, open_array(directory / "item.npy", (len(ids), length), "i"))

    def top(self, query: pa.Array) -> np.ndarray:
        """Returns the items of queries, int32 `[R, Lq]`; zeros for a query without any."""
        row = self.ids.find(query)
        result = np.zeros((len(row), self.item.shape[1]), np.int32)
        result[row >= 0] = self.item[row[row >= 0]]
        return result


@dataclasses.dataclass(frozen=True)
class FreshEvents:
    """What users did after STATE ends.

    Attributes:
      users: their ids.
      history: their pasts, by position in `users`; None where no feature depends on them.
    """

    users: KeyIndex
    history: UserHistory | None


class UserPast:
    """What each user did: up to the bundle's day, and after it.

    Attributes:
      history: makes the past of other timelines, by the same rules.

    Args:
      ids: of the users.
      old: their timelines: of the last engagements that histories are made of before `day_start` -
        delay, and of everything after.
      recent: what arrived after that, impressions too, for counts.
      count: `[U, A + 1]` what is not in `recent`, by action, impressions last.
      actions: codes of the actions that histories are made of.
      length: L.
      delay_s: see `histories.known_until`; None where there is no time.
    """

    def __init__(
        self,
        ids: KeyIndex,
        old: Timelines,
        recent: Timelines | None,
        count: np.ndarray | None,
        *,
        actions: Sequence[int],
        length: int,
        delay_s: int | None,
    ):
        self._ids, self._count, self._length = ids, count, length
        self.history = functools.partial(
            UserHistory, actions=actions, length=length, delay_s=delay_s
        )
        self._old = self.history(old)
        self._recent = None if recent is None else self.history(recent)

    @classmethod
    def open(
        cls,
        directory: Path,
        number_of_actions: int,
        *,
        has_counts: bool,
        actions: Sequence[int],
        length: int,
        delay_s: int | None,
    ) -> "UserPast":
        """Opens it; `has_counts`: whether rates of users were exported."""
        ids = KeyIndex.open(directory / "ids")
        old = _open_timelines(directory, len(ids), False, delay_s is None)
        recent = count = None
        if has_counts:
            recent = _open_timelines(directory / "recent", len(ids), True, delay_s is None)
            shape = (len(ids), number_of_actions + 1)
            count = open_array(directory / "count.npy", shape, "i")
        return cls(ids, old, recent, count, actions=actions, length=length, delay_s=delay_s)

    def last(
        self, user: pa.Array, timestamp: np.ndarray, fresh: FreshEvents | None = None
    ) -> History:
        """Returns the histories of requests `[R, L]`, fresh events first."""
        old = _histories(self._old, self._ids.find(user), timestamp, self._length)
        if fresh is None or fresh.history is None or not len(fresh.users):
            return old
        new = _histories(fresh.history, fresh.users.find(user), timestamp, self._length)
        # Fresh events arrived after all others: theirs come first.
        shifted = np.arange(self._length) - (new.item != 0).sum(1, keepdims=True)

        def joined(first: np.ndarray, then: np.ndarray) -> np.ndarray:
            return np.where(shifted < 0, first, np.take_along_axis(then, np.maximum(shifted, 0), 1))

        return History(
            joined(new.item, old.item), joined(new.action, old.action), joined(new.age, old.age)
        )

    def counts(
        self,
        user: pa.Array,
        timestamp: np.ndarray,
        actions: Sequence[int],
        fresh: FreshEvents | None = None,
    ) -> np.ndarray:
        """Returns how often each user had done each action, int64 `[R, A]`."""
        assert self._count is not None
        assert self._recent is not None
        user_row = self._ids.find(user)
        impressions = self._count.shape[1] - 1
        columns = [impressions if action == IMPRESSION else action for action in actions]
        result = np.zeros((len(user), len(actions)), np.int64)
        is_old = user_row >= 0
        result[is_old] = self._count[user_row[is_old]][:, columns]
        parts = [(self._recent, user_row)]
        if fresh is not None and fresh.history is not None and len(fresh.users):
            parts.append((fresh.history, fresh.users.find(user)))
        for history, row in parts:
            present = np.flatnonzero(row >= 0)
            fold = np.full(len(present), NO_FOLD)
            result[present] += history.counts(row[present], timestamp[present], fold, actions)
        return result


def _histories(
    history: UserHistory, row: np.ndarray, timestamp: np.ndarray, length: int
) -> History:
    """Returns the histories `[N, L]` of users by their rows `[N]`, empty ones where it is -1."""
    shape, present = (len(row), length), np.flatnonzero(row >= 0)
    item, action = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    age = np.zeros(shape, np.float32)
    if len(present):
        fold = np.full(len(present), NO_FOLD)
        past = history.last(row[present], timestamp[present], fold)
        item[present], action[present], age[present] = past.item, past.action, past.age
    return History(item, action, age)


def _open_timelines(directory: Path, users: int, with_user: bool, is_timeless: bool) -> Timelines:
    start = open_array(directory / "start.npy", (users + 1,), "i")
    count = int(start[-1])
    arrays = {
        name: open_array(directory / f"{name}.npy", (count,), "i")
        for name in ("item", "action", "time", "event_time")
    }
    if with_user or is_timeless:
        arrays["user"] = np.repeat(np.arange(users), np.diff(start))
    if is_timeless:
        arrays["period"] = np.zeros(count, np.int8)  # of training rows; evaluation may use them all
    return Timelines(arrays, users, start)


def rows(path: Path) -> int:
    """Returns the length of an array on disk."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            return int(read(file)[0][0])
    except (OSError, ValueError, IndexError):
        return 0  # opening it says what is wrong
