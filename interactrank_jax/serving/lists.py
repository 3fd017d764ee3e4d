"""Candidate lists as they come, turned into rows of a bundle's items."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.examples.format import PADDING
from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.tables import as_table, check_columns, column, refuse_nulls

CANDIDATES = "candidates"  # the list column that requests may carry


@dataclasses.dataclass(frozen=True)
class Lists:
    """Candidates of R requests.

    Attributes:
      start: `[R + 1]` first row of each request's candidates.
      row: `[M]` rows of the items in the store, each once in a request.
      unknown: request (its place, ascending) of the candidates that have no vector.
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
        request, ids = _of_list_column(requests)
    else:
        request, ids = _of_rows(bundle, requests, candidates)
    kind = bundle.items.ids.type
    if ids.type != kind and ids.null_count < len(ids):
        raise InputError(
            f"candidates: items are of type {ids.type}, the bundle's are {kind}. Convert them."
        )
    row = bundle.rows_of(ids.cast(kind))
    unknown = np.flatnonzero(row == PADDING)
    unknown = unknown[np.argsort(request[unknown], kind="stable")]
    known = row != PADDING
    pair = request[known].astype(np.int64) << 32 | row[known]
    distinct, times = np.unique(pair, return_counts=True)
    start = np.searchsorted(distinct, np.arange(len(requests) + 1, dtype=np.int64) << 32)
    again = np.bincount(distinct >> 32, times - 1, len(requests)).astype(np.int64)
    rows = distinct & ((1 << 32) - 1)
    return Lists(start, rows, request[unknown], ids.take(pa.array(unknown)), again)


def _of_rows(bundle: Bundle, requests: pa.Table, candidates: Any) -> tuple[np.ndarray, pa.Array]:
    table, what = as_table(candidates, "candidates"), "candidates"
    known = column(requests, "request_id")
    types = {"request_id": known.type, "item_id": bundle.items.ids.type}
    check_columns(table, {"request_id": "id", "item_id": "id"}, types, what)
    refuse_nulls(table, ("request_id", "item_id"), what, "item_id")
    asked = column(table, "request_id", known.type)
    request = _places(asked, known)
    if (request < 0).any():
        first = asked[int(np.argmax(request < 0))].as_py()
        raise InputError(
            f"candidates: {int((request < 0).sum()):,} rows are of requests that are not there, "
            f"for example {first!r}. Expected request_ids of the requests."
        )
    return request, column(table, "item_id", bundle.items.ids.type)


def _places(values: pa.Array, known: pa.Array) -> np.ndarray:
    found = pc.index_in(values, value_set=known)
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _of_list_column(requests: pa.Table) -> tuple[np.ndarray, pa.Array]:
    lists = requests[CANDIDATES].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise InputError(
            f"requests: column '{CANDIDATES}' has type {lists.type}. Expected lists of item ids."
        )
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = pa.table({"item_id": lists.flatten()})
    refuse_nulls(values, ("item_id",), f"requests: column '{CANDIDATES}'", "item_id")
    return np.repeat(np.arange(len(lists)), lengths), column(values, "item_id")
