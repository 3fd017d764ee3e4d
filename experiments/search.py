"""A search of few trials that is the same for every model: one field after the other.

The first trial is the config as it stands. Then each stage tries other values of one field, all
else as in the best trial so far, and keeps what is better on validation.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import trials
from interactrank_jax.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Stage:
    """A field and what to try in its place.

    Attributes:
      field: dotted; a model whose config lacks it goes without.
      text: what is tried, in words.
      others: from the field's value to the values to try.
    """

    field: str
    text: str
    others: Callable[[Any], tuple[Any, ...]]


def _triple_and_third(value: float) -> tuple[float, ...]:
    return (float(f"{value * 3:.3g}"), float(f"{value / 3:.3g}")) if value else ()


def _tenth_and_tenfold(weight: float) -> tuple[float, ...]:
    return (float(f"{10 * weight:.3g}"), float(f"{weight / 10:.3g}")) if weight else ()


def _other_dropout(rate: float) -> tuple[float, ...]:
    others = [other for other in (0.0, 0.2) if other != rate]
    return (min(others, key=lambda other: abs(other - rate)),)


# What most decides how well a model does comes first: fewer trials leave the end away.
SPACE = (
    Stage("train.tables.learning_rate", "three times and a third", _triple_and_third),
    Stage("train.loss.softmax_weight", "ten times and a tenth", _tenth_and_tenfold),
    # Of models without that softmax the regulariser is the decay of their table rows.
    Stage("model.l2", "three times and a third", _triple_and_third),
    Stage("train.optimizer.learning_rate", "three times and a third", _triple_and_third),
    Stage("model.tower.dropout", "the nearest other of 0 and 0.2", _other_dropout),
)
TRIALS = 8  # of a model that has every field


def choose(fields: Sequence[str]) -> tuple[Stage, ...]:
    """Returns the stages of some fields, by their short names, in the order of `SPACE`.

    Raises:
      InputError: an unknown one.
    """
    known = [trials.short(stage.field) for stage in SPACE]
    for field in fields:
        if field not in known:
            raise InputError(f"--search={field}." + did_you_mean(field, known))
    return tuple(stage for stage in SPACE if trials.short(stage.field) in fields)


def describe(limit: int, stages: Sequence[Stage] = SPACE) -> str:
    """Returns the search in words."""
    text = "; ".join(f"{trials.short(stage.field)}: {stage.text}" for stage in stages)
    return (
        f"At most {limit} trials a model, chosen by ROC-AUC on validation: the config as it "
        f"stands, then one field after the other from the best so far ({text})."
    )


def search(
    config: ConfigDict,
    train: Callable[[Sequence[dict[str, Any]]], list[trials.Outcome]],
    limit: int,
    stages: Sequence[Stage] = SPACE,
) -> tuple[list[trials.Outcome], trials.Outcome]:
    """Searches.

    Args:
      config: as it stands.
      train: from overrides to the outcomes of trials with them.
      limit: number of trials.
      stages: to go through.

    Returns:
      (outcomes of all trials, that of the best: the first of equal ones).
    """
    found: list[trials.Outcome] = []
    batch: list[dict[str, Any]] = [{}]  # together with the first stage, which starts from it too
    best: dict[str, Any] = {}
    for stage in stages:
        value = _value(config, stage.field)
        if value is not None:
            batch += [{**best, stage.field: other} for other in stage.others(value)]
        batch = batch[: limit - len(found)]
        if batch:
            found += train(batch)
            batch = []
            best = dict(max(found, key=lambda outcome: outcome.value).trial.overrides)
    return found, max(found, key=lambda outcome: outcome.value)


def _value(config: ConfigDict, field: str) -> Any:
    value: Any = config
    for part in field.split("."):
        if part not in value:
            return None
        value = value[part]
    return value
