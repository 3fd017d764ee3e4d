"""The reliability diagram: the points that the calibration error is the mean of."""

import numpy as np
import pytest

from interactrank_jax.evaluation import evaluate
from interactrank_jax.evaluation.calibration import expected_calibration_error, reliability
from interactrank_jax.io import files
from tests.evaluation.golden_rows import rows

ROWS = rows()
PROBABILITY = 1 / (1 + np.exp(-ROWS["logit"].astype(np.float64)))


def mean_distance(points):
    counts = np.array([point["rows"] for point in points])
    gaps = [abs(point["predicted"] - point["observed"]) for point in points]
    return float(counts @ gaps / counts.sum())


@pytest.mark.parametrize("probability", [PROBABILITY, np.round(PROBABILITY, 1)], ids=["", "ties"])
def test_the_calibration_error_is_its_mean_distance_from_the_diagonal(probability):
    labels = ROWS["engaged"]
    points = reliability(ROWS["request"], probability, labels, replicates=20)
    assert sum(point["rows"] for point in points) == len(labels)
    expected = expected_calibration_error(probability, labels)
    assert mean_distance(points) == pytest.approx(expected, rel=1e-6)
    predicted = [point["predicted"] for point in points]
    assert predicted == sorted(predicted)


def test_a_point_has_the_means_of_its_bin():
    request, labels = np.arange(6), np.array([0, 0, 1, 0, 1, 1])
    probability = np.array([0.1, 0.2, 0.2, 0.6, 0.7, 0.9])
    low, high = reliability(request, probability, labels, bins=2, replicates=0)
    assert (low["rows"], high["rows"]) == (3, 3)
    assert low["predicted"] == pytest.approx(0.5 / 3)
    assert low["observed"] == pytest.approx(1 / 3)
    assert high["predicted"] == pytest.approx(2.2 / 3)
    assert high["observed"] == pytest.approx(2 / 3)
    assert np.isnan(low["low"])  # no resamples, no interval


def test_a_constant_is_one_point():
    (point,) = reliability(np.arange(50), np.full(50, 0.3), np.arange(50) % 2, replicates=20)
    assert point["observed"] == pytest.approx(0.5)
    assert point["low"] < 0.5 < point["high"]


def test_intervals_widen_where_requests_are_alike():
    """Rows of a request stand and fall together: an interval over rows would be too narrow."""
    request = np.repeat(np.arange(40), 25)
    labels = (request % 2).astype(int)
    alike, apart = (
        reliability(of, np.full(1000, 0.5), labels, replicates=200)[0]
        for of in (request, np.arange(1000))
    )
    assert alike["high"] - alike["low"] > 3 * (apart["high"] - apart["low"])


def test_evaluate_writes_one_for_each_head(trained_run, examples_path):
    result = evaluate.evaluate(trained_run, examples_path, "test")
    written = files.read_json(trained_run / "eval" / "test.json")
    assert set(written["reliability"]) == set(result["heads"])
    for head, points in written["reliability"].items():
        assert mean_distance(points) == pytest.approx(result["heads"][head]["ece"][0], rel=1e-5)
