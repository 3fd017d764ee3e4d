"""Mean rates of training, and the rates of users that are differences from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from interactrank_jax.examples.format import Feature
from interactrank_jax.state.histories import NO_FOLD
from interactrank_jax.state.spec import ITEM_ROW

if TYPE_CHECKING:
    from interactrank_jax.state.recipe import Recipe

RATE_PRIOR = 5.0


@dataclasses.dataclass
class Tally:
    """Sums over training candidates. All are exact, so that their order does not matter.

    Attributes:
      shown: `[F]` impressions that users saw, by fold; one fold where there is time.
      weight: `[F]` what those count.
      actions: `[F, A]` those with each action.
      items: `[I]` candidates by row of the item store.
      is_engaged: whether any candidate has an action.
    """

    shown: np.ndarray
    weight: np.ndarray
    actions: np.ndarray
    items: np.ndarray
    is_engaged: bool = False

    @classmethod
    def empty(cls, folds: int, actions: int, items: int) -> Tally:
        """Returns the sums over nothing; `folds` is 0 where there is time."""
        size = max(folds, 1)
        return cls(
            np.zeros(size), np.zeros(size), np.zeros((size, actions)), np.zeros(items, np.int64)
        )

    def add(self, columns: Mapping[str, np.ndarray], actions: np.ndarray, recipe: Recipe) -> None:
        """Adds some candidates.

        Args:
          columns: `[M]` each: `ITEM_ROW`, `position` and, where they are there, `period` (the
            fold), `stage` and `propensity`.
          actions: `[M, A]`.
          recipe: what an impression counts.
        """
        self.items += np.bincount(columns[ITEM_ROW], minlength=len(self.items))
        self.is_engaged |= bool(actions.any())
        weight = recipe.impression_weight(columns["position"], columns.get("propensity"))
        fold = columns.get("period", np.zeros(len(actions), np.int32))
        if "stage" in columns:
            shown = columns["stage"] == 1
            actions, weight, fold = actions[shown], weight[shown], fold[shown]
        size = len(self.shown)
        self.shown += np.bincount(fold, minlength=size)
        self.weight += np.bincount(fold, weight, size)
        for index, column in enumerate(actions.T):
            self.actions[:, index] += np.bincount(fold, column, size)


@dataclasses.dataclass(frozen=True)
class MeanRates:
    """How often what users saw was engaged with in training, out of fold where there is no time.

    Row f is over what fold f may use, the last one (`NO_FOLD`) over all; 0 where there is nothing.

    Attributes:
      actions: names.
      per_impression: `[folds + 1, A]` share of impressions with each action.
      per_weight: `[folds + 1, A]` the same, impressions counting their weight.
    """

    actions: tuple[str, ...]
    per_impression: np.ndarray
    per_weight: np.ndarray

    @classmethod
    def from_tally(cls, tally: Tally, actions: Sequence[str], folds: int) -> MeanRates:
        """Divides the sums over training; `folds` is 0 where there is time."""
        shown, weight, done = (
            np.concatenate([sums.sum(axis=0) - sums[:folds], [sums.sum(axis=0)]])
            for sums in (tally.shown, tally.weight, tally.actions)
        )
        count = np.maximum(shown, 1)
        mean, mean_weight = done / count[:, None], weight / count
        return cls(tuple(actions), mean, mean / np.where(mean_weight > 0, mean_weight, 1)[:, None])

    @classmethod
    def from_json(cls, mean_rates: Mapping[str, float], actions: Sequence[str]) -> MeanRates:
        """Returns the means that an encoder holds, as of evaluation rows."""

        def means(name: str) -> np.ndarray:
            return np.array([[mean_rates[f"{action} {name}"] for action in actions]])

        return cls(tuple(actions), means("per impression"), means("per weight"))

    def of_items(self, fold: np.ndarray) -> dict[str, np.ndarray | float]:
        """Returns the means that cross features of kind rate are differences from, by action."""
        return self._by_action(self.per_weight, fold)

    def of_users(self, fold: np.ndarray) -> dict[str, np.ndarray | float]:
        """Returns the means that rates of users are differences from, by action."""
        return self._by_action(self.per_impression, fold)

    def _by_action(self, means: np.ndarray, fold: np.ndarray) -> dict[str, np.ndarray | float]:
        columns = zip(self.actions, means.T, strict=True)
        if len(means) == 1:
            return {action: float(column[0]) for action, column in columns}
        return {action: column[fold] for action, column in columns}

    def to_json(self) -> dict[str, float]:
        """Returns those over all of training, by name."""
        return {
            f"{action} {name}": float(mean)
            for name, means in self._tables.items()
            for action, mean in zip(self.actions, means[NO_FOLD], strict=True)
        }

    @property
    def _tables(self) -> dict[str, np.ndarray]:
        return {"per impression": self.per_impression, "per weight": self.per_weight}

    def with_old(self, old: Mapping[str, float]) -> MeanRates:
        """Returns these means, those over all of training being what `to_json` said before.

        Out of fold all are shifted alike, so that training and evaluation have one centre.
        """
        tables = []
        for name, means in self._tables.items():
            before = np.array([old[f"{action} {name}"] for action in self.actions])
            tables.append(means + (before - means[NO_FOLD]))
            tables[-1][NO_FOLD] = before  # without a rounding
        return MeanRates(self.actions, *tables)


def item_means(mean_rates: Mapping[str, float]) -> dict[str, float]:
    """Returns, of what `MeanRates.to_json` says, the means that cross features need, by action."""
    suffix = " per weight"
    return {
        name.removesuffix(suffix): mean
        for name, mean in mean_rates.items()
        if name.endswith(suffix)
    }


def rate_names(actions: Sequence[str], rates: Sequence[int]) -> tuple[Feature, ...]:
    """Returns the features that `rate_features` makes, in its order."""
    return tuple(
        Feature(f"user_{what}_{actions[action]}", "user", "numeric")
        for action in rates
        for what in ("count", "rate")
    )


def rate_features(
    counts: np.ndarray, shown: np.ndarray, means: Sequence[np.ndarray | float]
) -> np.ndarray:
    """Returns what a user did so far as numbers: per action its count c and its rate.

    The rate is (c - m n) / (n + 5): how much more than others a user does it of the n items that
    the user was shown, shrunk. Cross features of kind `rate` say the same of an item.

    Args:
      counts: `[N, A]` engagements by action.
      shown: `[N]` n.
      means: m of each of the A actions, the share of shown items with it in training.

    Returns:
      float32 `[N, 2 A]`: count and rate of the first action, and so on; zeros for a user never
      seen.
    """
    result = np.zeros((len(counts), 2 * len(means)), np.float32)
    for column, mean in enumerate(means):
        count = counts[:, column]
        result[:, 2 * column] = count
        result[:, 2 * column + 1] = (count - mean * shown) / (shown + RATE_PRIOR)
    return result
