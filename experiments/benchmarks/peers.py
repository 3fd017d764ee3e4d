"""What benchmarks beside other libraries share: fair settings, aligned memory, turns."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np

SLOW_KERNELS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
Engine = TypeVar("Engine")


@contextlib.contextmanager
def fastest_kernels() -> Iterator[None]:
    """Starts processes without the settings that keep numpy from the machine's best kernels."""
    values = {name: os.environ.pop(name) for name in SLOW_KERNELS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(values)


def aligned(*shape: int) -> np.ndarray:
    """Returns float32 in whole cache lines, as mapped from a bundle, which jax does not copy."""
    octets = np.empty(4 * math.prod(shape) + 64, np.uint8)
    first = -octets.ctypes.data % 64
    return octets[first : first + 4 * math.prod(shape)].view(np.float32).reshape(shape)


def rotated(engines: Mapping[str, Engine], turn: int) -> list[tuple[str, Engine]]:
    """Returns the engines, from another one on each turn: threads of the last may still spin."""
    items = list(engines.items())
    first = turn % len(items)
    return items[first:] + items[:first]
