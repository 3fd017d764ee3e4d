"""Platt scaling: the scale and bias of each head's logit with the least log loss on a split.

J. Platt, Probabilistic Outputs for Support Vector Machines (1999): a logistic regression of the
label on the score, whose targets (n+ + 1) / (n+ + 2) and 1 / (n- + 2) keep the optimum finite where
a score separates the classes. Convex: Newton's method with backtracking, as in H.-T. Lin, C.-J. Lin
and R. C. Weng, A Note on Platt's Probabilistic Outputs for Support Vector Machines (2007).
"""

import functools
import logging

import numpy as np

from interactrank_jax.serving.probabilities import Calibration, sigmoid

LEAST_OF_CLASS = 20  # rows of either label: ten for each of two parameters
LEAST_SCALE = 1e-6  # of standardised logits: of scores that rank the wrong way round, or not at all
ITERATIONS = 100
logger = logging.getLogger(__name__)


def fit_calibration(logits: np.ndarray, labels: np.ndarray, prior: Calibration) -> Calibration:
    """Fits scale and bias of each head; a head whose rows do not allow it keeps 1 and 0.

    Args:
      logits: `[n, H]` of validation rows.
      labels: `[n, H]` bool.
      prior: the heads and what the prior correction subtracts; its scale and bias are not used.
    """
    corrected = prior.corrected(logits)
    fits: list[tuple[float, float] | None] = []
    for number, head in enumerate(prior.heads):
        logit, label = corrected[:, number], np.asarray(labels[:, number], bool)
        reason = why_not(logit, label)
        fits.append(None if reason else platt_scaling(logit, label))
        if reason:
            say_why_not(head, reason)
    return Calibration(
        prior.heads,
        prior.offsets,
        tuple(1.0 if pair is None else pair[0] for pair in fits),
        tuple(0.0 if pair is None else pair[1] for pair in fits),
        tuple(pair is not None for pair in fits),
    )


@functools.lru_cache
def say_why_not(head: str, reason: str) -> None:
    """Logs that a head is not calibrated; once a process, for each validation finds the same."""
    logger.info("head '%s' is not calibrated on validation: %s", head, reason)


def why_not(logit: np.ndarray, label: np.ndarray) -> str:
    """Returns why no scale and bias can be fitted to `[n]` rows; '' where they can."""
    positives = int(label.sum())
    negatives = len(label) - positives
    if min(positives, negatives) < LEAST_OF_CLASS:
        return (
            f"{positives:,} positive and {negatives:,} negative rows, of {LEAST_OF_CLASS} needed "
            f"of each"
        )
    return "" if np.isfinite(logit).all() else "logits that are not finite"


def platt_scaling(logit: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Returns the scale > 0 and the bias of `[n]` finite logits, whose labels are of both classes.

    Where logits are all equal the scale is 1. Where they rank against the label the best positive
    scale is the least one, `LEAST_SCALE` of a standard deviation.
    """
    positives = label.sum()
    negatives = len(label) - positives
    target = np.where(label, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    share = float(target.mean())
    prior = float(np.log(share / (1 - share)))
    center, spread = float(logit.mean()), float(logit.std())
    if spread <= 1e-9 * max(abs(center), 1.0):
        return 1.0, prior - center
    slope, intercept = _newton((logit - center) / spread, target, prior)
    if slope < LEAST_SCALE:
        slope, intercept = LEAST_SCALE, prior
    scale = slope / spread
    return scale, intercept - scale * center


def _newton(values: np.ndarray, target: np.ndarray, intercept: float) -> tuple[float, float]:
    """Returns the slope and intercept of the least cross entropy, from (0, `intercept`)."""
    inputs = np.stack([values, np.ones_like(values)], 1)
    point = np.array([0.0, intercept])

    def loss(point: np.ndarray) -> float:
        logits = inputs @ point
        return float(np.mean(np.logaddexp(0.0, logits) - target * logits))

    value = loss(point)
    for _ in range(ITERATIONS):
        probability = sigmoid(inputs @ point)
        gradient = inputs.T @ (probability - target) / len(target)
        if np.abs(gradient).max() < 1e-10:
            break
        weight = probability * (1 - probability) / len(target)
        hessian = (inputs * weight[:, None]).T @ inputs + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (after := loss(point - size * step)) > value - 1e-4 * size * (gradient @ step):
            size /= 2
            if size < 1e-10:
                return float(point[0]), float(point[1])
        point, value = point - size * step, after
    return float(point[0]), float(point[1])
