"""A logistic regression over what history knows: a model of the same inputs must pass it.

    logit_h = b_h + sum_k w_hk f(x_k) + sum_u v_hu g(z_u)

x are the cross features, z the user's counts and rates, f and g as in `models/history_terms.py`.
Convex, so that there is one best fit: by scikit-learn, on training rows, with a ridge penalty of
|w|^2 / 2 against the sum over rows.
"""

import dataclasses
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from interactrank_jax.examples.format import Examples, Metadata
from interactrank_jax.io import interrupts
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.models.history_terms import transform_cross, transform_user_values
from interactrank_jax.models.inputs import Inputs

logger = logging.getLogger(__name__)

RowWeights = Callable[[np.ndarray, np.ndarray | None], np.ndarray]

ROWS = 1_000_000  # training candidates at most: its blocks are in random order, so the first do
MOST_ITERATIONS = 1000
LEAST_SHARE = 1e-6  # of a label that training never saw, so that its logit is finite


@dataclasses.dataclass(frozen=True)
class Regression:
    """A fitted logistic regression.

    Attributes:
      inputs: what it looks at.
      transform: of cross features, see `models/history_terms.py`.
      cross_weight: `[K, H]`.
      user_weight: `[U, H]`.
      bias: `[H]`.
    """

    inputs: Inputs
    transform: str
    cross_weight: np.ndarray
    user_weight: np.ndarray
    bias: np.ndarray

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns `[R, C, H]` of a batch with `cross` and `request_numeric`."""
        return self.of_cross(batch["cross"]) + self.of_requests(batch)[:, None]

    def of_cross(self, cross: np.ndarray) -> np.ndarray:
        """Returns what cross features `[..., K]` add, `[..., H]`."""
        return _cross_values(cross, self.inputs, self.transform) @ self.cross_weight

    def of_requests(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns what requests have by themselves, bias included: `[R, H]`."""
        values = _user_values(batch["request_numeric"], self.inputs)
        return values @ self.user_weight + self.bias


def _cross_values(cross: np.ndarray, inputs: Inputs, transform: str) -> np.ndarray:
    return np.asarray(transform_cross(jnp.asarray(cross, jnp.float32), inputs, transform))


def _user_values(numeric: np.ndarray, inputs: Inputs) -> np.ndarray:
    columns = numeric[..., list(inputs.request_columns)].astype(np.float32)
    return np.asarray(transform_user_values(jnp.asarray(columns), inputs.user_values))


def fit_regression(
    examples: Examples,
    rule: LabelRule,
    inputs: Inputs | None = None,
    transform: str = "odds",
    weights: RowWeights | None = None,
) -> Regression:
    """Fits one logistic regression per head on the training split.

    Args:
      examples: the examples.
      rule: what the heads' labels are.
      inputs: what to look at; all cross features and rates by default.
      transform: of the cross features.
      weights: of rows by their actions `[n, A]` and, where there are any, stages `[n]`; all 1 by
        default.

    Raises:
      InputError: the examples have neither cross features nor rates, or one that is not finite.
    """
    inputs = inputs or every_input(examples.metadata, rule.heads)
    if not inputs.cross and not inputs.user_values:
        raise InputError("these examples have no cross features and no rates to regress on.")
    values, actions, stage = _training_rows(examples, inputs, transform)
    if not np.isfinite(values).all():
        raise InputError(
            "cross features or rates of training rows are not finite: prepare the examples again."
        )
    row_weights = None if weights is None else np.asarray(weights(actions, stage), np.float64)
    labels = np.asarray(rule.labels(actions))
    weight, bias = np.zeros((values.shape[1], labels.shape[1])), np.zeros(labels.shape[1])
    for head, label in enumerate(labels.T):
        interrupts.check()
        weight[:, head], bias[head] = _fit_head(values, label, row_weights)
    return Regression(
        inputs, transform, weight[: len(inputs.cross)], weight[len(inputs.cross) :], bias
    )


def _fit_head(
    values: np.ndarray, label: np.ndarray, row_weights: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Returns the weights and the bias of one label; zeros and its logit where it never varies."""
    from sklearn.exceptions import ConvergenceWarning  # takes a second to import
    from sklearn.linear_model import LogisticRegression

    share = float(np.average(label, weights=row_weights))
    if share in (0.0, 1.0):
        share = min(max(share, LEAST_SHARE), 1 - LEAST_SHARE)
        return np.zeros(values.shape[1]), float(np.log(share / (1 - share)))
    model = LogisticRegression(max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model.fit(values, label, row_weights)
    if model.n_iter_[0] >= MOST_ITERATIONS:
        logger.warning(
            "a logistic regression of cross features did not converge in %d steps; it is used as "
            "it stands",
            MOST_ITERATIONS,
        )
    return model.coef_[0], float(model.intercept_[0])


def every_input(metadata: Metadata, heads: Sequence[str]) -> Inputs:
    """Returns all that examples have, histories left out."""
    sequence = {"history": "none", "query_history": "none", "features": ()}
    return Inputs.from_metadata(metadata, heads, {"only": (), "exclude": (), "sequence": sequence})


def _training_rows(
    examples: Examples, inputs: Inputs, transform: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns what training rows are regressed on `[n, K + U]`, their actions, and their stages."""
    has_stage = "stage" in examples.metadata.candidate_columns
    names = ("cross", "request_numeric", "actions", "mask", *(("stage",) if has_stage else ()))
    parts, stages, rows = [], [], 0
    for block in examples.blocks("train", names):
        interrupts.check()
        mask = block["mask"]
        users = _user_values(block["request_numeric"], inputs)
        users = np.broadcast_to(users[:, None], (*mask.shape, users.shape[-1]))
        cross = _cross_values(block["cross"][mask], inputs, transform)
        parts.append((np.concatenate([cross, users[mask]], 1), block["actions"][mask]))
        if has_stage:
            stages.append(block["stage"][mask])
        rows += int(mask.sum())
        if rows >= ROWS:
            break
    values, actions = (np.concatenate(part) for part in zip(*parts, strict=True))
    return values.astype(np.float64), actions, np.concatenate(stages) if has_stage else None
