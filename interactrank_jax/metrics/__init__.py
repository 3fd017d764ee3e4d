"""Exact metrics of ranked scores.

All functions take flat NumPy arrays, one entry per candidate, in any order; the rows of one request
are those that share a value of `request`. A metric that is undefined on its rows (no positive, or
one class only where two are needed) is NaN. Writing NaN as JSON is left to the caller.

Ties. In a ranked list (hit, NDCG, MRR, recall) a tie is broken AGAINST the model: a negative comes
before a positive of the same score, so a scorer that says nothing earns nothing. The AUCs are
probabilities of a pair being in order and count a tie as one half, as scikit-learn does: of any two
rows (`roc_auc`), of two rows of one request, each request counting the same (`request_auc`) or each
pair (`pooled_request_auc`).

Intervals over requests are made from the same prepared metrics in `evaluation/uncertainty.py`.

Example:
  >>> import interactrank_jax as ir
  >>> request, scores, labels = [1, 1, 2, 2], [0.9, 0.1, 0.2, 0.8], [1, 0, 1, 0]
  >>> ir.metrics.request_auc(request, scores, labels)
  0.5
  >>> ir.metrics.hit_at_k(request, scores, labels, k=1)
  0.5
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from interactrank_jax.io.errors import InputError
from interactrank_jax.metrics.arrays import (
    flat,
    group_edges,
    ratio,
    scored,
    segment_sum,
    weights_of,
)

# Multiplicities of the requests [..., R], in the order of sorted request values -> the metric's
# values [...]: one resample, or many at once.
Statistic = Callable[[np.ndarray], np.ndarray]

METRICS = (
    "roc_auc",
    "pr_auc",
    "logloss",
    "request_auc",
    "pooled_request_auc",
    "hit_at_1",
    "hit_at_3",
    "hit_at_10",
    "ndcg_at_10",
    "mrr",
)
LOWER_IS_BETTER = frozenset(("logloss",))


# --- over rows --------------------------------------------------------------------------------


def roc_auc(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Probability that a positive outscores a negative; a tie counts one half.

    Args:
      scores: [n] anything ordered, infinities included.
      labels: [n] 0 or 1.
      weights: [n], not negative. A weight of 2 is the row given twice, 0 is the row left out.

    Returns:
      The area in [0, 1]; NaN unless both classes have weight.

    Raises:
      InputError: lengths differ, a score is NaN, a label is not 0 or 1, a weight is negative.
    """
    curve = _Curve(*scored(scores, labels))
    return float(curve.roc_auc(weights_of(weights, curve.order.size)[curve.order]))


def pr_auc(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Average precision: precision at each distinct score, weighted by the recall it adds.

    This is scikit-learn's `average_precision_score` (a step function, nothing interpolated).
    Arguments and errors as for `roc_auc`. NaN where there is no positive; 1 where all are.
    """
    curve = _Curve(*scored(scores, labels))
    return float(curve.average_precision(weights_of(weights, curve.order.size)[curve.order]))


def logloss(logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean negative log likelihood in nats, of probabilities sigmoid(logits).

    Computed from the logits, so a confident prediction is never rounded to 0 or 1.
    Arguments and errors as for `roc_auc`. NaN where there is no row of positive weight.
    """
    logits, labels = scored(logits, labels)
    weights = weights_of(weights, labels.size)
    return float(ratio(weights @ _row_logloss(logits, labels), weights.sum()))


class _Curve:
    """Rows ordered by falling score, once; any weighting of them then costs one running sum.

    Only groups of equal scores that hold a positive add to an area: all else is done per group.
    Weights are `[n]` in the order of `order`. Integers are summed exactly, and faster than floats.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray):
        self.order = np.argsort(scores)[::-1]
        edges = group_edges(scores[self.order])
        self._positives = np.flatnonzero(labels[self.order])
        group = np.searchsorted(edges, self._positives, side="right") - 1
        self._last = group_edges(group)[1:] - 1  # each group's last positive, among the positives
        self._starts, self._ends = edges[group[self._last]], edges[group[self._last] + 1]

    def roc_auc(self, weights: np.ndarray) -> np.ndarray:
        """Area by trapezoids."""
        running, true, positive = self._sums(weights)
        # Negatives through the group before and through this one: of those in it half are beaten.
        false_before = running[self._starts] - (true - positive)
        false_through = running[self._ends] - true
        all_true = true[-1:].sum()
        false = running[-1] - all_true
        return ratio(positive @ (false - (false_before + false_through) / 2), all_true * false)

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Sum of precision times added recall."""
        running, true, positive = self._sums(weights)
        through = running[self._ends]
        precision = np.divide(true, through, out=np.zeros(true.size), where=through > 0)
        return ratio(positive @ precision, true[-1:].sum())

    def _sums(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns sums of weights: before each row, of positives through each group and in it."""
        running = np.zeros(weights.size + 1, weights.dtype)
        np.cumsum(weights, out=running[1:])
        true = np.cumsum(weights[self._positives])[self._last]
        return running, true, np.diff(true, prepend=true.dtype.type(0))


# --- over requests ----------------------------------------------------------------------------


class Rankings:
    """Rows grouped by request and ranked by score, once; every per-request metric reads this.

    Each method returns [R] values aligned with `requests`, NaN where the request leaves the metric
    undefined. 1 million rows are grouped and ranked in a fraction of a second: one sort, no loop.

    Attributes:
      requests: [R] the distinct values of `request`, sorted.
      code: [n] index into `requests` of each row, in the order the rows were given.
    """

    def __init__(self, request: ArrayLike, scores: ArrayLike, labels: ArrayLike):
        """Ranks the rows.

        Args:
          request: [n] integers; rows of one request need not be neighbours.
          scores: [n]; higher ranks first.
          labels: [n] 0 or 1.

        Raises:
          InputError: lengths differ, a score is NaN, a label is not 0 or 1.
        """
        scores, labels = scored(scores, labels)
        request = flat("request", request, labels.size)
        # Last key first: by request, then falling score, then negatives before positives.
        order = np.lexsort((labels, -scores, request))
        request, self._scores, self._labels = request[order], scores[order], labels[order]
        edges = group_edges(request)
        self._starts, sizes = edges[:-1], np.diff(edges)
        self.requests = request[self._starts]
        self._row_request = np.repeat(np.arange(sizes.size), sizes)
        self._rank = 1 + np.arange(order.size) - np.repeat(self._starts, sizes)
        self._positives = segment_sum(self._labels.astype(np.int64), self._starts)
        self._negatives = sizes - self._positives
        self.code = np.empty(order.size, np.int64)
        self.code[order] = self._row_request

    def auc(self) -> np.ndarray:
        """ROC-AUC within each request, ties one half; NaN unless it has both classes."""
        return self._divide(*self.auc_pairs())

    def auc_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a positive and a negative of each request: in order (a tie one half), and all.

        Both 0 where a request has one class only.
        """
        edges = group_edges(self._row_request, self._scores)
        groups, sizes = edges[:-1], np.diff(edges)  # rows of one request and one score
        positives = segment_sum(self._labels.astype(np.int64), groups)
        negatives = sizes - positives
        # Negatives of the request that rank after the group: all of its negatives, less those
        # through the group (a running sum over all rows, counted from the request's start).
        request = self._row_request[groups]
        before_request = np.cumsum(self._negatives) - self._negatives
        through = np.cumsum(negatives) - before_request[request]
        won = positives * (self._negatives[request] - through + negatives / 2)
        first_group = np.searchsorted(groups, self._starts)
        return segment_sum(won, first_group), self._positives * self._negatives

    def hit_at_k(self, k: int) -> np.ndarray:
        """1 if a positive is among the first k, else 0; NaN without a positive."""
        found = segment_sum(self._labels * (self._rank <= k), self._starts) > 0
        return self._divide(found.astype(float), self._positives > 0)

    def ndcg_at_k(self, k: int) -> np.ndarray:
        """DCG of the first k, gain 1 and discount 1/log2(1 + rank), over the best one possible."""
        gains = self._labels * (self._rank <= k) / np.log2(1.0 + self._rank)
        ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2.0, k + 2)))])
        best = ideal[np.minimum(self._positives, k)]
        return self._divide(segment_sum(gains, self._starts), best)

    def reciprocal_rank(self) -> np.ndarray:
        """1 / rank of the first positive, the whole request ranked; NaN without a positive."""
        if not self._starts.size:
            return np.zeros(0)
        first = np.maximum.reduceat(self._labels / self._rank, self._starts)
        return self._divide(first, self._positives > 0)

    @staticmethod
    def _divide(value: np.ndarray, by: np.ndarray) -> np.ndarray:
        return np.divide(value, by, out=np.full(value.shape, np.nan), where=by > 0)


def request_auc(request: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean over requests with both classes of the ROC-AUC within the request, ties one half.

    Every such request counts the same. See `pooled_request_auc` for every pair the same.
    """
    return _nan_mean(Rankings(request, scores, labels).auc())


def pooled_request_auc(request: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of all pairs of a positive and a negative of one request that are in order.

    The pairs of all requests are pooled, a tie counts one half: a request weighs as much as it has
    pairs, as in InteractRank's code. In `request_auc` every request weighs the same. NaN where no
    request has both classes.
    """
    won, pairs = Rankings(request, scores, labels).auc_pairs()
    return float(ratio(won.sum(), pairs.sum()))


def hit_at_k(request: ArrayLike, scores: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Share of the requests with a positive that have one among their first k.

    A request of at most k candidates hits whatever the scores. Ties go against the model.
    """
    return _nan_mean(Rankings(request, scores, labels).hit_at_k(k))


def ndcg_at_k(request: ArrayLike, scores: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Mean NDCG@k over requests with a positive (binary gains). Ties go against the model."""
    return _nan_mean(Rankings(request, scores, labels).ndcg_at_k(k))


def mrr(request: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean over requests with a positive of 1 / its rank. Ties go against the model."""
    return _nan_mean(Rankings(request, scores, labels).reciprocal_rank())


def _checked_ranks(ranks: ArrayLike) -> np.ndarray:
    ranks = np.asarray(ranks)
    if ranks.size and ranks.min() < 1:
        raise InputError(f"ranks are counted from 1. Found {ranks.min()}.")
    return ranks


def corpus_recall_by_request(ranks: ArrayLike, request: ArrayLike, k: int) -> np.ndarray:
    """Recall@k of each request that has a relevant item, [R], in the order of request values.

    Args:
      ranks: [n] one per relevant (request, item): its rank in the whole corpus, counted from 1 and
        with ties against the model, that is 1 + the number of other items scored at least as high.
      request: [n] integers, the request of each.
      k: size of the list.

    Returns:
      [R] (relevant items with rank <= k) / (relevant items). A request with more than k relevant
      items cannot reach 1.
    """
    ranks = _checked_ranks(ranks)
    request = flat("request", request, ranks.size)
    _, code, relevant = np.unique(request, return_inverse=True, return_counts=True)
    return np.bincount(code, weights=ranks <= k, minlength=relevant.size) / relevant


def corpus_reciprocal_rank_by_request(ranks: ArrayLike, request: ArrayLike) -> np.ndarray:
    """1 / rank of the best relevant item of each request, [R]; see `corpus_recall_by_request`."""
    ranks = _checked_ranks(ranks)
    request = flat("request", request, ranks.size)
    _, code = np.unique(request, return_inverse=True)
    best = np.zeros(int(code.max(initial=-1)) + 1)
    np.maximum.at(best, code, 1 / ranks)
    return best


def corpus_recall(ranks: ArrayLike, request: ArrayLike, k: int) -> float:
    """Mean Recall@k over the requests that have a relevant item; see `corpus_recall_by_request`."""
    return _nan_mean(corpus_recall_by_request(ranks, request, k))


# --- all at once --------------------------------------------------------------------------


def statistics(
    request: ArrayLike, scores: ArrayLike, labels: ArrayLike, logits: ArrayLike | None = None
) -> tuple[dict[str, Statistic], int]:
    """Prepares every metric of `METRICS` for resampling.

    Returns:
      (name -> function of the multiplicities [..., R] of the requests, number of requests R).
    """
    of_rows, requests = row_statistics(request, scores, labels, logits)
    rankings = Rankings(request, scores, labels)
    won, pairs = rankings.auc_pairs()
    of_requests: dict[str, Statistic] = {
        "request_auc": mean_statistic(rankings.auc()),
        "pooled_request_auc": lambda multiplicity: ratio(multiplicity @ won, multiplicity @ pairs),
        "hit_at_1": mean_statistic(rankings.hit_at_k(1)),
        "hit_at_3": mean_statistic(rankings.hit_at_k(3)),
        "hit_at_10": mean_statistic(rankings.hit_at_k(10)),
        "ndcg_at_10": mean_statistic(rankings.ndcg_at_k(10)),
        "mrr": mean_statistic(rankings.reciprocal_rank()),
    }
    return of_rows | of_requests, requests


def row_statistics(
    request: ArrayLike, scores: ArrayLike, labels: ArrayLike, logits: ArrayLike | None = None
) -> tuple[dict[str, Statistic], int]:
    """Prepares roc_auc, pr_auc and logloss, which do not rank requests; see `statistics`."""
    scores, labels = scored(scores, labels)
    requests, code = np.unique(flat("request", request, labels.size), return_inverse=True)
    curve = _Curve(scores, labels)
    request_of_row = code[curve.order]
    rows = np.bincount(code, minlength=requests.size)
    if logits is None:
        losses = np.full(requests.size, np.nan)
    else:
        loss = _row_logloss(scored(logits, labels)[0], labels)
        losses = np.bincount(code, weights=loss, minlength=requests.size)

    def of_curve(area: Callable[[np.ndarray], np.ndarray]) -> Statistic:
        def of_resample(multiplicity: np.ndarray) -> np.ndarray:
            return area(multiplicity.astype(np.int64)[request_of_row])

        return lambda multiplicity: np.apply_along_axis(of_resample, -1, multiplicity)

    return {
        "roc_auc": of_curve(curve.roc_auc),
        "pr_auc": of_curve(curve.average_precision),
        "logloss": lambda multiplicity: ratio(multiplicity @ losses, multiplicity @ rows),
    }, requests.size


def evaluate_all(
    request: ArrayLike, scores: ArrayLike, labels: ArrayLike, logits: ArrayLike | None = None
) -> dict[str, float]:
    """Returns every metric of `METRICS`, each equal to the function of its name.

    Args:
      request: [n] integers.
      scores: [n] the ranked score.
      labels: [n] 0 or 1.
      logits: [n] for the log loss alone (the scores themselves, or after the prior correction).
        Without them `logloss` is NaN: a score such as BM25's is no logit.

    Raises:
      InputError: lengths differ, a score is NaN, a label is not 0 or 1.
    """
    prepared, requests = statistics(request, scores, labels, logits)
    once = np.ones(requests)
    return {name: float(statistic(once)) for name, statistic in prepared.items()}


# --- shared -----------------------------------------------------------------------------------


def mean_statistic(values: np.ndarray) -> Statistic:
    """Prepares the mean of per-request values [R] for resampling; NaN values are left out."""
    defined = ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    return lambda multiplicity: ratio(multiplicity @ filled, multiplicity @ defined)


def _nan_mean(values: np.ndarray) -> float:
    return float(mean_statistic(values)(np.ones(values.size)))


def _row_logloss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, np.where(labels > 0, -1.0, 1.0) * logits.astype(np.float64))
