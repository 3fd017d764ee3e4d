"""Padded examples of one split from flat arrays, block by block."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from interactrank_jax.examples.history import History
from interactrank_jax.examples.splits import Slates


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The columns of one split before padding.

    Attributes:
      slates: which candidates make which example.
      width: C.
      per_request: columns indexed by the rows of `Requests`.
      per_example: columns `[E, ...]`.
      per_candidate: columns `[M, ...]`, along `slates.rows`.
      past: returns the histories of some examples; called per block, to bound memory.
    """

    slates: Slates
    width: int
    per_request: Mapping[str, np.ndarray]
    per_example: Mapping[str, np.ndarray]
    per_candidate: Mapping[str, np.ndarray]
    past: Callable[[np.ndarray], History]

    def blocks(self, order: np.ndarray, size: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields blocks of `size` examples (the last may be smaller) in `order`."""
        for first in range(0, len(order), size):
            yield self.block(order[first : first + size])

    def block(self, examples: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the columns of some examples, as `examples.py` lists them."""
        requests = self.slates.request[examples]
        columns = {name: values[requests] for name, values in self.per_request.items()}
        columns |= {name: values[examples] for name, values in self.per_example.items()}
        past = self.past(examples)
        columns |= {
            f"history_{field.name}": getattr(past, field.name)
            for field in dataclasses.fields(History)
        }
        offset = np.arange(self.width)
        mask = offset < self.slates.length[examples, None]
        rows = np.where(mask, self.slates.start[examples, None] + offset, 0)
        columns["mask"] = mask
        for name, values in self.per_candidate.items():
            padded = values[rows]
            padded[~mask] = 0
            columns[name] = padded
        # Integers are int32 and numbers float32 in blocks; flags stay as small as they are.
        return {name: _narrow(values) for name, values in columns.items()}


def _narrow(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool or values.dtype == np.uint8:
        return values
    kind = np.int32 if np.issubdtype(values.dtype, np.integer) else np.float32
    return values.astype(kind, copy=False)


def action_patterns(actions: np.ndarray) -> dict[str, int]:
    """Counts candidates by pattern of actions, uint8 `[M, A]`: '1000' is the first action alone."""
    patterns, counts = np.unique(actions, axis=0, return_counts=True)
    return {
        "".join(map(str, pattern)): int(count)
        for pattern, count in zip(patterns.tolist(), counts, strict=True)
    }
