"""What weighting and sampling of rows add to the logits in training: the prior correction."""

from collections import defaultdict
from typing import Any

import numpy as np

from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import LabelRule


def prior_correction(positive_weight: float, negative_weight: float) -> float:
    """Logit offset that class-dependent weighting and sampling put into a trained model.

    With weight w+ on positives and w- on negatives, the cross entropy at a point where the true
    probability is p is minimal at p' = w+ p / (w+ p + w- (1 - p)), so logit(p') = logit(p) +
    log(w+ / w-). SUBTRACT the returned offset from the model's logits to estimate logit(p).

    Args:
      positive_weight: mean training weight of a positive row, over all rows there were before
        sampling: a row kept with probability s and then given weight w counts s * w.
      negative_weight: the same of the negatives. Where weights differ within a class the offset is
        the average one.

    Raises:
      InputError: a weight is not a positive number.
    """
    if not (0 < positive_weight < np.inf and 0 < negative_weight < np.inf):
        raise InputError(
            "mean weights of both classes must be positive and finite. Found "
            f"{positive_weight} on positives and {negative_weight} on negatives."
        )
    return float(np.log(positive_weight / negative_weight))


def prior_offsets(rule: LabelRule, loss: Any, examples: Examples) -> tuple[float, ...]:
    """Returns per head what weighting and sampling add to the logits in training.

    Args:
      rule: the labels and their weights.
      loss: `config.train.loss`.
      examples: those trained on.
    """
    weights = rule.class_weights(
        examples.split("train"),
        float(loss.impression_sampling),
        stage_multipliers(rule, examples, tuple(loss.stage_weights)),
    )
    return tuple(prior_correction(*pair) for pair in weights)


def stage_multipliers(
    rule: LabelRule, examples: Examples, stage_weights: tuple[float, ...]
) -> dict[str, float]:
    """Returns the mean stage weight of the training rows of each action pattern; {} if all are 1.

    A pattern is written as in `Split.actions`.
    """
    if set(stage_weights) == {1.0}:
        return {}
    weight: dict[str, float] = defaultdict(float)
    rows: dict[str, int] = defaultdict(int)
    for block in examples.blocks("train", ("actions", "mask", "stage")):
        actions, stage = (block[name][block["mask"]] for name in ("actions", "stage"))
        by_stage = np.array((0.0, *stage_weights))[stage]
        multiplier = np.where(rule.engaged(actions), 1.0, by_stage)
        patterns, group = np.unique(actions, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns.tolist()):
            name, chosen = "".join(map(str, pattern)), group.reshape(-1) == number
            weight[name] += float(multiplier[chosen].sum())
            rows[name] += int(chosen.sum())
    return {name: weight[name] / rows[name] for name in rows}
