"""Statistics of training: weighted by what it saw, finite, and of no order."""

import math
from fractions import Fraction

import numpy as np
import pytest

from interactrank_jax.examples.statistics import CrossSums, exact_sum, numeric_statistics
from interactrank_jax.io.errors import InputError

NAN, INF = float("nan"), float("inf")


def test_numeric_statistics_are_weighted_by_what_training_saw():
    values = np.array([1.0, 3.0, 100.0], np.float32)
    statistics = numeric_statistics("price", values, np.array([3, 1, 0]))
    assert (statistics.minimum, statistics.maximum, statistics.mean) == (1.0, 3.0, 1.5)
    np.testing.assert_allclose(statistics.std, np.std([1, 1, 1, 3]))


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
def test_statistics_that_are_not_finite_name_the_feature(wrong):
    values = np.array([1.0, wrong, 2.0], np.float32)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(InputError, match="feature 'price' has statistics that are not finite"),
    ):
        numeric_statistics("price", values, np.ones(3))


def _floats(kind: str, count: int = 2_000) -> np.ndarray:
    """Random float32 values, of one size or of all that there are."""
    rng = np.random.default_rng(0)
    if kind == "shares":
        return rng.random(count, np.float32)
    if kind == "all bits":
        bits = rng.integers(0, 2**32, 2 * count, np.uint32).view(np.float32)
        return bits[np.isfinite(bits)][:count]
    ends = np.array([1, 2**23, 2**24 - 1, 0x7F7FFFFF, 0x00800000], np.uint32).view(np.float32)
    return np.concatenate([np.repeat(ends, 9), rng.random(50, np.float32)])


@pytest.mark.parametrize("kind", ["shares", "all bits", "smallest and largest"])
def test_the_exact_sum_is_that_of_fractions_in_any_order(kind):
    squares = _floats(kind).astype(np.float64) ** 2
    expected = sum(map(Fraction, squares.tolist()), Fraction(0))
    assert exact_sum(squares) == expected
    rng = np.random.default_rng(1)
    for _ in range(3):
        assert exact_sum(rng.permutation(squares)) == expected


def test_the_exact_sum_of_many_equal_values_does_not_round():
    assert exact_sum(np.full(100_000, 0.1)) == 100_000 * Fraction(0.1)
    assert exact_sum(np.zeros(0)) == 0
    assert exact_sum(np.zeros(5)) == 0


def test_statistics_of_cross_features_do_not_depend_on_the_parts():
    rng = np.random.default_rng(0)
    # Many columns of values of all sizes: sums that round would differ in one of them.
    values = np.exp(rng.uniform(-6, 6, (2_000, 40))).astype(np.float32)
    values[rng.random(values.shape) < 0.4] = 0
    values[:, 2] = 0  # never known

    def statistics(rows: np.ndarray, parts: int):
        sums = CrossSums(40)
        for part in np.array_split(rows, parts):
            sums.add(part)
        return sums.statistics()

    whole = statistics(values, 1)
    assert statistics(rng.permutation(values), 7) == whole
    for column, expected in zip(values.T[:2], whole, strict=False):
        known = [Fraction(float(value)) for value in column if value]
        assert expected.coverage == len(known) / len(column)
        mean = sum(value * value for value in known) / len(known)
        assert math.isclose(expected.rms, math.sqrt(mean), rel_tol=1e-15)
    assert (whole[2].coverage, whole[2].rms) == (0.0, 1.0)


def test_statistics_of_no_candidate_are_those_of_nothing_known():
    (statistics,) = CrossSums(1).statistics()
    assert (statistics.coverage, statistics.rms) == (0.0, 1.0)
