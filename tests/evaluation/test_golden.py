"""Metrics and intervals give the values that they always gave."""

import json
from pathlib import Path

import numpy as np
import pytest

from interactrank_jax import metrics
from interactrank_jax.evaluation import calibration, uncertainty
from tests.evaluation.golden_rows import rows

RECORDED = json.loads(Path(__file__).with_name("golden.json").read_text())
ROWS = rows()
REPLICATES = 40


def check(values, recorded):
    assert sorted(values) == sorted(recorded)
    for name, value in recorded.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-12, atol=1e-15, err_msg=name)


def test_metrics_and_their_intervals():
    columns = [ROWS[name] for name in ("request", "score", "engaged", "logit")]
    check(metrics.evaluate_all(*columns), RECORDED["metrics"])
    check(uncertainty.intervals(*columns, replicates=REPLICATES), RECORDED["intervals"])


def test_calibration():
    probability = 1 / (1 + np.exp(-ROWS["logit"].astype(np.float64)))
    prepared = calibration.calibration_statistics(ROWS["request"], probability, ROWS["engaged"])
    requests = len(np.unique(ROWS["request"]))
    once = np.ones(requests)
    check({name: value(once) for name, value in prepared.items()}, RECORDED["calibration"])
    bounds = uncertainty.bootstrap(prepared, requests, replicates=REPLICATES)
    check(bounds, RECORDED["calibration_intervals"])


def test_paired_differences():
    columns = [ROWS[name] for name in ("request", "score", "logit", "engaged")]
    values = uncertainty.paired_differences(*columns, metrics.METRICS, replicates=REPLICATES)
    check(values, RECORDED["paired"])


@pytest.mark.parametrize("at_once", [1, 1_000, 1 << 20])
def test_intervals_do_not_depend_on_how_many_resamples_are_made_together(monkeypatch, at_once):
    monkeypatch.setattr(uncertainty, "NUMBERS_AT_ONCE", at_once)
    columns = [ROWS[name] for name in ("request", "score", "engaged", "logit")]
    check(uncertainty.intervals(*columns, replicates=REPLICATES), RECORDED["intervals"])
