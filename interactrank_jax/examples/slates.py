"""Slates: each request's candidates, cut into runs of at most so many."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Slates:
    """The examples that some candidates make: runs of candidates of one request.

    Attributes:
      start, length: `[E]` example e holds candidates `start[e]` to `start[e] + length[e] - 1`.
      request: `[E]` row of its request.
      fold: `[E]` fold of its candidates.
    """

    start: np.ndarray
    length: np.ndarray
    request: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def take(self, examples: np.ndarray) -> "Slates":
        """Returns some examples."""
        arrays = [getattr(self, field.name)[examples] for field in dataclasses.fields(self)]
        return Slates(*arrays)

    def padded(self, columns: Mapping[str, np.ndarray], width: int) -> dict[str, np.ndarray]:
        """Returns columns of candidates `[M, ...]` by example, `[E, width, ...]`, padded with 0."""
        mask = self.mask(width)
        rows = np.where(mask, self.start[:, None] + np.arange(width), 0)
        result = {name: values.take(rows, axis=0) for name, values in columns.items()}
        if not mask.all():
            for values in result.values():
                values[~mask] = 0
        return result

    def mask(self, width: int) -> np.ndarray:
        """Returns where there is a candidate, bool `[E, width]`."""
        return np.arange(width) < self.length[:, None]


def make_slates(request: np.ndarray, fold: np.ndarray, slate: int) -> Slates:
    """Cuts candidates into slates.

    The candidates of a slate are of one fold: they may use the same rows, so that whatever is made
    of a request is made once for all of them.

    Args:
      request, fold: `[M]` of each candidate, in their order.
      slate: C.
    """
    is_first = (np.diff(request, prepend=-1) != 0) | (np.diff(fold, prepend=np.int8(-2)) != 0)
    first = np.flatnonzero(is_first)
    sizes = np.diff(first, append=len(request))
    parts = -(-sizes // slate)
    group = np.repeat(np.arange(len(first)), parts)
    number = np.arange(len(group)) - np.repeat(np.cumsum(parts) - parts, parts)
    start = first[group] + number * slate
    length = np.minimum(slate, sizes[group] - number * slate)
    return Slates(start, length, request[start], fold[start])
