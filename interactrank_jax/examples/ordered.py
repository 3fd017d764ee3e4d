"""A log in order: its requests, impressions and items numbered, as everything is joined."""

import dataclasses
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from interactrank_jax.examples import splits
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.items import Items
from interactrank_jax.examples.plan import Plan
from interactrank_jax.examples.requests import Requests, read_requests
from interactrank_jax.examples.splits import Days, Rows
from interactrank_jax.log.read import Log
from interactrank_jax.state import engines
from interactrank_jax.state.spec import QUERY_ROW


@dataclasses.dataclass(frozen=True)
class OrderedLog:
    """A validated log whose requests, impressions and items have numbers.

    Attributes:
      log: the log.
      requests: in order.
      rows: the impressions, by split and bucket.
      items: by their rows in the store.
      item_rows: columns `item_id` and `ITEM_ROW`, for an engine to join by.
      query_rows: columns `query_id` and `QUERY_ROW`, its place in `requests.queries`.
      backend: the engine.
      scratch: a directory for what does not fit into memory.
    """

    log: Log
    requests: Requests
    rows: Rows
    items: Items
    item_rows: ir.Table
    query_rows: ir.Table
    backend: ibis.BaseBackend
    scratch: Path

    @property
    def rank(self) -> np.ndarray:
        """`[I]` place of each item of the store in the order of ids."""
        return self.items.rank

    @property
    def numbers(self) -> dict[str, ir.Table]:
        """Numbers of queries and items, as `as_of.counts_as_of` takes them."""
        return {
            "query": self.query_rows.rename({"query:id": "query_id"}),
            "item": self.item_rows.rename({"item:id": "item_id"}),
        }


def order_log(
    plan: Plan,
    log: Log,
    old: Examples | None,
    backend: ibis.BaseBackend,
    scratch: Path,
    days: Days | None = None,
) -> OrderedLog:
    """Numbers a validated log.

    Args:
      plan: what is asked for.
      log: the log.
      old: examples whose items keep their rows, if any.
      backend: that reads it.
      scratch: a directory for what does not fit into memory.
      days: whose requests are taken, see `Days`; None for all.

    Raises:
      InputError: a split is empty.
    """
    requests = read_requests(log, plan.timeless, backend, scratch / "requests")
    rows = splits.split(plan, log, requests, days, backend, scratch / "rows")
    items = Items.read(log, backend, old)
    item_rows = items.table(backend, scratch / "items")
    codes = np.arange(len(requests.queries), dtype=np.int32)
    queries = pa.table({"query_id": requests.queries, QUERY_ROW: codes})
    query_rows = engines.write_arrow(backend, queries, scratch / "queries")
    return OrderedLog(log, requests, rows, items, item_rows, query_rows, backend, scratch)
