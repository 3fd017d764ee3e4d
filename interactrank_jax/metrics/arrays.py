"""Arrays of rows: checked, grouped, summed and divided; what the metrics share."""

import numpy as np
from numpy.typing import ArrayLike

from interactrank_jax.io.errors import InputError


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """Divides [...] by [...]; NaN where there is nothing to divide by."""
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    quotient = np.full(denominator.shape, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator > 0)


def group_edges(*keys: np.ndarray) -> np.ndarray:
    """Boundaries of the runs of equal rows, ends included: run i is [edges[i], edges[i + 1])."""
    size = keys[0].size
    if not size:
        return np.zeros(1, np.int64)
    changes = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return np.concatenate([[0], np.flatnonzero(changes) + 1, [size]])


def segment_sum(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums of the segments that begin at `starts` (every segment non-empty)."""
    return np.add.reduceat(values, starts) if starts.size else values[:0]


def flat(name: str, values: ArrayLike, size: int) -> np.ndarray:
    """Returns values [n], and refuses those of another shape by `name`."""
    array = np.asarray(values)
    if array.shape != (size,):
        raise InputError(
            f"{name} has shape {array.shape}. Expected one entry per row: ({size},). "
            "Flatten [requests, candidates] arrays and leave padding out first."
        )
    return array


def scored(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Checks and returns (scores as floats [n], labels as float64 0/1 [n])."""
    labels = np.asarray(labels)
    labels = flat("labels", labels, labels.size)
    scores = flat("scores", scores, labels.size)
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    nan = np.isnan(scores)
    if nan.any():
        raise InputError(
            f"scores: {nan.sum()} of {nan.size} are NaN, the first at row {nan.argmax()}. A NaN "
            "cannot be ranked: find the model input or parameter that is not finite."
        )
    other = (labels != 0) & (labels != 1)
    if other.any():
        raise InputError(
            f"labels: {other.sum()} of {other.size} are neither 0 nor 1, for example "
            f"{labels[other.argmax()]} at row {other.argmax()}."
        )
    return scores, labels.astype(np.float64)


def weights_of(weights: ArrayLike | None, size: int) -> np.ndarray:
    """Returns weights [n] as float64, 1 by default, and refuses negative ones and NaN."""
    if weights is None:
        return np.ones(size)
    array = flat("weights", weights, size).astype(np.float64)
    if not (array >= 0).all():
        bad = ~(array >= 0)
        raise InputError(
            f"weights: {bad.sum()} of {size} are negative or NaN, for example "
            f"{array[bad.argmax()]} at row {bad.argmax()}."
        )
    return array
