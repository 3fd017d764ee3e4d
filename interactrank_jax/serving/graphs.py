"""The graphs of a bundle, as whatever ranks by them sees them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.masks import RowMask
from interactrank_jax.serving.scan import CACHE_BYTES, Tiles, TopK
from interactrank_jax.serving.top_k import RunningTopK, Scored, Top

Leaves = dict[str, np.ndarray]  # of a representation, by name


class Graphs(Protocol):
    """Computes the graphs of a bundle."""

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs of a graph by name.

        Args:
          name: of the graph.
          inputs: by name, without the bundle's own arrays (tables, store, index).
        """

    @property
    def has_whole_index(self) -> bool:
        """Whether graphs take all vectors; if not, they take those of the rows asked for."""
        return True

    def padded(self, length: int) -> int:
        """Returns the length to which lists of `length` are padded."""

    def padded_alone(self, length: int) -> int:
        """Returns the length to which the list of a request that comes alone is padded."""
        return self.padded(length)

    def lengths_alone(self, longest: int) -> Sequence[int]:
        """Returns the lengths that each compile a graph, for lists up to `longest`.

        Where nothing is compiled, `longest` alone.
        """
        return [longest]

    def tiles(self, bundle: Bundle, query: Leaves) -> Sequence[Tiles]:
        """Returns the corpus in tiles, to be scored with some requests, see `serving.scan`.

        Args:
          bundle: the bundle.
          query: the requests' representation, padded.
        """
        return [GraphTiles(self, bundle, query)]

    def exact_tiles(self, bundle: Bundle, query: Leaves) -> Sequence[Tiles]:
        """Returns tiles of all rows, whose scores are exact; see `tiles`."""
        return [GraphTiles(self, bundle, query)]

    def tile_bytes(self) -> int:
        """Returns how much memory the scores of a tile may take."""
        return CACHE_BYTES

    def surplus(self) -> int:
        """Returns how many times k items the tiles must find: 1, where their scores are exact."""
        return 1

    def gather(self, top: Top) -> list[Top]:
        """Returns the best of each process that scores the corpus together with this one."""
        return [top]


class GraphTiles:
    """Scores of requests with all items, by a graph that runs in this process's memory."""

    def __init__(self, graphs: Graphs, bundle: Bundle, query: Leaves):
        self.first, self.end = 0, bundle["items"]
        self._graphs, self._query, self._index = graphs, query, index_leaves(bundle)

    def scores(self, begin: int, count: int) -> Scored:
        """Returns `[R, count]`, see `serving.scan.Tiles`."""
        items = {
            f"item/{name.partition('/')[2]}": values[begin : begin + count]
            for name, values in self._index.items()
        }
        return self._graphs.run("score_all", {**self._query, **items})["score"], None

    def top_k(self, requests: int, k: int, mask: RowMask | None) -> TopK:
        """Returns what keeps the best."""
        return RunningTopK(requests, k, mask)


def index_leaves(bundle: Bundle) -> Leaves:
    """Returns the representation of all items: leaves `index/0`, ..., `[I, ...]`."""
    arrays = bundle.arrays.items()
    return {name: values for name, values in arrays if name.startswith("index/")}


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
