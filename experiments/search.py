"""A search of few trials that is the same for every model: one field after the other.

The first trial is the config as it stands. Then each stage tries other values of one field (of the
sampled softmax, of two), all else as in the best trial so far, and keeps what is better on
validation. All trials have one seed; the best of them are compared with more, see `finalists`.
`suggest` draws from the same space, for searches of more than about ten trials (docs/training.md).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments import trials
from experiments.sweeps import Overrides
from interactrank_jax.io.errors import InputError, did_you_mean

Get = Callable[[str], Any]  # from a field to its value in the best trial so far
SOFTMAX_WEIGHT = "train.loss.softmax_weight"
LOG_Q = "train.loss.log_q"


@dataclasses.dataclass(frozen=True)
class Stage:
    """A field and what to try in its place.

    Attributes:
      field: dotted; a model whose config lacks it goes without.
      text: what the search in stages tries, in words.
      factor: it tries the value times this, and over it; nothing in place of zero.
      choices: where there is no factor: it tries the nearest other one.
    """

    field: str
    text: str
    factor: float = 0.0
    choices: tuple[Any, ...] = ()

    def others(self, get: Get) -> list[Overrides]:
        """Returns the overrides that the search in stages tries."""
        value = get(self.field)
        if not self._applies(get):
            return []
        if self.field == LOG_Q:
            # Weight and logQ change together: on validation of the simulated log two-tower loses by
            # the weight alone (.6642 to .6630), and gains by both (.6677).
            if value == "none":
                return [{LOG_Q: "counts"}]
            return [{SOFTMAX_WEIGHT: max(0.1, get(SOFTMAX_WEIGHT)), LOG_Q: "none"}]
        if self.choices:
            rest = [other for other in self.choices if other != value]
            return [{self.field: min(rest, key=lambda other: abs(other - value))}]
        values = (value * self.factor, value / self.factor)
        return [{self.field: float(f"{other:.3g}")} for other in values]

    def suggest(self, trial: Any, get: Get) -> Overrides:
        """Returns what a trial of Optuna draws: of the same range, even on a log scale."""
        value = get(self.field)
        if not self._applies(get):
            return {}
        if self.choices:
            return {self.field: trial.suggest_categorical(self.field, self.choices)}
        low, high = value / self.factor, value * self.factor
        return {self.field: float(f"{trial.suggest_float(self.field, low, high, log=True):.3g}")}

    def _applies(self, get: Get) -> bool:
        """Whether the model has the field, and it changes anything: logQ without a softmax none."""
        if get(self.field) is None:
            return False
        return bool(self.choices or get(self.field)) and bool(
            self.field != LOG_Q or get(SOFTMAX_WEIGHT)
        )


# In order of effect, for a search of fewer trials stops early. The softmax matters most: on
# validation FIT has .6666 to .6798 by weight and logQ on the simulated log (medium), two-tower
# .8699 to .9014 by its weight on MovieLens-1M; the tables' rate is worth .001 to .006.
SPACE = (
    Stage(
        LOG_Q,
        "a softmax without logQ, of a weight of at least 0.1, or one with it",
        choices=("none", "counts"),
    ),
    Stage(SOFTMAX_WEIGHT, "ten times and a tenth", 10),
    Stage("train.tables.learning_rate", "three times and a third", 3),
    # Of models without that softmax the regulariser is the decay of their table rows.
    Stage("model.l2", "three times and a third", 3),
    Stage("train.tables.weight_decay", "three times and a third", 3),
    Stage("train.optimizer.learning_rate", "three times and a third", 3),
    Stage("model.tower.dropout", "the nearest other of 0 and 0.2", choices=(0.0, 0.2)),
)
TRIALS = 8  # of a model that has every field
FINALISTS = 2


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
        f"stands, then one field after the other from the best so far ({text}). Of the best "
        f"{FINALISTS}, the one whose mean over all seeds is higher."
    )


def finalists(found: Sequence[trials.Outcome]) -> list[trials.Outcome]:
    """Returns the best trials, the best first: those to be told apart with more seeds.

    On MovieLens-100K trials of one seed differ by less than seeds do (.002).
    """
    good = [outcome for outcome in found if not outcome.error]
    return sorted(good, key=lambda outcome: -outcome.value)[:FINALISTS]


def search(
    config: ConfigDict,
    train: Callable[[Sequence[dict[str, Any]]], list[trials.Outcome]],
    limit: int,
    stages: Sequence[Stage] = SPACE,
) -> list[trials.Outcome]:
    """Searches.

    Args:
      config: as it stands.
      train: from overrides to the outcomes of trials with them.
      limit: number of trials.
      stages: to go through.

    Returns:
      the outcomes of all trials.
    """
    found: list[trials.Outcome] = []
    batch: list[dict[str, Any]] = [{}]  # together with the first stage that tries something
    best: dict[str, Any] = {}
    for stage in stages:
        get = values_of(config, best)
        others = stage.others(get)
        if others and len(found) < limit:
            batch += [{**best, **other} for other in others]
            found += train(batch[: limit - len(found)])
            batch = []
            best = dict(max(found, key=lambda outcome: outcome.value).trial.overrides)
    return found or train(batch)


def suggest(config: ConfigDict, trial: Any, stages: Sequence[Stage] = SPACE) -> Overrides:
    """Returns the overrides that a trial of Optuna draws around a config."""
    get = values_of(config)
    return {field: value for s in stages for field, value in s.suggest(trial, get).items()}


def values_of(config: ConfigDict, best: Overrides | None = None) -> Get:
    """Returns a function from a field to its value in the best trial; None if there is no such."""
    return functools.partial(_value, config, best or {})


def _value(config: ConfigDict, best: Overrides, field: str) -> Any:
    value: Any = config
    for part in field.split("."):
        if part not in value:
            return None
        value = value[part]
    return best.get(field, value)
