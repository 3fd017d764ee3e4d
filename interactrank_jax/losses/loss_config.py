"""`config.train.loss`: what it may be, and which weights it leaves to the label and to losses."""

from typing import Any

import numpy as np

from interactrank_jax import losses
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.losses.labels import ENGAGED, LabelRule


def check(loss: Any, rule: LabelRule) -> None:
    """Holds `config.train.loss` against the losses, the heads and itself.

    Raises:
      InputError: no such loss, a weight too few or too many, or fields that contradict each other.
    """
    names = losses.of_kind("pointwise")
    if loss.name not in names:
        raise InputError(
            f"config.train.loss.name is '{loss.name}'." + did_you_mean(loss.name, names)
        )
    if len(loss.head_weights) not in (0, len(rule.heads)):
        raise InputError(
            f"config.train.loss.head_weights has {len(loss.head_weights)} values for the heads "
            f"{rule.heads}: give one per head, or () to take them from config.label.weights."
        )
    if loss.log_q == "none" and loss.correction == "positive_apart":
        raise InputError(
            "config.train.loss.correction='positive_apart' is a correction for log Q: set "
            "config.train.loss.log_q to 'counts' or 'sketch'."
        )


def head_weights(loss: Any, rule: LabelRule) -> tuple[float, ...]:
    """Returns the weight of each head's loss, `[H]`; they sum to one.

    In proportion to `loss.head_weights`. Where that is (), a head weighs as much as its action in
    `config.label.weights`, 'engaged' as much as the heaviest of its positive actions, and a head
    without any such weight 1.

    Raises:
      InputError: none is above 0.
    """
    weights = np.asarray(loss.head_weights, np.float64)
    if not len(weights):
        by_action = dict(rule.weights)
        by_action[ENGAGED] = max((by_action.get(name, 1.0) for name in rule.positive), default=1.0)
        weights = np.array([by_action.get(head, 1.0) for head in rule.heads])
    if not weights.sum() > 0:
        raise InputError(
            f"config.train.loss.head_weights is {tuple(loss.head_weights)}. Expected at least one "
            f"weight above 0."
        )
    return tuple(float(weight) for weight in weights / weights.sum())


def above_zero(loss: Any, kind: str) -> tuple[tuple[str, float], ...]:
    """Returns name and weight of the registered losses of a kind that are turned on.

    The weight is the field `NAME_weight`; a config without it leaves the loss out.
    """
    weights = ((name, float(loss.get(f"{name}_weight", 0.0))) for name in losses.of_kind(kind))
    return tuple((name, weight) for name, weight in weights if weight)
