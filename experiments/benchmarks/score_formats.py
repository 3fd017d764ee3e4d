"""What a scan of the corpus in fewer bits costs, weighs and loses: float32, bfloat16 and int8.

A million items of 64 numbers, of two kinds: normal and alike in all directions, where scores lie
closest together and rounding loses most; and with a spectrum that decays as 1/n, as trained vectors
have. Formats take turns, round after round, with 1 and with 64 queries; medians are reported.

    recall        share of the exact best 1,000 that are returned where the best m times 1,000 of
                  the rounded scan are scored again, exactly: m of 1, 2 and 4
    bytes         of memory per item
    ms            of the scan for m of 4, without the exact scores
"""

import argparse
import statistics
import time
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import reporting
from interactrank_jax.ranking import formats
from interactrank_jax.ranking.device_index import DeviceIndex, tile_bytes, tile_scorer
from interactrank_jax.serving.corpus import DOT_BYTES
from interactrank_jax.serving.scan import TileSize, corpus_top_k

WIDTH, ITEMS, KEPT, QUICK_ITEMS, QUICK_KEPT = 64, 1_000_000, 1_000, 4_000, 50
QUERIES = (64, 1)
SURPLUS = (1, 2, 4)
SPECTRA = {"isotropic": 0.0, "decaying": 1.0}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures, measured in a process of its own."""
    return reporting.apart(_measure, arguments)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    items, kept = (QUICK_ITEMS, QUICK_KEPT) if arguments.quick else (ITEMS, KEPT)
    rounds = 1 if arguments.quick else arguments.rounds
    result: dict[str, Any] = {}
    for name, exponent in SPECTRA.items():
        rng = np.random.default_rng(arguments.seed)
        spectrum = np.arange(1, WIDTH + 1, dtype=np.float32) ** -exponent
        vectors, queries = (
            rng.standard_normal((rows, WIDTH), dtype=np.float32) * spectrum
            for rows in (items + 1, max(QUERIES))
        )
        result[name] = _of_vectors(vectors, queries, kept, rounds)
    return {"formats": result}


def _of_vectors(
    vectors: np.ndarray, queries: np.ndarray, kept: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Returns recall, bytes and milliseconds of each format."""
    encoded = {name: formats.encode(vectors, name) for name in formats.FORMATS}
    device = jax.devices()[0]
    indexes = {name: DeviceIndex(leaf, [device]) for name, leaf in encoded.items()}
    size = TileSize(tile_bytes(device) // DOT_BYTES)
    scorer = tile_scorer(lambda query, leaf: query @ formats.decode(leaf).T)

    def scan(name: str, count: int, k: int) -> np.ndarray:
        def tiles(part: slice) -> Any:
            return indexes[name].tiles(scorer, queries[:count][part])

        return corpus_top_k(tiles, count, len(vectors), k, size)[0]

    exact = scan(formats.FLOAT32, len(queries), kept)
    figures: dict[str, dict[str, Any]] = {}
    for name, leaf in encoded.items():
        figures[name] = {"bytes": formats.bytes_per_row(leaf), "recall": {}, "ms": {}}
        for surplus in SURPLUS:
            rows = scan(name, len(queries), surplus * kept)
            kept_of_exact = [
                np.isin(of_query, row).mean() for of_query, row in zip(exact, rows, strict=True)
            ]
            figures[name]["recall"][str(surplus)] = float(np.mean(kept_of_exact))
    for count in QUERIES:
        seconds: dict[str, list[float]] = {name: [] for name in encoded}
        for round_ in range(-1, rounds):  # the first compiles
            for name in encoded:
                k = kept if name == formats.FLOAT32 else formats.RESCORED * kept
                start = time.perf_counter()
                scan(name, count, k)
                if round_ >= 0:
                    seconds[name].append(time.perf_counter() - start)
        for name, values in seconds.items():
            figures[name]["ms"][str(count)] = 1e3 * statistics.median(values)
    return figures
