"""A logistic regression over what history knows: a model of the same inputs must pass it.

    logit_h = b_h + sum_k w_hk f(x_k) + sum_u v_hu z_u

x are the cross features, f as in `models/cross.py` (by their training scale, damped to a signed
log1p under 'log'), z the user's counts and rates, standardised. Convex, so that there is one best
fit: by scikit-learn, on training rows, with a ridge penalty of |w|^2 / 2 against the sum over rows.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from interactrank_jax.examples.format import REQUEST_ENTITIES, Examples
from interactrank_jax.io import interrupts
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import LabelRule

ROWS = 1_000_000  # training candidates at most: its blocks are in random order, so the first do
LEAST_SHARE = 1e-6  # of a label that training never saw, so that its logit is finite


@dataclasses.dataclass(frozen=True)
class Regression:
    """A fitted logistic regression.

    Attributes:
      transform: 'log' or 'linear', see `models/cross.py`.
      scale: `[K]` root mean square of each cross feature's non-zero training values.
      rates: `[U]` places of the user's counts and rates among the numeric features of requests.
      mean, std: `[U]` of those in training.
      weight: `[K + U, H]`.
      bias: `[H]`.
    """

    transform: str
    scale: np.ndarray
    rates: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns `[R, C, H]` of a batch with `cross` and `request_numeric`."""
        return self.of_cross(batch["cross"]) + self.of_requests(batch)[:, None]

    def of_cross(self, cross: np.ndarray) -> np.ndarray:
        """Returns what cross features `[..., K]` add, `[..., H]`."""
        return transformed(cross, self.scale, self.transform) @ self.weight[: len(self.scale)]

    def of_requests(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns what requests have by themselves, bias included: `[R, H]`."""
        numeric = batch["request_numeric"][:, list(self.rates)]
        return (numeric - self.mean) / self.std @ self.weight[len(self.scale) :] + self.bias


def transformed(cross: np.ndarray, scale: np.ndarray, transform: str) -> np.ndarray:
    """Returns cross features as models project them, see `models.cross.scale_cross`."""
    scaled = np.asarray(cross, np.float64) / scale
    return np.sign(scaled) * np.log1p(np.abs(scaled)) if transform == "log" else scaled


def fit_regression(
    examples: Examples,
    rule: LabelRule,
    transform: str = "log",
    weights: Callable[[np.ndarray], np.ndarray] | None = None,
    with_rates: bool = True,
) -> Regression:
    """Fits one logistic regression per head on the training split.

    Args:
      examples: the examples.
      rule: what the heads' labels are.
      transform: of the cross features.
      weights: of rows by their actions `[n, A]`; all 1 by default.
      with_rates: whether the user's counts and rates are inputs too.

    Raises:
      InputError: scikit-learn is not installed, or the examples have neither input or one that is
        not finite.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise InputError(
            "a logistic regression needs scikit-learn: pip install -c constraints.txt -e '.[data]'."
        ) from error
    encoder = examples.metadata.encoder
    rates = _rate_columns(examples) if with_rates else ()
    if not encoder.cross and not rates:
        raise InputError("these examples have no cross features and no rates to regress on.")
    cross, numeric, actions = _training_rows(examples, rates)
    scale = np.array([encoder.cross_statistics[name].rms for name in encoder.cross])
    mean = numeric.mean(0) if rates else np.zeros(0)
    std = np.maximum(numeric.std(0), 1e-6) if rates else np.ones(0)
    inputs = np.concatenate([transformed(cross, scale, transform), (numeric - mean) / std], 1)
    if not np.isfinite(inputs).all():
        raise InputError(
            "cross features or rates of training rows are not finite: prepare the examples again."
        )
    row_weights = None if weights is None else np.asarray(weights(actions), np.float64)
    labels = np.asarray(rule.labels(actions))
    weight, bias = np.zeros((inputs.shape[1], labels.shape[1])), np.zeros(labels.shape[1])
    for head, label in enumerate(labels.T):
        interrupts.check()
        share = float(np.average(label, weights=row_weights))
        if share in (0.0, 1.0):
            share = min(max(share, LEAST_SHARE), 1 - LEAST_SHARE)
            bias[head] = np.log(share / (1 - share))
            continue
        model = LogisticRegression(max_iter=1000).fit(inputs, label, row_weights)
        weight[:, head], bias[head] = model.coef_[0], model.intercept_[0]
    return Regression(transform, scale, rates, mean, std, weight, bias)


def _rate_columns(examples: Examples) -> tuple[int, ...]:
    """Returns the places of the user's counts and rates among the numeric features of requests."""
    numeric = [f.name for f in examples.metadata.select(REQUEST_ENTITIES, "numeric")]
    actions = examples.metadata.actions
    names = {f"user_{what}_{action}" for action in actions for what in ("count", "rate")}
    return tuple(column for column, name in enumerate(numeric) if name in names)


def _training_rows(
    examples: Examples, rates: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns cross features `[n, K]`, rates `[n, U]` and actions `[n, A]` of training rows."""
    parts, rows = [], 0
    for block in examples.blocks("train", ("cross", "request_numeric", "actions", "mask")):
        interrupts.check()
        mask = block["mask"]
        numeric = block["request_numeric"][:, list(rates)].astype(np.float64)
        numeric = np.broadcast_to(numeric[:, None], (*mask.shape, len(rates)))
        parts.append((block["cross"][mask], numeric[mask], block["actions"][mask]))
        rows += int(mask.sum())
        if rows >= ROWS:
            break
    cross, numeric, actions = (np.concatenate(part) for part in zip(*parts, strict=True))
    return cross, numeric, actions
