"""The graphs of a bundle, as whatever ranks by them sees them."""

from typing import Protocol

import numpy as np

from interactrank_jax.serving.bundle import Bundle

Leaves = dict[str, np.ndarray]  # of a representation, by name


class Graphs(Protocol):
    """Computes the graphs of a bundle."""

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs of a graph by name.

        Args:
          name: of the graph.
          inputs: by name, without the bundle's own arrays (tables, store, index).
        """

    def padded(self, length: int) -> int:
        """Returns the length to which lists of `length` are padded."""


def empty_leaves(bundle: Bundle, side: str) -> Leaves:
    """Returns the representation of no requests (`side` 'query') or of no items ('index')."""
    inputs = bundle["graphs"]["score"]["inputs"]
    return {
        name: np.zeros((0, *spec["shape"][1:]), spec["dtype"])
        for name, spec in inputs.items()
        if name.startswith(f"{side}/")
    }


def padded_rows(values: np.ndarray, size: int) -> np.ndarray:
    """Returns rows filled up to `size` with copies of the first."""
    if len(values) == size:
        return values
    filling = np.broadcast_to(values[:1], (size - len(values), *values.shape[1:]))
    return np.concatenate([values, filling])
