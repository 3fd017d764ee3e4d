"""The one place where logits become probabilities: the prior correction, then Platt scaling.

    p_h = sigmoid(scale_h (logit_h - offset_h) + bias_h)

The offset is what class weights and sampling added to the logit in training (`losses/prior.py`);
scale and bias are fitted on the validation split (`evaluation/platt.py`), or 1 and 0 where nothing
was fitted. A scale is positive, so that a head ranks as it did. The ranked score is the logits
weighted by utility, as they are: calibration does not change it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from interactrank_jax.io.errors import InputError

FIELDS = ("heads", "offsets", "scale", "bias", "fitted")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What turns the logits of H heads into probabilities.

    Attributes:
      heads: their names.
      offsets: `[H]` what weighting and sampling added to the logits in training.
      scale, bias: `[H]` the inverse temperature and the bias of Platt scaling.
      fitted: `[H]` whether these were fitted on validation; else they are 1 and 0.
    """

    heads: tuple[str, ...] = ()
    offsets: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    fitted: tuple[bool, ...] = ()

    @classmethod
    def unfitted(cls, heads: tuple[str, ...], offsets: tuple[float, ...]) -> "Calibration":
        """Returns the prior correction alone."""
        count = len(heads)
        return cls(heads, offsets, (1.0,) * count, (0.0,) * count, (False,) * count)

    @classmethod
    def from_json(cls, value: Any, heads: tuple[str, ...]) -> "Calibration":
        """Reads what `to_json` gave.

        Args:
          value: it.
          heads: of the model.

        Raises:
          InputError: it is of other heads, or holds no such numbers.
        """
        if not isinstance(value, Mapping) or set(value) != set(FIELDS):
            raise InputError(f"the calibration is {value!r}. Expected {', '.join(FIELDS)}.")
        columns = [value[name] for name in FIELDS]
        if not all(isinstance(c, list | tuple) and len(c) == len(heads) for c in columns):
            raise InputError(f"the calibration is {value!r}. Expected lists of {len(heads)}.")
        result = cls(*map(tuple, columns))
        numbers = (*result.offsets, *result.scale, *result.bias)
        are_numbers = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        if not are_numbers or not all(scale > 0 for scale in result.scale):
            raise InputError(f"the calibration is {value!r}. Expected finite numbers, scales > 0.")
        if result.heads != heads or not all(isinstance(flag, bool) for flag in result.fitted):
            raise InputError(f"the calibration is {value!r}, of other heads than {heads}.")
        return result

    def to_json(self) -> dict[str, list[Any]]:
        """Returns it by field, for a manifest."""
        return {name: list(getattr(self, name)) for name in FIELDS}

    def corrected(self, logits: np.ndarray) -> np.ndarray:
        """Returns logits `[..., H]` after the prior correction alone, float64."""
        return np.asarray(logits, np.float64) - np.asarray(self.offsets, np.float64)

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Returns calibrated logits `[..., H]`, float64: none of them ties that did not before."""
        return self.corrected(logits) * np.asarray(self.scale) + np.asarray(self.bias)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Returns the probability of each head's label, `[..., H]`, float64."""
        return sigmoid(self.logits(logits))

    def columns(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the probabilities of logits `[n, H]` as columns of a table, float32."""
        values = self.probabilities(logits).astype(np.float32)
        return {column(head): values[:, number] for number, head in enumerate(self.heads)}


def column(head: str) -> str:
    """Returns the name that the probability of a head has in tables."""
    return f"probability_{head}"


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities of logits, without overflow."""
    return np.exp(-np.logaddexp(0.0, -logits))
