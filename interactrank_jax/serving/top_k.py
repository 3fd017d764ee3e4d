"""The best of many scores, exactly; of equal scores the item whose row comes first in the store."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from interactrank_jax.serving.masks import RowMask

Top = tuple[np.ndarray, np.ndarray]  # row and score of each item, `[M]`
Scored = tuple[Any, Any]  # scores of a tile, perhaps still computing, and maxima of groups or None
_FULL = 1.5  # times k: scores that a request gathers before they are cut down to k
_GROUPS = 4  # times k: groups whose maxima bound the k-th best score of a tile from below
_TOGETHER = 4  # tiles that wait for the first bound
GROUP = 32  # scores side by side, two cache lines, whose maximum may come with a tile


def top_k(score: np.ndarray, row: np.ndarray, k: int) -> np.ndarray:
    """Returns the positions `[k]` of the best k of a request's items, best first.

    Of equal scores the one whose row comes first in the store.
    """
    kept = np.arange(len(score))
    if k < len(score):
        # Few are above a bound that maxima of groups give, so that hardly any are partitioned.
        maxima = _group_maxima(score[None], _GROUPS * k)[0]
        bound = np.partition(maxima, len(maxima) - k)[len(maxima) - k]
        kept = np.flatnonzero(score >= bound)
        bound = np.partition(score[kept], len(kept) - k)[len(kept) - k]
        kept = kept[score[kept] >= bound]
    return kept[np.lexsort((row[kept], -score[kept]))[:k]]


def merged_tops(parts: list[Top], k: int) -> Top:
    """Returns rows and scores `[R, k]` of the best of several parts of the store, best first.

    Args:
      parts: rows and scores `[R, m]` of each; a score of -inf is no item's.
      k: items kept; with fewer, the last have score -inf and row 0.
    """
    row, score = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    order = np.lexsort((row, -score), axis=-1)[:, :k]
    row, score = (np.take_along_axis(array, order, 1) for array in (row, score))
    missing = ((0, 0), (0, k - row.shape[1]))
    score = np.pad(score, missing, constant_values=-np.inf)
    return np.where(np.isneginf(score), 0, np.pad(row, missing)), score


def joined_tops(tops: list[Top]) -> Top:
    """Returns rows and scores `[M]` one after the other."""
    if not tops:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    row, score = (np.concatenate(arrays) for arrays in zip(*tops, strict=True))
    return row, score


class _Tile(NamedTuple):
    """Scores `[R, T]` of rows from `begin`, of which those from `first` count.

    `maxima` are those of each GROUP, or None; `bars` are rows whose scores do not count, or None.
    """

    scores: np.ndarray
    maxima: np.ndarray | None
    begin: int
    first: int
    bars: RowMask | None


class RunningTopK:
    """The best k of each request, of scores that come tile by tile in the order of the store.

    The k-th best score so far bounds what a tile can add: only scores above it are looked at again,
    for an equal one of a later row loses. They gather in a buffer, which is now and then cut down
    to the best k; so nothing is sorted but the k that remain, and a tile is read once at most,
    while it lies in the cache.

    Args:
      requests: R.
      k: items kept of each.
      mask: rows that are no candidate; None: all are.
    """

    def __init__(self, requests: int, k: int, mask: RowMask | None = None):
        self._k, self._mask = k, mask
        left = np.full(1, np.inf) if mask is None else mask.left()
        # A mask that leaves little would let through a score for every one that it then bars.
        self._masks_first = mask is not None and bool((2 * left < mask.rows).any())
        self._can_fill = np.broadcast_to(left > k, requests)  # k, if no row were padding
        self._waiting: list[tuple[Scored, int, int]] = []
        self._together = _TOGETHER if self._can_fill.any() else 1
        self._bound = np.full(requests, -np.inf, np.float32)
        self._count = np.zeros(requests, np.int64)  # of the buffer's entries, ascending by row
        self._score = np.full((requests, k), -np.inf, np.float32)
        self._row = np.zeros((requests, k), np.int32)

    def add(self, scored: Scored, begin: int, first: int) -> None:
        """Takes the scores of the next rows.

        Args:
          scored: `[R' >= R, T]`, with maxima `[R', T / GROUP]` of each GROUP of them or None; what
            is behind the first R is padding. -inf is no item's score.
          begin: row of the first column.
          first: row from which on they count: those before came earlier, or are padding.
        """
        self._waiting.append((scored, begin, first))
        if len(self._waiting) >= self._together:
            self._take()

    def _take(self) -> None:
        """Looks at the tiles that wait: several before there is a bound, for a closer one."""
        tiles = [self._tile(*waiting) for waiting in self._waiting]
        self._waiting = []
        unbounded = np.flatnonzero(np.isneginf(self._bound) & self._can_fill)
        bound = self._bound
        if len(unbounded) and tiles:
            tiles = [tile if tile.bars is None else self._without_barred(tile) for tile in tiles]
            self._bound[unbounded] = _bound_from_below(tiles, unbounded, self._k)
            bound = self._bound.copy()  # of these tiles, scores equal to it count
            bound[unbounded] = np.nextafter(bound[unbounded], np.float32(-np.inf))
            self._together = _TOGETHER if np.isneginf(self._bound[unbounded]).any() else 1
        for tile in tiles:
            request, column = _above(tile.scores, tile.maxima, bound)
            row = (column + tile.begin).astype(np.int32)
            counts = row >= tile.first
            if tile.bars is not None:
                counts &= ~tile.bars.has(request, row)
            if not counts.all():
                request, column, row = request[counts], column[counts], row[counts]
            self._append(request, row, tile.scores[request, column])

    def _tile(self, scored: Scored, begin: int, first: int) -> "_Tile":
        requests = len(self._bound)
        scores, maxima = (None if a is None else np.asarray(a)[:requests] for a in scored)
        assert scores is not None
        tile = _Tile(scores, maxima, begin, first, self._mask)
        return self._without_barred(tile) if self._masks_first else tile

    def _without_barred(self, tile: "_Tile") -> "_Tile":
        """Returns a tile whose barred rows score -inf."""
        if tile.bars is None:
            return tile
        barred = tile.bars.barred(tile.begin, tile.scores.shape[1])
        scores = np.where(barred, np.float32(-np.inf), tile.scores)
        return tile._replace(scores=scores, maxima=None, bars=None)

    def best(self) -> Top:
        """Returns rows and scores `[R, k]`, best first; where there are fewer, row 0 and -inf."""
        self._take()
        self._cut()
        row, score = self._row[:, : self._k], self._score[:, : self._k]
        order = np.argsort(-score, axis=1, kind="stable")
        return np.take_along_axis(row, order, 1), np.take_along_axis(score, order, 1)

    def _append(self, request: np.ndarray, row: np.ndarray, value: np.ndarray) -> None:
        added = np.bincount(request, minlength=len(self._count))
        self._widen(int((self._count + added).max(initial=0)))
        offset = self._count - (np.cumsum(added) - added)
        slot = request, np.arange(len(request)) + offset[request]
        self._score[slot], self._row[slot] = value, row
        self._count += added
        if self._count.max(initial=0) > _FULL * self._k:
            self._cut()

    def _cut(self) -> None:
        """Keeps the best k of each buffer, in order of their rows, and raises the bounds."""
        width, k = self._score.shape[1], self._k
        bound = np.partition(self._score, width - k, axis=1)[:, width - k]
        above = self._score > bound[:, None]
        equal = self._score == bound[:, None]
        missing = k - above.sum(1)
        kept = np.flatnonzero(above | (equal & (np.cumsum(equal, 1) <= missing[:, None])))
        for buffer, empty in ((self._score, -np.inf), (self._row, 0)):
            buffer[:, :k] = buffer.ravel()[kept].reshape(-1, k)
            buffer[:, k:] = empty
        self._count = np.minimum(self._count, k)
        self._bound = np.maximum(self._bound, bound)

    def _widen(self, width: int) -> None:
        if width > self._score.shape[1]:
            more = width * 5 // 4 - self._score.shape[1]
            self._score = np.pad(self._score, ((0, 0), (0, more)), constant_values=-np.inf)
            self._row = np.pad(self._row, ((0, 0), (0, more)))


def _above(
    scores: np.ndarray, maxima: np.ndarray | None, bound: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns request and column of the scores `[R, T]` above their request's bound, in order.

    Hardly any are, so with their maxima most groups are passed over.
    """
    width = scores.shape[1]
    if maxima is None:
        position = np.flatnonzero(scores > bound[:, None])
    else:
        group = np.flatnonzero(maxima > bound[:, None])
        grouped = scores.reshape(-1, GROUP).take(group, 0)
        inside = np.flatnonzero(grouped > bound[group // maxima.shape[1], None])
        position = group[inside // GROUP] * GROUP + inside % GROUP
    request = position // width
    return request, position - request * width


def _bound_from_below(tiles: Sequence[_Tile], requests: np.ndarray, k: int) -> np.ndarray:
    """Returns `[N]` scores that at least k of each request's scores in some tiles reach.

    -inf where fewer than k are there. The k-th best maximum of disjoint groups is such a score.
    """
    maxima = []
    for tile in tiles:
        of_tile, before = tile.maxima, tile.first - tile.begin
        if before == 1:  # padding: one maximum at most is its score
            k += 1
        if of_tile is None or before > 1 or of_tile.shape[1] < _GROUPS * k:
            first = before if before > 1 else 0
            maxima.append(_group_maxima(tile.scores[requests, first:], _GROUPS * k))
        else:
            maxima.append(of_tile[requests])
    values = np.concatenate(maxima, 1)
    groups = values.shape[1]
    if groups < k:
        return np.full(len(requests), -np.inf, np.float32)
    return np.partition(values, groups - k, axis=1)[:, groups - k]


def _group_maxima(scores: np.ndarray, groups: int) -> np.ndarray:
    """Returns maxima `[R, groups]`, or fewer, of disjoint groups of scores `[R, T]`."""
    requests, width = scores.shape
    groups = min(groups, width)
    size = width // max(groups, 1)
    return scores[:, : size * groups].reshape(requests, size, groups).max(1)
