"""Calibration errors: how far predicted probabilities are from what happens, in all and by bin."""

import numpy as np
from numpy.typing import ArrayLike

from interactrank_jax.evaluation.uncertainty import bootstrap
from interactrank_jax.metrics import Statistic
from interactrank_jax.metrics.arrays import group_edges, ratio, scored


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 20
) -> float:
    """Mean |predicted - observed| over bins of equal mass, weighted by the rows in each.

    Rows of one probability share a bin, the one their middle falls into: the value does not depend
    on the order of the rows, and a constant prediction is one bin.

    Args:
      probabilities: [n] in [0, 1].
      labels: [n] 0 or 1.
      bins: number of bins.
    """
    rows = np.arange(np.size(probabilities))
    prepared = calibration_statistics(rows, probabilities, labels, bins)
    return float(prepared["ece"](np.ones(rows.size)))


def predicted_over_observed(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Expected positives over counted ones: 1 is calibrated on average; NaN without a positive."""
    rows = np.arange(np.size(probabilities))
    prepared = calibration_statistics(rows, probabilities, labels)
    return float(prepared["predicted_over_observed"](np.ones(rows.size)))


def calibration_statistics(
    request: ArrayLike, probabilities: ArrayLike, labels: ArrayLike, bins: int = 20
) -> dict[str, Statistic]:
    """Prepares 'ece' and 'predicted_over_observed' for resampling; see `metrics.statistics`.

    The bins are those of all rows, also in a resample.
    """
    probabilities, labels = scored(probabilities, labels)
    requests, code = np.unique(np.asarray(request), return_inverse=True)
    order, bin_of_row = _bins_of_equal_mass(probabilities, bins)
    excess = probabilities[order].astype(float) - labels[order]
    cell = code[order] * bins + bin_of_row
    # [R, bins]: a resample's excess per bin is a weighted sum over requests.
    excess_of_request = np.bincount(cell, weights=excess, minlength=requests.size * bins)
    excess_of_request = excess_of_request.reshape(requests.size, bins)
    rows, predicted, observed = (
        np.bincount(code, weights=weights, minlength=requests.size)
        for weights in (None, probabilities, labels)
    )

    def ece(multiplicity: np.ndarray) -> np.ndarray:
        gaps = np.abs(multiplicity @ excess_of_request)
        return ratio(gaps.sum(-1), multiplicity @ rows)

    return {
        "ece": ece,
        "predicted_over_observed": lambda multiplicity: ratio(
            multiplicity @ predicted, multiplicity @ observed
        ),
    }


def reliability(
    request: ArrayLike,
    probabilities: ArrayLike,
    labels: ArrayLike,
    bins: int = 20,
    replicates: int = 200,
) -> list[dict[str, float]]:
    """Returns the reliability diagram of a prediction, a point for each bin that has rows.

    The bins are those of `expected_calibration_error`, which is the mean of |predicted - observed|
    over these points, weighted by their rows.

    Args:
      request: [n] integers; intervals are over resampled requests.
      probabilities: [n] in [0, 1].
      labels: [n] 0 or 1.
      bins: number of bins.
      replicates: number of resamples.

    Returns:
      `rows`, `predicted` and `observed` (means over the bin's rows), and `low` and `high`, the
      bounds of the 95% interval of `observed`; in the order of `predicted`.
    """
    probabilities, labels = scored(probabilities, labels)
    requests, code = np.unique(np.asarray(request), return_inverse=True)
    order, bin_of_row = _bins_of_equal_mass(probabilities, bins)
    cell = code[order] * bins + bin_of_row
    rows, predicted, observed = (
        np.bincount(cell, weights=weights, minlength=requests.size * bins).reshape(-1, bins)
        for weights in (None, probabilities[order], labels[order])
    )

    def rate(number: int) -> Statistic:
        return lambda multiplicity: ratio(
            multiplicity @ observed[:, number], multiplicity @ rows[:, number]
        )

    numbers = np.flatnonzero(rows.sum(0))
    prepared = {str(number): rate(int(number)) for number in numbers}
    bounds = bootstrap(prepared, requests.size, replicates=replicates)
    points = []
    for number in numbers:
        count = rows[:, number].sum()
        low, high = bounds[str(number)]
        means = (float(values[:, number].sum() / count) for values in (predicted, observed))
        columns = ("rows", "predicted", "observed", "low", "high")
        points.append(dict(zip(columns, (int(count), *means, low, high), strict=True)))
    return points


def _bins_of_equal_mass(probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the order of rows by probability, and the bin of each in that order, `[n]` both."""
    order = np.argsort(probabilities)
    edges = group_edges(probabilities[order])
    middle = (edges[1:] + edges[:-1]) / 2
    bin_of_group = np.floor(bins * middle / max(order.size, 1)).astype(np.int64)
    return order, np.repeat(bin_of_group, np.diff(edges))
