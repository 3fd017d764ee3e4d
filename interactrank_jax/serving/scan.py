"""The best k of a whole corpus for each request, exactly, from scores that come tile by tile.

What scores a tile, and where, is behind `Tiles`: a graph of a bundle or a model of a run, on a CPU
or another device, all rows or a shard of them. No array of all scores exists anywhere.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from interactrank_jax.examples.format import PADDING
from interactrank_jax.serving.masks import RowMask
from interactrank_jax.serving.top_k import Scored, Top, merged_tops

REQUESTS_AT_ONCE = 128  # with more, scores of a tile that fill the cache are those of few items
CACHE_BYTES = 1 << 21  # of a tile's scores on a CPU
SMALLEST = 64  # rows; also what keeps tiles at addresses that need no copy
_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "bad_alloc", "allocate memory")
Result = TypeVar("Result")
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # request, row and score of each, `[M]`


class TopK(Protocol):
    """Keeps the best of the tiles that it is given, see `RunningTopK`."""

    def add(self, scored: Scored, begin: int, first: int) -> None:
        """Takes the scores `[R', T]` of rows from `begin`, of which those from `first` count."""

    def best(self) -> Top:
        """Returns rows and scores `[R, k]`."""


class Tiles(Protocol):
    """Scores of some requests with the rows `first` to `end` of the store.

    Attributes:
      first, end: the rows.
    """

    first: int
    end: int

    def scores(self, begin: int, count: int) -> Scored:
        """Returns the scores `[R' >= R, count]` of rows from `begin`, which may still be computing.

        With them the maxima of each `GROUP` of scores, or None where they cost more than they save.
        """

    def top_k(self, requests: int, k: int, mask: RowMask | None) -> TopK:
        """Returns what keeps the best of them."""


class TileSize:
    """How many rows are scored at a time: as many as memory holds the scores of.

    Args:
      pairs: of a request and an item, scored together.
      padded: returns the number of requests that so many are padded to.
    """

    def __init__(self, pairs: int, padded: Callable[[int], int] = lambda requests: requests):
        self._pairs, self._padded, self._has_said = pairs, padded, False

    def rows(self, requests: int) -> int:
        """Returns the rows of a tile for so many requests."""
        rows = max(self._pairs // max(self._padded(requests), 1), 1)
        return rows // SMALLEST * SMALLEST or rows

    def halve(self, rows: int, requests: int, error: BaseException) -> None:
        """Takes half of what was too much from now on; says so the first time.

        Raises:
          BaseException: the error, where that was one row.
        """
        if rows <= 1:
            raise error
        self._pairs = rows // 2 * max(self._padded(requests), 1)
        if not self._has_said:
            logging.getLogger(__name__).warning(
                "Out of memory with %s items at a time: going on with fewer.", f"{rows:,}"
            )
        self._has_said = True


def corpus_top_k(
    tiles_of: Callable[[slice], Sequence[Tiles]],
    requests: int,
    rows: int,
    k: int,
    size: TileSize,
    mask: RowMask | None = None,
    pairs: Pairs | None = None,
    gather: Callable[[Top], list[Top]] = lambda top: [top],
) -> Top:
    """Returns rows and scores `[R, k]` of the best items, best first.

    Equal scores come in the order of the store. Where there are fewer than k items, the last have
    row 0 and score -inf.

    Args:
      tiles_of: returns the tiles of some requests.
      requests: R.
      rows: of the store, N.
      k: items kept of each.
      size: of a tile, halved where memory does not suffice.
      mask: rows that are no candidates.
      pairs: by request, scores that stand in place of the tiles'; each pair once.
      gather: returns the best of each process, where each has tiles of its own.
    """
    row, score = np.zeros((requests, k), np.int32), np.zeros((requests, k), np.float32)
    if not k:
        return row, score
    at_once = -(-requests // max(-(-requests // REQUESTS_AT_ONCE), 1))  # alike: one shape
    for first in range(0, requests, at_once or 1):
        part = slice(first, min(first + at_once, requests))
        count = part.stop - first
        bars = None if mask is None else mask.of_requests(first, part.stop)
        exact = None if pairs is None else _of_requests(pairs, first, part.stop, bars)
        scanned = bars
        if exact is not None:
            scanned = RowMask.of(count, rows, exact[0], exact[1]) | bars
        tops = gather(_scanned(tiles_of(part), count, k, size, scanned))
        if exact is not None:
            tops.append(_as_top(exact, count))
        row[part], score[part] = merged_tops(tops, k) if len(tops) > 1 else tops[0]
    return row, score


def scored_tiles(tiles: Sequence[Tiles], size: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields first row that counts, first row, and scores `[R', T]` of each tile, in turn.

    The next one is computed while this one is looked at.
    """
    computing: tuple[int, int, Scored] | None = None
    for part in tiles:
        for first, begin, count in _steps(part, size):
            started = first, begin, part.scores(begin, count)
            if computing is not None:
                yield computing[0], computing[1], np.asarray(computing[2][0])
            computing = started
    if computing is not None:
        yield computing[0], computing[1], np.asarray(computing[2][0])


def all_scores(tiles: Sequence[Tiles], requests: int, rows: int, size: TileSize) -> np.ndarray:
    """Returns the scores `[R, N]` with every row, -inf of padding and of rows that no tile has.

    Args:
      tiles: of R requests.
      requests: R.
      rows: of the store, N.
      size: of a tile, halved where memory does not suffice.
    """
    result = np.full((requests, rows), -np.inf, np.float32)

    def fill(count: int) -> None:
        for first, begin, scores in scored_tiles(tiles, count):
            end = begin + scores.shape[1]
            result[:, first:end] = scores[:requests, first - begin :]

    _fitting(size, requests, tiles, fill)
    return result


def _scanned(
    tiles: Sequence[Tiles], requests: int, k: int, size: TileSize, mask: RowMask | None
) -> Top:
    """Returns the best of all tiles."""
    tops = _fitting(size, requests, tiles, lambda rows: _scan(tiles, requests, k, rows, mask))
    if len(tops) == 1:
        return tops[0]
    empty = np.zeros((requests, k), np.int32), np.full((requests, k), -np.inf, np.float32)
    return merged_tops([empty, *tops], k)


def _fitting(
    size: TileSize, requests: int, tiles: Sequence[Tiles], call: Callable[[int], Result]
) -> Result:
    """Calls with the size of a tile, and again with half of it where memory runs out."""
    longest = max((part.end - part.first for part in tiles), default=0)
    while True:
        rows = min(size.rows(requests), longest)
        try:
            return call(rows)
        except Exception as error:  # each library has a type of its own
            if not is_out_of_memory(error):
                raise
            size.halve(rows, requests, error)


def _scan(
    tiles: Sequence[Tiles], requests: int, k: int, size: int, mask: RowMask | None
) -> list[Top]:
    kept = [part.top_k(requests, k, mask) for part in tiles]
    computing: list[tuple[TopK, Scored, int, int]] = []
    for steps in itertools.zip_longest(*(_steps(part, size) for part in tiles)):
        started = []
        for part, top, step in zip(tiles, kept, steps, strict=True):
            if step is not None:
                first, begin, count = step
                started.append((top, part.scores(begin, count), begin, first))
        # The device computes these tiles while this process looks at those before.
        for top, scored, begin, first in computing:
            top.add(scored, begin, first)
        computing = started
    for top, scored, begin, first in computing:
        top.add(scored, begin, first)
    return [top.best() for top in kept]


def _steps(part: Tiles, size: int) -> Iterator[tuple[int, int, int]]:
    """Yields first row that counts, first row and number of rows of each tile.

    The last tile starts earlier rather than being shorter: one shape, one compilation.
    """
    count = min(size, part.end - part.first)
    for first in range(part.first, part.end, max(count, 1)):
        yield max(first, PADDING + 1), min(first, part.end - count), count


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether numpy, jax or onnxruntime failed for want of memory."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _MEMORY)


def _of_requests(pairs: Pairs, first: int, end: int, mask: RowMask | None) -> Pairs:
    request, row, score = pairs
    low, high = np.searchsorted(request, [first, end])
    request, row, score = request[low:high] - first, row[low:high], score[low:high]
    if mask is None:
        return request, row, score
    allowed = ~mask.has(request, row)
    return request[allowed], row[allowed], score[allowed]


def _as_top(pairs: Pairs, requests: int) -> Top:
    """Returns pairs, in order of their requests, as rows and scores `[R, M]`."""
    request, row, score = pairs
    counts = np.bincount(request, minlength=requests)
    column = np.arange(len(request)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.zeros((requests, counts.max(initial=0)), np.int32)
    scores = np.full(rows.shape, -np.inf, np.float32)
    rows[request, column], scores[request, column] = row, score
    return rows, scores
