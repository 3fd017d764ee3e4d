"""Draws the negatives of a log of positives.

A negative of a request is an item that existed at the request's time and that its user never took.

- An item exists from the time that a column of the data gives, or from the second after its first
  row, whichever is earlier; an item without either never does. So an item is a candidate, positive
  or negative, only of requests by which the data says that it existed: if positives alone could be
  of items that nobody had taken before, having no past would give a positive away.
- Never means: in no row of the log, whatever its verdict and its time. What a user takes next week
  is no negative of today. The price: of what a user took before only positives are candidates, so
  that where users take things again, the history gives some of them away.
- A request's negatives are distinct; there are fewer where fewer items are left, none for a user
  who took everything.
- By popularity, an item is drawn in proportion to its successes before the request, never those
  after it. One that existed before its first success counts one for that, so that it can be drawn.
- Without time, all that any row names existed always, and popularity is over the whole log.

Draws are without replacement, one after the other, each in proportion to the weights of what is
left.
"""

import dataclasses
import itertools

import numpy as np

from interactrank_jax.log.negatives import SampledNegatives

NEVER = np.iinfo(np.int64).max
SLOTS_AT_ONCE = 1 << 20  # negatives drawn at once: bounds memory
_ROUNDS = 64  # of drawing and rejecting, before what is left is looked at item by item


@dataclasses.dataclass(frozen=True)
class Rows:
    """N rows of a log in order of time.

    Attributes:
      user, item: `[N]`.
      is_success: `[N]`.
      since: `[N]` first second whose requests know of the row; 0 without time.
    """

    user: np.ndarray
    item: np.ndarray
    is_success: np.ndarray
    since: np.ndarray

    @classmethod
    def from_columns(
        cls, user: np.ndarray, item: np.ndarray, is_success: np.ndarray, time: np.ndarray | None
    ) -> "Rows":
        """Takes rows in order of `time`; None where there is none."""
        since = np.zeros(len(user), np.int64) if time is None else time.astype(np.int64) + 1
        return cls(user, item, is_success, since)


def existence(rows: Rows, items: int, created: np.ndarray | None) -> np.ndarray:
    """Returns the second from which each item existed, int64 `[items]`; `NEVER` where unknown.

    Args:
      rows: of the log.
      items: how many there are.
      created: `[items]` seconds, as the data says; None where it does not.
    """
    since = np.full(items, NEVER)
    named, first = np.unique(rows.item, return_index=True)
    since[named] = rows.since[first]
    return since if created is None else np.minimum(since, created)


def draw(
    negatives: SampledNegatives,
    rows: Rows,
    exists: np.ndarray,
    *,
    time: np.ndarray,
    user: np.ndarray,
    positives: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the negatives of R requests.

    Args:
      negatives: how.
      rows: of the log.
      exists: `[items]`, see `existence`.
      time: `[R]` of each request, ascending; zeros without time.
      user: `[R]`.
      positives: `[R]` number of them.

    Returns:
      (request int32 `[D]`, ascending, and item int32 `[D]`) of each negative.
    """
    sampler = _Sampler(negatives, rows, exists)
    existing = np.searchsorted(sampler.exists, time, side="right")
    wanted = negatives.per_positive * positives.astype(np.int64)
    wanted = np.minimum(wanted, sampler.available(user, existing))
    chunk = np.cumsum(wanted) // SLOTS_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(chunk)) + 1), len(time)]
    requests, items = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for start, end in itertools.pairwise(edges):
        part = slice(start, end)
        asked = _Asked(time[part], user[part].astype(np.int64), existing[part], wanted[part])
        items.append(sampler.draw(asked))
        requests.append(np.repeat(np.arange(start, end, dtype=np.int32), wanted[part]))
    return np.concatenate(requests), np.concatenate(items)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """Some requests: their time, user, number of existing items and of negatives, `[R]` each."""

    time: np.ndarray
    user: np.ndarray
    existing: np.ndarray
    wanted: np.ndarray


class _Sampler:
    """Draws for requests in order of time.

    Items are numbered in the order in which they came to exist, so that those of a request are the
    numbers below its `existing`. Weights are a list of numbers in order of time, in which an item
    comes as often as it weighs: of a uniform draw once, of one by popularity once a success. One
    number of the part before a request is then a draw as of that request.

    Attributes:
      exists: `[I]` by number, ascending.
    """

    def __init__(self, negatives: SampledNegatives, rows: Rows, exists: np.ndarray):
        self._rng = np.random.default_rng([negatives.seed, 0])
        self._item_of = np.argsort(exists, kind="stable").astype(np.int32)
        self.exists = exists[self._item_of]
        self._items = len(exists)
        number = np.empty(self._items, np.int64)
        number[self._item_of] = np.arange(self._items)
        # Sorted keys of all that was ever taken.
        self._taken = np.unique(self._key(rows.user.astype(np.int64), number[rows.item]))
        if negatives.method == "uniform":
            self._list, self._since = np.arange(self._items), self.exists
        else:
            successes = number[rows.item[rows.is_success]]
            self._list, self._since = self._by_popularity(successes, rows.since[rows.is_success])
        self._counts, self._counted = np.zeros(self._items), 0

    def _by_popularity(
        self, successes: np.ndarray, since: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        first = np.full(self._items, NEVER)
        numbers, index = np.unique(successes, return_index=True)
        first[numbers] = since[index]
        alone = np.flatnonzero(self.exists < first)
        numbers = np.concatenate([alone, successes])
        since = np.concatenate([self.exists[alone], since])
        order = np.argsort(since, kind="stable")
        return numbers[order], since[order]

    def _key(self, user: np.ndarray, number: np.ndarray) -> np.ndarray:
        return user * self._items + number

    def available(self, user: np.ndarray, existing: np.ndarray) -> np.ndarray:
        """Returns `[R]` how many items existed that the user never took."""
        user = user.astype(np.int64)
        first = np.searchsorted(self._taken, self._key(user, np.zeros_like(user)))
        return existing - (np.searchsorted(self._taken, self._key(user, existing)) - first)

    def draw(self, asked: _Asked) -> np.ndarray:
        """Returns the items of all negatives, request by request, int32."""
        length = np.searchsorted(self._since, asked.time, side="right")
        drawn = self._by_rejection(asked, length)
        self._draw_rest(asked, length, drawn)
        return self._item_of[drawn]

    def _by_rejection(self, asked: _Asked, length: np.ndarray) -> np.ndarray:
        """Returns the number of an item for each negative; -1 where all draws were rejected."""
        request = np.repeat(np.arange(len(asked.wanted)), asked.wanted)
        drawn = np.full(len(request), -1, np.int64)
        accepted = np.zeros(0, np.int64)
        open_slots = np.arange(len(request))
        for _ in range(_ROUNDS):
            if not len(open_slots):
                break
            of = request[open_slots]
            number = self._list[self._rng.integers(0, length[of])]
            keys = of * self._items + number
            is_new = np.zeros(len(keys), bool)
            is_new[np.unique(keys, return_index=True)[1]] = True
            is_new &= ~_contains(accepted, keys)
            is_new &= ~_contains(self._taken, self._key(asked.user[of], number))
            drawn[open_slots[is_new]] = number[is_new]
            accepted = np.sort(np.concatenate([accepted, keys[is_new]]))
            open_slots = open_slots[~is_new]
        return drawn

    def _draw_rest(self, asked: _Asked, length: np.ndarray, drawn: np.ndarray) -> None:
        """Fills in what is left in `drawn`: weighs every item of such a request.

        The item whose exponential variate over its weight is the least is a draw in proportion to
        the weights, and the next ones are the next draws.
        """
        end = np.cumsum(asked.wanted)
        left = np.unique(np.searchsorted(end, np.flatnonzero(drawn < 0), side="right"))
        for request in left:
            slots = drawn[end[request] - asked.wanted[request] : end[request]]
            weights = self._weights(length[request])[: asked.existing[request]].copy()
            first = int(asked.user[request]) * self._items
            between = np.searchsorted(self._taken, [first, first + asked.existing[request]])
            weights[self._taken[slice(*between)] - first] = 0
            weights[slots[slots >= 0]] = 0
            numbers = np.flatnonzero(weights)
            variates = self._rng.standard_exponential(len(numbers)) / weights[numbers]
            count = int((slots < 0).sum())
            chosen = np.argpartition(variates, count - 1)[:count]
            slots[slots < 0] = numbers[chosen[np.argsort(variates[chosen])]]

    def _weights(self, length: int) -> np.ndarray:
        """Returns `[I]` how often each item comes in the list so far; lengths may only rise."""
        np.add.at(self._counts, self._list[self._counted : length], 1)
        self._counted = length
        return self._counts


def _contains(keys: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Returns whether each of `asked` is among sorted `keys`, bool `[N]`."""
    if not len(keys):
        return np.zeros(len(asked), bool)
    order = np.argsort(asked)  # neighbours are searched for fast
    positions = np.searchsorted(keys, asked[order])
    result = np.empty(len(asked), bool)
    result[order] = keys[np.minimum(positions, len(keys) - 1)] == asked[order]
    return result
