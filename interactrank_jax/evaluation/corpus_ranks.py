"""Where engaged items rank among all items: what recall over the corpus is made of."""

from typing import Any, NamedTuple

import numpy as np

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
    """

    row: np.ndarray
    request: np.ndarray
    rank: np.ndarray

    def recall(self, replicates: int, kept: np.ndarray | None = None) -> dict[str, list[float]]:
        """Returns [value, low, high] of Recall@k, by name; nothing where no row is left.

        Args:
          replicates: of the intervals.
          kept: `[rows]` bool: relevant items that count; None for all.
        """
        inside = np.ones(len(self.row), bool) if kept is None else kept[self.row]
        if not inside.any():
            return {}
        figures = {}
        for k in RECALL_AT:
            recall = metrics.corpus_recall_by_request(self.rank[inside], self.request[inside], k)
            bounds = uncertainty.mean_interval(recall, replicates=replicates)
            figures[f"recall_at_{k}"] = [float(recall.mean()), *bounds]
        return figures


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
                ranks.append((of_corpus >= of_items[:, None]).sum(1))
                order.append(np.arange(first[row], last[row]))
    chosen = relevant[np.concatenate(order)]
    return CorpusRanks(chosen, rows.request[chosen], np.concatenate(ranks))
