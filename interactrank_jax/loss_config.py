"""`config.train.loss`: what it may be, and which weights it leaves to the label and to losses."""

from typing import Any

import numpy as np

from interactrank_jax import losses
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.labels import ENGAGED, LabelRule

LOG_Q = ("counts", "sketch", "none")


def check(loss: Any, rule: LabelRule) -> None:
    """Raises InputError for a name, a weight or a number in `config.train.loss` that is wrong."""
    for field, options in (
        ("name", tuple(losses.of_kind("pointwise"))),
        ("log_q", LOG_Q),
        ("correction", losses.CORRECTIONS),
    ):
        if loss[field] not in options:
            raise InputError(
                f"config.train.loss.{field} is '{loss[field]}'."
                + did_you_mean(str(loss[field]), options)
            )
    if len(loss.head_weights) not in (0, len(rule.heads)):
        raise InputError(
            f"config.train.loss.head_weights has {len(loss.head_weights)} values for the heads "
            f"{rule.heads}: give one per head, or () to take them from config.label.weights."
        )
    if len(loss.stage_weights) != 3 or min(loss.stage_weights) < 0:
        raise InputError(
            f"config.train.loss.stage_weights is {tuple(loss.stage_weights)}. Expected three "
            f"weights of at least 0: for candidates shown, retrieved, and random."
        )
    if loss.log_q == "none" and loss.correction == "positive_apart":
        raise InputError(
            "config.train.loss.correction='positive_apart' is a correction for log Q: set "
            "config.train.loss.log_q to 'counts' or 'sketch'."
        )
    for field in ("uniform_negatives", "hard_negatives"):
        if int(loss[field]) < 0:
            raise InputError(f"config.train.loss.{field} is {loss[field]}. Expected 0 or more.")
    if loss.distill_temperature <= 0:
        raise InputError(
            f"config.train.loss.distill_temperature is {loss.distill_temperature}. Expected a "
            f"number above 0."
        )


def head_weights(loss: Any, rule: LabelRule) -> tuple[float, ...]:
    """Returns the weight of each head's loss, `[H]`; they sum to one.

    In proportion to `loss.head_weights`. Where that is (), a head weighs as much as its action in
    `config.label.weights`, 'engaged' as much as the heaviest of its positive actions, and a head
    without any such weight 1.

    Raises:
      InputError: a weight below 0, or none above it.
    """
    weights = np.asarray(loss.head_weights, np.float64)
    if not len(weights):
        by_action = dict(rule.weights)
        by_action[ENGAGED] = max((by_action.get(name, 1.0) for name in rule.positive), default=1.0)
        weights = np.array([by_action.get(head, 1.0) for head in rule.heads])
    if not (weights >= 0).all() or not weights.sum() > 0:
        raise InputError(
            f"config.train.loss.head_weights is {tuple(loss.head_weights)}. Expected weights "
            f"of at least 0 with a sum above it."
        )
    return tuple(float(weight) for weight in weights / weights.sum())


def above_zero(loss: Any, kind: str) -> tuple[tuple[str, float], ...]:
    """Returns name and weight of the registered losses of a kind that are turned on.

    The weight is the field `NAME_weight`; a config without it leaves the loss out.
    """
    weights = ((name, float(loss.get(f"{name}_weight", 0.0))) for name in losses.of_kind(kind))
    return tuple((name, weight) for name, weight in weights if weight)
