"""How sure a metric is: intervals over resampled requests.

Candidates of one request are not independent, requests are: whole requests are resampled. A
resample is a vector of multiplicities, one per request, so every metric is prepared (sorted,
grouped) once and a replicate costs a weighted sum; many replicates are one matrix product.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from interactrank_jax.io import interrupts
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.metrics import METRICS, Statistic, mean_statistic, statistics

NUMBERS_AT_ONCE = 1 << 20  # multiplicities of resamples that are made together: 8 MiB


class PairedDifference(NamedTuple):
    """A metric of scorer A minus that of scorer B on the same requests, with its interval."""

    difference: float
    low: float
    high: float


def intervals(
    request: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    logits: ArrayLike | None = None,
    *,
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Returns (low, high) of every metric of `METRICS`; see `evaluate_all` and `bootstrap`."""
    prepared, requests = statistics(request, scores, labels, logits)
    return bootstrap(prepared, requests, replicates=replicates, level=level, seed=seed)


def mean_interval(
    values: ArrayLike, *, replicates: int = 200, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Returns (low, high) of the mean of per-request values [R], NaN ones left out."""
    values = np.asarray(values, float)
    return bootstrap(
        {"mean": mean_statistic(values)},
        values.size,
        replicates=replicates,
        level=level,
        seed=seed,
    )["mean"]


def paired_bootstrap(
    request: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    metric: str,
    *,
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Difference of one metric, A - B, resampling the same requests for both.

    What makes a request hard is hard for both scorers and cancels, so this interval is much
    narrower than the two of `intervals` suggest. For `logloss` the scores are read as logits.

    Args:
      request: [n] integers.
      scores_a: [n] scores of A.
      scores_b: [n] scores of B, for the same rows.
      labels: [n] 0 or 1.
      metric: one of `METRICS`.
      replicates: number of resamples.
      level: probability the interval is meant to cover.
      seed: of the resampling.

    Raises:
      InputError: an unknown metric, or rows as in `evaluate_all`.
    """
    return paired_differences(
        *(request, scores_a, scores_b, labels, (metric,)),
        replicates=replicates,
        level=level,
        seed=seed,
    )[metric]


def paired_differences(
    request: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    *,
    logits: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """Returns the difference of several metrics by name, each as `paired_bootstrap` has it.

    `logits` are those of A and of B, [n] each, for `logloss`; None where the scores are logits.
    """
    for name in names:
        if name not in METRICS:
            raise InputError(f"no metric named '{name}'.{did_you_mean(name, METRICS)}")
    logits_a, logits_b = logits
    of_a, requests = statistics(
        request, scores_a, labels, scores_a if logits_a is None else logits_a
    )
    of_b, _ = statistics(request, scores_b, labels, scores_b if logits_b is None else logits_b)

    def difference(name: str) -> Statistic:
        return lambda multiplicity: of_a[name](multiplicity) - of_b[name](multiplicity)

    prepared = {name: difference(name) for name in names}
    bounds = bootstrap(prepared, requests, replicates=replicates, level=level, seed=seed)
    once = np.ones(requests)
    return {
        name: PairedDifference(float(value(once)), *bounds[name])
        for name, value in prepared.items()
    }


def bootstrap(
    prepared: Mapping[str, Statistic],
    requests: int,
    *,
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals over resampled requests (Efron 1979), the same resamples for all.

    Args:
      prepared: name -> function of the multiplicities [..., R] of the requests.
      requests: R.
      replicates: number of resamples.
      level: probability the interval is meant to cover.
      seed: of the resampling; equal seeds give equal intervals.

    Returns:
      name -> (low, high). Resamples on which the metric is undefined are left out; (NaN, NaN) if
      it is on all of them.
    """
    generator = np.random.default_rng(seed)
    values = np.full((replicates, len(prepared)), np.nan)
    at_once = max(1, NUMBERS_AT_ONCE // max(requests, 1))
    for start in range(0, replicates if requests else 0, at_once):
        interrupts.check()
        multiplicities = np.empty((min(at_once, replicates - start), requests))
        for row in range(len(multiplicities)):
            drawn = generator.integers(requests, size=requests)
            multiplicities[row] = np.bincount(drawn, minlength=requests)
        for number, statistic in enumerate(prepared.values()):
            values[start : start + at_once, number] = statistic(multiplicities)
    tails = [(1 - level) / 2, (1 + level) / 2]
    result = {}
    for name, column in zip(prepared, values.T, strict=True):
        defined = column[~np.isnan(column)]
        low, high = np.quantile(defined, tails) if defined.size else (np.nan, np.nan)
        result[name] = (float(low), float(high))
    return result
