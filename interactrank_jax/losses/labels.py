"""What counts as a success, and how much an example weighs (InteractRank's unified label)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from interactrank_jax.examples.format import Split
from interactrank_jax.io.errors import InputError, did_you_mean

ENGAGED = "engaged"  # the head that stands for the unified label


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """Turns the actions of a candidate into labels per head and one weight.

    Engaged: any of `positive` happened and none of `negative` did. The weight is that of the first
    action in `weights` that happened, else `impression_weight`. InteractRank's code asks for a long
    click, then a save, then a short click, then a click: the order decides, not the size.

    Attributes:
      actions: names of the action columns, in order.
      heads: 'engaged' and names of actions; one logit each.
      positive, negative: action names.
      weights: (action, weight) pairs, in the order in which they are asked for.
      impression_weight: weight of a candidate without any of those actions.
      utility: weight of each head's logit in the one ranked score.
    """

    actions: tuple[str, ...]
    heads: tuple[str, ...]
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    weights: tuple[tuple[str, float], ...]
    impression_weight: float
    utility: tuple[float, ...]

    @classmethod
    def from_config(cls, label: Any, actions: tuple[str, ...]) -> "LabelRule":
        """Builds the rule from `config.label`, checked against the actions of the examples.

        Raises:
          InputError: an action that the examples do not have, or lists of unequal length.
        """
        rule = cls(
            actions=tuple(actions),
            heads=tuple(label.heads),
            positive=tuple(label.positive),
            negative=tuple(label.negative),
            weights=tuple((str(name), float(weight)) for name, weight in label.weights),
            impression_weight=float(label.impression_weight),
            utility=tuple(float(value) for value in label.utility),
        )
        named = [
            *rule.positive,
            *rule.negative,
            *(name for name, _ in rule.weights),
            *(head for head in rule.heads if head != ENGAGED),
        ]
        for name in named:
            if name not in actions:
                raise InputError(
                    f"config.label names the action '{name}', which the examples do not have."
                    + did_you_mean(name, actions)
                )
        weighed = [name for name, _ in rule.weights]
        if len(set(weighed)) < len(weighed):
            raise InputError(
                f"config.label.weights names an action twice: {', '.join(weighed)}. Expected each "
                f"once: the first alone would count."
            )
        if len(rule.utility) != len(rule.heads):
            raise InputError(
                f"config.label.utility has {len(rule.utility)} values for {len(rule.heads)} heads "
                f"{rule.heads}: give one weight per head."
            )
        return rule

    def labels(self, actions):
        """Returns `[..., H]` bool labels for actions `[..., A]` (numpy or jax)."""
        happened = actions > 0
        return _stack(
            [
                self._engaged(happened) if head == ENGAGED else happened[..., self._column(head)]
                for head in self.heads
            ],
            like=happened,
        )

    def engaged(self, actions):
        """Returns the unified label, `[...]` bool: what ranking metrics are measured on."""
        return self._engaged(actions > 0)

    def example_weights(self, actions):
        """Returns `[...]` float32 weights."""
        happened = actions > 0
        weight = 0.0 * happened[..., 0].astype(np.float32) + np.float32(self.impression_weight)
        for name, value in reversed(self.weights):
            column = happened[..., self._column(name)].astype(np.float32)
            weight = weight * (1 - column) + np.float32(value) * column
        return weight

    def sampled_weights(self, actions, sampling: float):
        """Returns `[...]` weights of rows of which, without any action, a share is kept."""
        return self.example_weights(actions) * np.where(self.acted(actions), 1.0, sampling)

    def acted(self, actions):
        """Returns `[...]` bool: anything happened beyond the impression."""
        return (actions > 0).any(-1)

    def count_engaged(self, split: Split) -> int:
        """Returns how many candidates of a split count as engaged."""
        patterns, count = _patterns(split)
        return int(count[self.engaged(patterns)].sum())

    def class_weights(
        self, split: Split, sampling: float, multipliers: Mapping[str, float] | None = None
    ) -> list[tuple[float, float]]:
        """Mean training weight of positives and of negatives, per head, as training sees them.

        Args:
          split: the training split; its action patterns give exact counts.
          sampling: share of impression-only candidates kept in training.
          multipliers: by action pattern, what weighs its rows beside the actions; 1 if absent.
        """
        patterns, count = _patterns(split)
        weight = self.sampled_weights(patterns, sampling) * [
            (multipliers or {}).get(pattern, 1.0) for pattern in split.actions
        ]
        labels = self.labels(patterns)
        means = []
        for head in range(len(self.heads)):
            positive = labels[:, head]
            means.append(
                (
                    float(np.average(weight[positive], weights=count[positive]))
                    if count[positive].sum()
                    else 1.0,
                    float(np.average(weight[~positive], weights=count[~positive]))
                    if count[~positive].sum()
                    else 1.0,
                )
            )
        return means

    def _column(self, action: str) -> int:
        return self.actions.index(action)

    def _engaged(self, happened):
        result = happened[..., 0] & False
        for name in self.positive:
            result = result | happened[..., self._column(name)]
        for name in self.negative:
            result = result & ~happened[..., self._column(name)]
        return result


def _patterns(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns the action patterns of a split `[P, A]` and how many candidates have each `[P]`."""
    patterns = np.array([[int(bit) for bit in key] for key in split.actions])
    return patterns, np.array(list(split.actions.values()), np.int64)


def _stack(arrays, like):
    if isinstance(like, np.ndarray):
        return np.stack(arrays, -1)
    import jax.numpy as jnp

    return jnp.stack(arrays, -1)
