"""Items that a request may not be given, or the only ones that it may: blocked, out of stock.

A filter is kept as pairs of a request and a row. Candidates are looked up among these pairs; for
the whole corpus they become bits over the store, see `RowMask`, for some requests at a time.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.format import PADDING
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.lists import Lists, item_lists, item_rows
from interactrank_jax.serving.masks import RowMask
from interactrank_jax.serving.tables import as_table, check_columns, column, refuse_nulls

BLOCKED, ALLOWED = "blocked", "allowed"  # also list columns that requests may carry
_ROW = (1 << 32) - 1  # the bits of a pair that are its row


@dataclasses.dataclass(frozen=True)
class ItemSet:
    """Items of requests.

    Attributes:
      pair: `[M]` ascending, the number of the request in the upper 32 bits, the row of the item in
        the lower ones.
    """

    pair: np.ndarray

    @classmethod
    def of(cls, request: np.ndarray, row: np.ndarray) -> "ItemSet":
        """Returns the set of pairs `[M]` of a request and a row."""
        return cls(np.unique(_pair(request, row)))

    def mask(self, first: int, count: int, rows: int) -> RowMask:
        """Returns the mask that bars these items of `count` requests from `first` on."""
        low, high = np.searchsorted(self.pair, _pair(np.array([first, first + count]), 0))
        pair = self.pair[low:high]
        return RowMask.of(count, rows, (pair >> 32) - first, pair & _ROW)

    def has(self, request: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Returns whether pairs `[M]` of a request and a row are in the set."""
        pair = _pair(request, row)
        at = np.searchsorted(self.pair, pair)
        is_there = np.zeros(len(pair), bool)
        inside = at < len(self.pair)
        is_there[inside] = self.pair[at[inside]] == pair[inside]
        return is_there


@dataclasses.dataclass(frozen=True)
class Filters:
    """What requests may be given.

    Attributes:
      blocked: items that they may not.
      allowed: sets of items; they may be given those alone that are in each set.
      everywhere: rows barred from all requests; None: none are.
      rows: of the store.
    """

    blocked: tuple[ItemSet, ...]
    allowed: tuple[ItemSet, ...]
    everywhere: RowMask | None
    rows: int

    def mask(self, first: int, count: int) -> RowMask | None:
        """Returns the rows barred from `count` requests from `first` on; None: none are."""
        masks = [items.mask(first, count, self.rows) for items in self.blocked]
        masks += [items.mask(first, count, self.rows).inverted() for items in self.allowed]
        return functools.reduce(lambda barred, mask: mask | barred, masks, self.everywhere)

    def of_lists(self, lists: Lists, first: int) -> Lists:
        """Returns candidate lists, of the requests from `first` on, without what is barred.

        The work grows with the candidates, not with the store.
        """
        if self.everywhere is None and not self.blocked and not self.allowed:
            return lists
        counts = np.diff(lists.start)
        request, kept = np.repeat(np.arange(len(counts)), counts), np.ones(len(lists.row), bool)
        for is_kept in self._kept(request + first, lists.row):
            kept &= is_kept
        if kept.all():
            return lists
        before = np.append(0, np.cumsum(kept))
        return dataclasses.replace(lists, start=before[lists.start], row=lists.row[kept])

    def _kept(self, request: np.ndarray, row: np.ndarray) -> Iterator[np.ndarray]:
        """Yields for each filter whether it lets pairs `[M]` of a request and a row through."""
        if self.everywhere is not None:
            yield ~self.everywhere.has(np.zeros_like(request), row)
        for items in self.blocked:
            yield ~items.has(request, row)
        for items in self.allowed:
            yield items.has(request, row)


def read_filters(bundle: Bundle, requests: pa.Table, blocked: Any, allowed: Any) -> Filters:
    """Reads filters as they come.

    Args:
      bundle: the bundle.
      requests: that were checked; their list columns `blocked` and `allowed` filter too, where an
        absent list is an empty one.
      blocked, allowed: request_id and item_id, a row for each pair, or item_id alone for all
        requests; None: no such filter.

    Raises:
      InputError: a column is missing or mistyped, or a request is not there.
    """
    sets: dict[str, list[ItemSet]] = {}
    features = [feature.name for feature in bundle.features]
    everywhere, rows = None, bundle["items"]
    for name, data in ((BLOCKED, blocked), (ALLOWED, allowed)):
        sets[name] = []
        if data is not None:
            table = as_table(data, name)
            if "request_id" in table.column_names:
                request, ids = item_rows(bundle, requests, table, name)
                sets[name].append(_item_set(request, bundle.rows_of(ids)))
            else:
                mask = RowMask.of(1, rows, 0, _rows_of_all(bundle, table, name))
                everywhere = (mask.inverted() if name == ALLOWED else mask) | everywhere
        if name in requests.column_names and name not in features:
            if not pa.types.is_nested(requests[name].type):
                continue  # a column of the log that only shares the name
            request, ids = item_lists(bundle, requests, name)
            sets[name].append(_item_set(request, bundle.rows_of(ids)))
    return Filters(tuple(sets[BLOCKED]), tuple(sets[ALLOWED]), everywhere, rows)


def _rows_of_all(bundle: Bundle, table: pa.Table, what: str) -> np.ndarray:
    """Returns the rows of items that are filtered for all requests."""
    check_columns(table, {"item_id": "id"}, {"item_id": bundle.items.ids.type}, what)
    refuse_nulls(table, ("item_id",), what, "item_id")
    row = bundle.rows_of(column(table, "item_id", bundle.items.ids.type))
    return row[row != PADDING]


def _item_set(request: np.ndarray, row: np.ndarray) -> ItemSet:
    has_row = row != PADDING  # an item that the bundle does not have is in no ranking anyway
    return ItemSet.of(request[has_row], row[has_row])


def _pair(request: np.ndarray, row: np.ndarray | int) -> np.ndarray:
    return request.astype(np.int64) << 32 | row
