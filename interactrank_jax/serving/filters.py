"""Items that a request may not be given, or the only ones that it may: blocked, out of stock.

A filter is kept as pairs of a request and a row, and becomes bits over the store, see `RowMask`,
for some requests at a time.
"""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.format import PADDING
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.lists import Lists, item_lists, item_rows
from interactrank_jax.serving.masks import RowMask
from interactrank_jax.serving.tables import as_table, check_columns, column, refuse_nulls

BLOCKED, ALLOWED = "blocked", "allowed"  # also list columns that requests may carry


@dataclasses.dataclass(frozen=True)
class ItemSet:
    """Items of requests.

    Attributes:
      request: `[M]` ascending, number of the request; None where they are of all requests.
      row: `[M]` rows of the items.
    """

    request: np.ndarray | None
    row: np.ndarray

    def mask(self, first: int, count: int, rows: int) -> RowMask:
        """Returns the mask that bars these items of `count` requests from `first` on."""
        if self.request is None:
            return RowMask.of(1, rows, 0, self.row)
        low, high = np.searchsorted(self.request, [first, first + count])
        return RowMask.of(count, rows, self.request[low:high] - first, self.row[low:high])


@dataclasses.dataclass(frozen=True)
class Filters:
    """What requests may be given.

    Attributes:
      blocked: items that they may not.
      allowed: sets of items; they may be given those alone that are in each set.
      rows: of the store.
    """

    blocked: tuple[ItemSet, ...]
    allowed: tuple[ItemSet, ...]
    rows: int

    def mask(self, first: int, count: int) -> RowMask | None:
        """Returns the rows barred from `count` requests from `first` on; None: none are."""
        masks = [items.mask(first, count, self.rows) for items in self.blocked]
        masks += [items.mask(first, count, self.rows).inverted() for items in self.allowed]
        result = None
        for mask in masks:
            result = mask | result
        return result


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
    for name, data in ((BLOCKED, blocked), (ALLOWED, allowed)):
        sets[name] = [] if data is None else [_read(bundle, requests, data, name)]
        if name in requests.column_names and name not in features:
            if not pa.types.is_nested(requests[name].type):
                continue  # a column of the log that only shares the name
            request, ids = item_lists(bundle, requests, name)
            sets[name].append(_by_request(request, bundle.rows_of(ids)))
    return Filters(tuple(sets[BLOCKED]), tuple(sets[ALLOWED]), bundle["items"])


def filtered_lists(lists: Lists, mask: RowMask) -> Lists:
    """Returns candidate lists without what a mask bars."""
    counts = np.diff(lists.start)
    kept = ~mask.has(np.repeat(np.arange(len(counts)), counts), lists.row)
    before = np.append(0, np.cumsum(kept))
    return dataclasses.replace(lists, start=before[lists.start], row=lists.row[kept])


def _read(bundle: Bundle, requests: pa.Table, data: Any, what: str) -> ItemSet:
    table = as_table(data, what)
    if "request_id" in table.column_names:
        request, ids = item_rows(bundle, requests, table, what)
        return _by_request(request, bundle.rows_of(ids))
    check_columns(table, {"item_id": "id"}, {"item_id": bundle.items.ids.type}, what)
    refuse_nulls(table, ("item_id",), what, "item_id")
    row = bundle.rows_of(column(table, "item_id", bundle.items.ids.type))
    return ItemSet(None, row[row != PADDING])


def _by_request(request: np.ndarray, row: np.ndarray) -> ItemSet:
    has_row = row != PADDING  # an item that the bundle does not have is in no ranking anyway
    request, row = request[has_row], row[has_row]
    order = np.argsort(request, kind="stable")
    return ItemSet(request[order], row[order])
