"""Query histories: the items most engaged for a query, as of a day or out of fold.

As of a day, counts are over all days at or before day(t) - lag_days; out of fold, over the training
rows of other folds. Equal counts are ordered by item id.
"""

from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax.state.arrays import columns_on_disk
from interactrank_jax.state.spec import ITEM_ROW
from interactrank_jax.state.store import Store

COUNT = "engagements"


def query_items(engagements: ir.Table, actions: tuple[str, ...]) -> ir.Table:
    """Counts the engagements of some actions per query, item and period."""
    rows = engagements.filter([engagements.action.isin(actions), engagements.query.notnull()])
    return rows.group_by(["query", "item", "period"]).aggregate(**{COUNT: rows.count()})


class QueryHistory:
    """The items most engaged for each query, for the queries and periods that are asked for.

    Args:
      counts: columns `query` (code), `period`, `item` (row of the item store) and `engagements`,
        `[N]` each, by query and period.
      rank: `[I]` place of each item of the store in the order of ids.
      length: Lq.
      lag_days: None where there is no time.
    """

    def __init__(
        self, counts: dict[str, np.ndarray], rank: np.ndarray, length: int, lag_days: int | None
    ):
        # Plain views: a slice of what NumPy knows as mapped into memory costs more than its values.
        self._counts = {name: np.asarray(values) for name, values in counts.items()}
        self._rank, self._length, self._lag_days = rank, length, lag_days
        self._keys, self._items = np.zeros(0, np.int64), np.zeros((0, length), np.int32)
        self._low, self._span = 0, 1

    @classmethod
    def read(
        cls,
        store: Store,
        backend: ibis.BaseBackend,
        queries: ir.Table,
        items: ir.Table,
        rank: np.ndarray,
        length: int,
        scratch: Path,
    ) -> "QueryHistory":
        """Reads the counts of some queries.

        Args:
          store: STATE.
          backend: where it is read.
          queries: columns `query_id` and `query`, its code.
          items: columns `item_id` and `ITEM_ROW`, its row in the item store.
          rank, length: see the class.
          scratch: a new directory for the arrays, which are mapped into memory.
        """
        rows = store.query_items(backend).rename(query_id="query", item_id="item")
        rows = rows.inner_join(queries, "query_id").inner_join(items, "item_id")
        rows = rows.order_by(["query", "period", "item_id"]).select(
            "query", "period", COUNT, item=ITEM_ROW
        )
        counts = columns_on_disk(backend, rows, scratch)
        return cls(counts, rank, length, store.recipe.lag_days)

    def ask(self, query: np.ndarray, period: np.ndarray, path: Path) -> None:
        """Ranks the items of some queries and periods, for `top` to look up.

        Args:
          query: `[N]` codes.
          period: `[N]` day of the request; its fold where there is no time.
          path: of a new file for the ranked items, which is mapped into memory.
        """
        self._low = int(period.min(initial=0))
        self._span = int(period.max(initial=0)) - self._low + 1
        keys = np.unique(self._key(query, period))
        self._keys = keys
        if not len(keys):
            return
        shape = (len(keys), self._length)
        if not self._length:
            self._items = np.zeros(shape, np.int32)
            return
        self._items = np.asarray(np.lib.format.open_memmap(path, "w+", np.int32, shape))
        asked, when = keys // self._span, keys % self._span + self._low
        queries, bounds = np.unique(asked, return_index=True)
        starts = np.searchsorted(self._counts["query"], queries, side="left")
        ends = np.searchsorted(self._counts["query"], queries, side="right")
        sweep = self._out_of_fold if self._lag_days is None else self._as_of_days
        bounds = np.append(bounds, len(keys))
        for number in np.flatnonzero(starts < ends).tolist():  # those that have any past
            rows = slice(starts[number], ends[number])
            low, high = bounds[number : number + 2]
            sweep(rows, when[low:high], self._items[low:high])

    def top(self, query: np.ndarray, period: np.ndarray) -> np.ndarray:
        """Returns the most engaged items of queries that `ask` was given, padded with 0.

        Returns:
          int32 `[N, Lq]` rows of the item store.
        """
        return self._items[np.searchsorted(self._keys, self._key(query, period))]

    def _key(self, query: np.ndarray, period: np.ndarray) -> np.ndarray:
        return query.astype(np.int64) * self._span + (period - self._low)

    def _as_of_days(self, rows: slice, days: np.ndarray, result: np.ndarray) -> None:
        """Writes the items of one query, whose counts are `rows`, as of ascending days.

        Counts only grow, so that the best items as of a day are among the best before it and those
        that were counted since.
        """
        ends = np.searchsorted(self._counts["period"][rows], days - self._lag_days, side="right")
        items, counts = self._counts["item"][rows].tolist(), self._counts[COUNT][rows].tolist()
        rank = self._rank[items].tolist()
        # One number that is greater for a higher count or, if equal, an earlier id.
        scores: dict[int, int] = {}
        best: list[int] = []
        done, step = 0, len(self._rank)
        for row, end in enumerate(ends.tolist()):
            if end > done:
                for at in range(done, end):
                    item = items[at]
                    scores[item] = scores.get(item, -rank[at]) + counts[at] * step
                recent = {*best, *items[done:end]}
                best = sorted(recent, key=scores.__getitem__, reverse=True)[: self._length]
                done = end
            if best:
                result[row, : len(best)] = best

    def _out_of_fold(self, rows: slice, folds: np.ndarray, result: np.ndarray) -> None:
        """Writes the items of one query, whose counts are `rows`, out of each fold."""
        items, local = np.unique(self._counts["item"][rows], return_inverse=True)
        order = np.argsort(self._rank[items])  # of ids, which decide between equal counts
        rank_of = np.empty(len(order), np.int64)
        rank_of[order] = np.arange(len(order))
        items, local = items[order], rank_of[local]
        period, count = self._counts["period"][rows], self._counts[COUNT][rows]
        for row, fold in enumerate(folds):
            visible = period != fold
            running = np.bincount(local[visible], count[visible], len(items)).astype(np.int64)
            self._best(items, running, result[row])

    def _best(self, items: np.ndarray, counts: np.ndarray, result: np.ndarray) -> None:
        """Writes the items of the highest counts, zero counts left out."""
        seen = np.flatnonzero(counts)
        if len(seen) > 4 * self._length:
            # All that tie with the last place stay in, so that item order decides among them.
            last = len(seen) - self._length
            seen = seen[counts[seen] >= np.partition(counts[seen], last)[last]]
        best = seen[np.argsort(-counts[seen], kind="stable")][: self._length]
        result[: len(best)] = items[best]
