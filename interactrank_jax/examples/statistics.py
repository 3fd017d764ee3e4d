"""Statistics of training that models normalise by: of numeric features and of cross features."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from interactrank_jax.examples.encoder import CrossStatistics, Feature, NumericStatistics
from interactrank_jax.examples.format import REQUEST_ENTITIES
from interactrank_jax.io.errors import InputError


def numeric_statistics(name: str, values: np.ndarray, weights: np.ndarray) -> NumericStatistics:
    """Returns the statistics of one numeric feature.

    Args:
      name: of the feature.
      values: `[N]`.
      weights: `[N]` how often training saw each value; at least one is positive.

    Raises:
      InputError: a statistic is not finite.
    """
    values, weights = values[weights > 0].astype(np.float64), weights[weights > 0]
    logs = np.log1p(values - values.min())

    def mean_std(x: np.ndarray) -> tuple[float, float]:
        mean = np.average(x, weights=weights)
        return float(mean), float(np.sqrt(np.average((x - mean) ** 2, weights=weights)))

    result = NumericStatistics(
        float(values.min()), float(values.max()), *mean_std(values), *mean_std(logs)
    )
    if not np.isfinite(dataclasses.astuple(result)).all():
        raise InputError(
            f"feature '{name}' has statistics that are not finite: {result}. Expected finite "
            f"values in training: correct the log."
        )
    return result


def all_numeric_statistics(
    described: Sequence[Feature],
    request_numeric: np.ndarray,
    item_numeric: np.ndarray,
    item_counts: np.ndarray,
) -> dict[str, NumericStatistics]:
    """Returns the statistics of every numeric feature, as training sees it.

    Args:
      described: all features.
      request_numeric: `[E, Fn]` of the training examples.
      item_numeric: `[I, Fn]` of the items.
      item_counts: `[I]` training impressions of each.
    """
    result = {}
    once = np.ones(len(request_numeric))
    for entities, values, weights in (
        (REQUEST_ENTITIES, request_numeric, once),
        (("item",), item_numeric, item_counts),
    ):
        names = [f.name for f in described if f.entity in entities and f.kind == "numeric"]
        for column, name in enumerate(names):
            result[name] = numeric_statistics(name, values[:, column], weights)
    return result


class CrossSums:
    """What the statistics of the cross features need of training candidates, part by part.

    Sums are exact, so that they do not depend on the parts: a float32 squared has 48 bits, which
    are summed as two whole numbers for each power of two.

    Args:
      features: K.
    """

    def __init__(self, features: int):
        self._rows = 0
        self._known = np.zeros(features, np.int64)
        self._squares = [Fraction(0)] * features

    def add(self, values: np.ndarray) -> None:
        """Adds the values of some candidates, float32 `[M, K]`."""
        self._rows += len(values)
        for k, column in enumerate(values.T):
            known = column[column != 0].astype(np.float64)
            self._known[k] += len(known)
            self._squares[k] += exact_sum(known**2)

    def statistics(self) -> tuple[CrossStatistics, ...]:
        """Returns the statistics of each feature."""
        result = []
        for known, squares in zip(self._known.tolist(), self._squares, strict=True):
            rms = math.sqrt(squares / known) if known else 1.0
            result.append(CrossStatistics(known / max(self._rows, 1), rms))
        return tuple(result)


def exact_sum(values: np.ndarray) -> Fraction:
    """Returns the sum of non-negative float64 `[N]`, N < 2^26, without any rounding."""
    mantissa, exponent = np.frexp(values)
    low, span = int(exponent.min(initial=0)), int(np.ptp(exponent)) + 1 if len(values) else 1
    whole = (mantissa * 2.0**53).astype(np.int64)
    total = Fraction(0)
    for part, shift in ((whole >> 27, 27), (whole & (2**27 - 1), 0)):
        # Below 2^53 a sum of whole numbers is exact in float64.
        sums = np.bincount(exponent - low, part.astype(np.float64), span)
        for power, value in enumerate(sums.tolist()):
            total += Fraction(int(value)) * Fraction(2) ** (power + low - 53 + shift)
    return total
