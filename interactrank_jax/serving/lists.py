"""Candidate lists as they come, turned into rows of a bundle's items."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.examples.format import PADDING
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.values import index_in
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.tables import as_table, check_columns, column, refuse_nulls

CANDIDATES = "candidates"  # the list column that requests may carry


@dataclasses.dataclass(frozen=True)
class Lists:
    """Candidates of R requests.

    Attributes:
      start: `[R + 1]` first row of each request's candidates.
      row: `[M]` rows of the items in the store, each once in a request.
      unknown: request (its number, ascending) of the candidates that have no vector.
      unknown_ids: their ids.
      repeated: `[R]` how often candidates came again in each request.
    """

    start: np.ndarray
    row: np.ndarray
    unknown: np.ndarray
    unknown_ids: pa.Array
    repeated: np.ndarray

    def of_requests(self, first: int, count: int) -> "Lists":
        """Returns the candidates of `count` requests from `first` on."""
        start = self.start[first : first + count + 1]
        low, high = np.searchsorted(self.unknown, [first, first + count])
        return Lists(
            start - start[0],
            self.row[start[0] : start[-1]],
            self.unknown[low:high] - first,
            self.unknown_ids.slice(low, high - low),
            self.repeated[first : first + count],
        )


def candidate_lists(bundle: Bundle, requests: pa.Table, candidates: Any) -> Lists | None:
    """Returns the candidates of requests; None for the whole corpus.

    Args:
      bundle: the bundle.
      requests: that were checked.
      candidates: request_id and item_id, a row per candidate. None: the requests' list column
        `candidates`, and where they have none, the whole corpus.

    Raises:
      InputError: a column is missing or mistyped, or a request is not there.
    """
    if candidates is None and CANDIDATES not in requests.column_names:
        return None
    if candidates is None:
        request, ids = item_lists(bundle, requests, CANDIDATES)
    else:
        request, ids = item_rows(bundle, requests, candidates, "candidates")
    row = bundle.rows_of(ids)
    unknown = np.flatnonzero(row == PADDING)
    unknown = unknown[np.argsort(request[unknown], kind="stable")]
    has_row = row != PADDING
    pair = request[has_row].astype(np.int64) << 32 | row[has_row]
    distinct, times = np.unique(pair, return_counts=True)
    start = np.searchsorted(distinct, np.arange(len(requests) + 1, dtype=np.int64) << 32)
    again = np.bincount(distinct >> 32, times - 1, len(requests)).astype(np.int64)
    rows = distinct & ((1 << 32) - 1)
    return Lists(start, rows, request[unknown], ids.take(pa.array(unknown)), again)


def item_rows(
    bundle: Bundle, requests: pa.Table, data: Any, what: str
) -> tuple[np.ndarray, pa.Array]:
    """Returns request (its number) and item id of each row of a table that was given as `what`."""
    table = as_table(data, what)
    request_ids = column(requests, "request_id")
    types = {"request_id": request_ids.type, "item_id": bundle.items.ids.type}
    check_columns(table, {"request_id": "id", "item_id": "id"}, types, what)
    refuse_nulls(table, ("request_id", "item_id"), what, "item_id")
    asked = column(table, "request_id", request_ids.type)
    request = index_in(asked, request_ids).astype(np.int64)
    if (request < 0).any():
        first = asked[int(np.argmax(request < 0))].as_py()
        raise InputError(
            f"{what}: {int((request < 0).sum()):,} rows are of requests that are not there, "
            f"for example {first!r}. Expected request_ids of the requests."
        )
    return request, column(table, "item_id", bundle.items.ids.type)


def item_lists(bundle: Bundle, requests: pa.Table, name: str) -> tuple[np.ndarray, pa.Array]:
    """Returns request (its number) and item id of each entry of a list column of the requests."""
    lists = requests[name].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # combine_chunks keeps the type where it has no rows
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], lists.type)
    what, kind = f"requests: column '{name}'", lists.type
    nested = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if pa.types.is_null(kind):
        return np.zeros(0, np.int64), pa.array([], bundle.items.ids.type)
    if not any(test(kind) for test in nested):
        raise InputError(f"{what} has type {kind}. Expected lists of item ids.")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = pa.table({"item_id": lists.flatten()})
    check_columns(values, {"item_id": "id"}, {"item_id": bundle.items.ids.type}, what)
    refuse_nulls(values, ("item_id",), what, "item_id")
    request = np.repeat(np.arange(len(lists)), lengths)
    return request, column(values, "item_id", bundle.items.ids.type)
