"""Sampled negatives of a log that has positives only: what a log declares of them.

Figures of candidates depend on how negatives were drawn (Krichene and Rendle, KDD 2020, "On Sampled
Metrics for Item Recommendation"), so every output names it.
"""

import dataclasses
import re
from typing import Any

from interactrank_jax.io.errors import InputError, did_you_mean

METHODS = ("uniform", "popularity")
LARGEST = 1_000  # a positive
HOW = "--negatives=uniform:4 or --negatives=popularity:4"
_WORDS = {
    "uniform": "uniformly",
    "popularity": "in proportion to their successes before the request",
}


@dataclasses.dataclass(frozen=True)
class SampledNegatives:
    """How negatives were drawn: from items that existed at the request and the user never took.

    Attributes:
      method: of `METHODS`.
      per_positive: so many for each positive of a request, fewer where fewer items are left.
      seed: the same log and seed give the same negatives.

    Raises:
      InputError: an unknown method, or a number out of range.
    """

    method: str
    per_positive: int
    seed: int = 0

    def __post_init__(self):
        if self.method not in METHODS:
            raise InputError(
                f"negatives are drawn by {self.method!r}." + did_you_mean(str(self.method), METHODS)
            )
        for name, low, high in (("per_positive", 1, LARGEST), ("seed", 0, 2**63 - 1)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise InputError(
                    f"negatives: {name} is {value!r}. Expected a whole number from {low} to {high}."
                )

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> "SampledNegatives":
        """Reads METHOD:NUMBER, such as 'uniform:4'.

        Raises:
          InputError: it is no such thing.
        """
        method, colon, number = text.partition(":")
        if method not in METHODS:
            raise InputError(f"--negatives={text}." + did_you_mean(method, METHODS))
        if not colon or not re.fullmatch(r"[0-9]+", number) or not 1 <= int(number) <= LARGEST:
            raise InputError(
                f"--negatives={text}. Expected the number of negatives of each positive, 1 to "
                f"{LARGEST:,}, such as {method}:4. The corpus metrics of `interactrank evaluate` "
                f"rank among all items without any."
            )
        return cls(method, int(number), seed)

    def describe(self) -> str:
        """Returns it in words."""
        return (
            f"{self.per_positive} sampled for each positive, {_WORDS[self.method]}, from items "
            f"that existed at the request and that the user never took (--negatives={self.method}:"
            f"{self.per_positive}, seed {self.seed})"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "SampledNegatives":
        """Builds it back from `to_json`.

        Raises:
          InputError: contents that do not hold.
        """
        try:
            return cls(**value)
        except TypeError as error:
            raise InputError(
                f"'negatives' is {value!r}. Expected an object with method, per_positive and seed."
            ) from error
