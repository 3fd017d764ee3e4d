"""Platt scaling: the fit by hand, by scikit-learn, and where it is not made."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from interactrank_jax import metrics
from interactrank_jax.evaluation.platt import (
    LEAST_OF_CLASS,
    fit_calibration,
    platt_scaling,
    say_why_not,
)
from interactrank_jax.serving.probabilities import Calibration


def log_odds(share):
    return np.log(share / (1 - share))


def drawn(rows=4_000, slope=0.6, bias=-0.4, seed=0):
    """Returns logits and labels whose log odds are `slope` x logit + `bias`."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1.0, 1.5, rows).astype(np.float32)
    return logit, rng.random(rows) < 1 / (1 + np.exp(-(slope * logit + bias)))


def test_two_values_by_hand():
    """Two parameters, two values: at each the probability is the mean of its targets."""
    logit = np.repeat([2.0, 5.0], [60, 40])
    label = np.concatenate([np.arange(60) < 15, np.arange(40) < 25])
    positive, negative = 41 / 42, 1 / 62  # of 40 positives and 60 negatives
    low = (15 * positive + 45 * negative) / 60
    high = (25 * positive + 15 * negative) / 40
    scale, bias = platt_scaling(logit, label)
    slope = (log_odds(high) - log_odds(low)) / 3
    assert scale == pytest.approx(slope, abs=1e-9)
    assert bias == pytest.approx(log_odds(low) - 2 * slope, abs=1e-9)


def test_it_is_the_convex_fit_to_the_targets():
    logit, label = drawn()
    positive = (label.sum() + 1) / (label.sum() + 2)
    negative = 1 / ((~label).sum() + 2)
    target = np.where(label, positive, negative)
    expected = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(logit, 2)[:, None].astype(float),
        np.repeat([1, 0], len(logit)),
        np.concatenate([target, 1 - target]),
    )
    scale, bias = platt_scaling(logit.astype(float), label)
    assert scale == pytest.approx(expected.coef_[0, 0], abs=1e-5)
    assert bias == pytest.approx(expected.intercept_[0], abs=1e-5)
    assert scale == pytest.approx(0.6, abs=0.08)
    assert bias == pytest.approx(-0.4, abs=0.12)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e4])
def test_the_probability_does_not_depend_on_how_logits_are_scaled(factor):
    logit, label = drawn()
    scale, bias = platt_scaling(logit.astype(float), label)
    other_scale, other_bias = platt_scaling(factor * (logit.astype(float) + 7), label)
    np.testing.assert_allclose(
        other_scale * factor * (logit.astype(float) + 7) + other_bias,
        scale * logit + bias,
        atol=1e-6,
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_head_ranks_as_before_whatever_was_fitted(seed):
    """Also where scores rank against the label, and where they are far too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(500, 3)).astype(np.float32) * [1.0, 30.0, 1e-3] + [0.0, 4.0, 100.0]
    logits = logits.astype(np.float32)
    labels = rng.random((500, 3)) < 1 / (1 + np.exp(np.array([-1, -1, 1]) * logits[:, :1]))
    heads = ("a", "b", "c")
    fitted = fit_calibration(logits, labels, Calibration.unfitted(heads, (0.3, -2.0, 0.0)))
    assert fitted.fitted == (True, True, True)
    assert all(scale > 0 for scale in fitted.scale)
    calibrated = fitted.logits(logits)
    for head in range(3):
        before, after = logits[:, head], calibrated[:, head]
        assert metrics.roc_auc(after, labels[:, head]) == metrics.roc_auc(before, labels[:, head])
        np.testing.assert_array_equal(np.argsort(before), np.argsort(after))
        assert len(np.unique(after)) == len(np.unique(before))


def test_no_head_has_a_log_loss_above_that_of_a_constant():
    rng = np.random.default_rng(3)
    label = rng.random(3_000) < 0.2
    noise = rng.normal(size=3_000)
    logits = np.stack([20 * noise, label + noise, -(label + noise), 0 * noise], 1)
    labels = np.repeat(label[:, None], 4, 1)
    heads = ("noise", "signal", "reversed", "constant")
    fitted = fit_calibration(logits, labels, Calibration.unfitted(heads, (0.0,) * 4))
    constant = metrics.logloss(np.full(3_000, log_odds(label.mean())), label)
    losses = [metrics.logloss(column, label) for column in fitted.logits(logits).T]
    assert max(losses) <= constant + 1e-6
    assert losses[1] < constant - 0.05
    means = fitted.probabilities(logits).mean(0)
    np.testing.assert_allclose(means, label.mean(), atol=1e-3)
    assert fitted.scale[3] == 1.0


def test_a_score_that_separates_the_classes_has_a_finite_fit():
    logit = np.linspace(-3, 3, 200)
    scale, bias = platt_scaling(logit, logit > 0)
    assert np.isfinite([scale, bias]).all()
    assert 1 < scale < 1e3


@pytest.mark.parametrize(
    ("positives", "negatives", "reason"),
    [
        (0, 500, "0 positive and 500 negative rows"),
        (500, 0, "500 positive and 0 negative rows"),
        (LEAST_OF_CLASS - 1, 500, "19 positive and 500 negative rows, of 20 needed of each"),
    ],
)
def test_too_few_rows_of_a_class_leave_the_prior_correction_and_say_so(
    positives, negatives, reason, caplog
):
    rng = np.random.default_rng(0)
    count = positives + negatives
    labels = np.stack([np.arange(count) < positives, rng.random(count) < 0.5], 1)
    logits = rng.normal(size=(count, 2))
    prior = Calibration.unfitted(("rare", "common"), (1.5, 0.0))
    say_why_not.cache_clear()
    with caplog.at_level("INFO"):
        for _ in range(3):
            fitted = fit_calibration(logits, labels, prior)
    assert fitted.fitted == (False, True)
    np.testing.assert_array_equal(fitted.logits(logits)[:, 0], logits[:, 0] - 1.5)
    (said,) = (record.message for record in caplog.records)
    assert "head 'rare' is not calibrated on validation" in said
    assert reason in said


def test_an_offset_is_taken_off_before_the_fit():
    """Weights of training shift a logit; what is fitted after the correction is the same."""
    logit, label = drawn()
    fits = [
        fit_calibration(
            (logit.astype(float) + offset)[:, None],
            label[:, None],
            Calibration.unfitted(("engaged",), (offset,)),
        )
        for offset in (0.0, 2.5)
    ]
    assert fits[0].scale == pytest.approx(fits[1].scale, rel=1e-9)
    assert fits[0].bias == pytest.approx(fits[1].bias, rel=1e-9)
    assert fits[1].offsets == (2.5,)
