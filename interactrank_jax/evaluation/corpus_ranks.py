"""Where engaged items rank among all items: what figures over the corpus are made of.

All items are those that existed at the request: one whose `created_at` is later is no candidate,
but for an engaged one, which evidently existed. An item without `created_at` always existed.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from interactrank_jax import metrics
from interactrank_jax.evaluation import uncertainty
from interactrank_jax.evaluation.rows import Rows
from interactrank_jax.evaluation.scorers import Scorer
from interactrank_jax.examples.format import NO_GROUP, PADDING, Examples
from interactrank_jax.examples.input import request_batches
from interactrank_jax.io import interrupts

RECALL_AT = (10, 100, 1000)


class CorpusRanks(NamedTuple):
    """Ranks of engaged items among all items.

    Attributes:
      row: `[n]` which of the `Rows`.
      request: `[n]`.
      rank: `[n]` from 1, ties against the model.
      is_dated: whether items are known to exist from a time on.
    """

    row: np.ndarray
    request: np.ndarray
    rank: np.ndarray
    is_dated: bool

    def figures(self, replicates: int, kept: np.ndarray | None = None) -> dict[str, list[float]]:
        """Returns [value, low, high] of Recall@k and MRR, by name; nothing where no row is left.

        Args:
          replicates: of the intervals.
          kept: `[rows]` bool: relevant items that count; None for all.
        """
        inside = np.ones(len(self.row), bool) if kept is None else kept[self.row]
        if not inside.any():
            return {}
        ranks = self.rank[inside], self.request[inside]
        of_requests = {
            f"recall_at_{k}": metrics.corpus_recall_by_request(*ranks, k) for k in RECALL_AT
        }
        of_requests["corpus_mrr"] = metrics.corpus_reciprocal_rank_by_request(*ranks)
        return {
            name: [float(v.mean()), *uncertainty.mean_interval(v, replicates=replicates)]
            for name, v in of_requests.items()
        }


def corpus_ranks(
    scorer: Scorer, rows: Rows, engaged: np.ndarray, examples: Examples, split: str, config: Any
) -> CorpusRanks:
    """Ranks every engaged item among all items, for requests that have one.

    With `config.corpus_requests` only of that many requests, the same for every scorer, of those
    with cross features beyond their slate.
    """
    relevant = np.flatnonzero(engaged)
    relevant = relevant[np.argsort(rows.request[relevant], kind="stable")]
    wanted = np.unique(rows.request[relevant])
    wanted = wanted[examples.sparse_cross(split).group[wanted] != NO_GROUP]
    limit = int(config.corpus_requests)
    if limit and len(wanted) > limit:
        wanted = np.sort(np.random.default_rng(0).choice(wanted, limit, replace=False))
    is_wanted = np.zeros(examples.split(split).requests, bool)
    is_wanted[wanted] = True

    request_of_relevant, item = rows.request[relevant], rows.item[relevant]
    dates = _dates(examples, split)
    order, ranks = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in request_batches(examples, split, int(config.batch_size), is_wanted):
        requests = batch["request_index"]  # of padding -1, which has no relevant item
        first = np.searchsorted(request_of_relevant, requests)
        last = np.searchsorted(request_of_relevant, requests, side="right")
        for start, scores in scorer.corpus(batch, int(config.corpus_batch_size)):
            interrupts.check()
            scores[:, PADDING] = -np.inf
            for row, of_corpus in enumerate(scores, start):
                of_items = of_corpus[item[first[row] : last[row]]]
                if dates is not None:
                    created, time = dates
                    of_corpus[created > time[requests[row]]] = -np.inf
                    of_corpus[item[first[row] : last[row]]] = of_items
                ranks.append((of_corpus >= of_items[:, None]).sum(1))
                order.append(np.arange(first[row], last[row]))
    chosen = relevant[np.concatenate(order)]
    return CorpusRanks(
        chosen, rows.request[chosen], np.concatenate(ranks), is_dated=dates is not None
    )


def _dates(examples: Examples, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns `[I]` when each store row came to be, -inf if unknown, and `[requests]` their times.

    None where the log has no time, or no item a `created_at`.
    """
    items, requests = examples.raw_items(), examples.raw_requests(split)
    if "created_at" not in items.column_names or "timestamp" not in requests.column_names:
        return None
    created = items["created_at"].cast(pa.float64()).fill_null(-np.inf).to_numpy()
    return created, requests["timestamp"].to_numpy()
