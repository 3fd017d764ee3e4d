"""Random draws: streams by purpose, and values that are a function of their keys."""

import zlib

import numpy as np


def stream(seed: int, purpose: str, chunk: int = 0) -> np.random.Generator:
    """Returns the random stream of one purpose (and chunk), independent of all others."""
    key = (zlib.crc32(purpose.encode()), chunk)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def hash_normal(seed: int, *keys: np.ndarray | int) -> np.ndarray:
    """Returns standard normals that are a function of the keys, float32, in their broadcast shape.

    Keys are mixed by splitmix64 (Steele, Lea and Flood 2014), the two halves of the hash go through
    Box and Muller's transform: the table of all pairs never exists.
    """
    state: np.ndarray = np.asarray(seed, np.uint64)
    for key in keys:
        state = _splitmix64(state ^ np.asarray(key).astype(np.uint64))
    low = (state & np.uint64(0xFFFFFFFF)).astype(np.float64)
    high = (state >> np.uint64(32)).astype(np.float64)
    radius = np.sqrt(-2 * np.log((high + 0.5) / 2**32))
    return (radius * np.cos(2 * np.pi / 2**32 * low)).astype(np.float32)


def _splitmix64(state: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def draw(rng: np.random.Generator, cumulative: np.ndarray, shape) -> np.ndarray:
    """Draws indices from a distribution given by its cumulative sums (not normalised)."""
    uniform = rng.random(shape) * cumulative[-1]
    return np.searchsorted(cumulative, uniform, side="right").clip(max=len(cumulative) - 1)
