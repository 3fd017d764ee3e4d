"""The best 1,000 of whole corpora, exactly: ours beside numpy, faiss, PyTorch, usearch and jax.

64 and 1,024 queries, 1 and 10 million items of 64 numbers. Ours is `CorpusScorer.top_k` of a model
that is a dot product. The peers:

    numpy      matrix product, argpartition, and a sort of what that keeps
    faiss      IndexFlatIP
    torch      matrix product and topk
    usearch    exact search
    jax        matrix product and top_k, compiled as one

Those that hold all scores at once get as many queries at a time as a gigabyte holds the scores of.
Engines take turns, round after round, on the same vectors, and return sorted ids in numpy; their
ids must be the same up to ties. A peer that is much slower than the best is left out of the largest
searches (`slow_peers`). What is compared is the ratio of times within a round, and its
median is reported: of the first number of queries and items, and of each other in `corpus`. Beside
them are ceilings of the same rounds: the matrix product alone in tiles that stay in the cache, by
numpy and by jax, and reading the items from memory.
"""

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from experiments.benchmarks import reporting
from experiments.benchmarks.peers import aligned, fastest_kernels, rotated

WIDTH = 64
QUERIES, ITEMS, KEPT = (64, 1_024), (1_000_000, 10_000_000), 1_000
QUICK_QUERIES, QUICK_ITEMS, QUICK_KEPT = (3, 8), (2_000, 6_000), 50
PEERS = ("numpy", "faiss", "torch", "usearch")
CEILINGS = ("matmul_numpy", "matmul_jax", "read")
SCORES_AT_ONCE = 1 << 28  # of peers that hold them all
TILE_SCORES = 1 << 21
MANY_PAIRS, SLOW = 10**9, 4  # of more pairs only peers within four times of the best are measured
CHECKED = 16  # queries whose ids are compared
Search = Callable[[np.ndarray], np.ndarray]  # queries to ids, best first


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures, measured in a process of its own."""
    with fastest_kernels():
        return reporting.apart(_measure, arguments)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    quick = arguments.quick
    queries = QUICK_QUERIES if quick else arguments.queries or QUERIES
    sizes = QUICK_ITEMS if quick else arguments.items or ITEMS
    kept = QUICK_KEPT if quick else KEPT
    rng = np.random.default_rng(arguments.seed)
    all_queries = rng.standard_normal((max(queries), WIDTH), dtype=np.float32)
    cells: dict[str, Any] = {}
    for items in sizes:
        # Row 0 of ours is padding; the peers see the rest of the same memory.
        vectors = aligned(items + 1, WIDTH)
        rng.standard_normal(out=vectors, dtype=np.float32)
        engines = make_engines(vectors, kept)
        for count in queries:
            rounds = 1 if quick else _rounds(arguments.rounds, count * items)
            if count * items > MANY_PAIRS and cells:
                slow = slow_peers(next(reversed(cells.values())))
                engines |= dict.fromkeys(slow)
            seconds = take_turns(engines, all_queries[:count], vectors, rounds)
            cells[f"{count}x{items}"] = figures_of(seconds, count, items)
            print(f"{count}x{items}: {cells[f'{count}x{items}']}", flush=True)
        del engines, vectors
    first, last = (f"{queries[0]}x{items}" for items in (sizes[0], sizes[-1]))
    candidates_per_s = [cells[name]["million_candidates_per_s"]["ours"] for name in (first, last)]
    headline = cells[first]
    return {
        "corpus_speedup_vs_best_peer": headline["speedup_vs_best_peer"],
        "corpus_speedup_vs_jax_top_k": headline["speedup_vs_jax"],
        "corpus_fraction_of_matmul": headline["fraction_of_matmul"],
        "growth_items": candidates_per_s[0] / candidates_per_s[1],
        "corpus": cells,
    }


def _rounds(rounds: int, pairs: int) -> int:
    """Returns how many rounds there is time for: all up to 300 million pairs, then fewer."""
    return max(1, min(rounds, round(rounds * 3e8 / pairs)))


def slow_peers(figures: dict[str, Any]) -> list[str]:
    """Returns the peers that need SLOW times as long as the best of them, by `figures_of`."""
    rates = figures["million_candidates_per_s"]
    best = max((rates[name] for name in PEERS if rates[name]), default=0.0)
    return [name for name in PEERS if rates[name] and rates[name] * SLOW < best]


def make_engines(vectors: np.ndarray, kept: int) -> dict[str, Search | None]:
    """Returns what searches by name, ours and peers, and the ceilings; None: not installed.

    Args:
      vectors: `[1 + I, WIDTH]`; the first is padding.
      kept: k.
    """
    engines: dict[str, Search | None] = {"ours": _ours(vectors, kept)}
    makers = {
        "numpy": _numpy,
        "faiss": _faiss,
        "torch": _torch,
        "usearch": _usearch,
        "jax": _jax,
        "matmul_numpy": _matmul_numpy,
        "matmul_jax": _matmul_jax,
        "read": _read,
    }
    for name, make in makers.items():
        try:
            engines[name] = make(vectors[1:], kept)
        except ImportError:
            engines[name] = None
    return engines


def take_turns(
    engines: dict[str, Search | None], queries: np.ndarray, vectors: np.ndarray, rounds: int
) -> dict[str, list[float] | None]:
    """Returns seconds per search of each engine, one a round.

    Raises:
      RuntimeError: an engine returned other ids than ours.
    """
    seconds: dict[str, list[float] | None] = {
        name: None if engine is None else [] for name, engine in engines.items()
    }
    for round_ in range(-1, rounds):  # the first warms up, and its ids are compared
        expected = None
        for name, search in rotated(engines, max(round_, 0)):
            times = seconds[name]
            if search is None or times is None:
                continue
            start = time.perf_counter()
            ids = search(queries)
            took = time.perf_counter() - start
            if round_ >= 0:
                times.append(took)
            elif name not in CEILINGS:
                scores = _scores_of(ids, queries, vectors)
                expected = scores if expected is None else expected
                if not np.allclose(scores, expected, rtol=1e-4, atol=1e-4):
                    raise RuntimeError(f"{name} found other items than ours.")
            time.sleep(0.02)  # so that the threads of one engine sleep when the next one runs
    return seconds


def _scores_of(ids: np.ndarray, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Returns the scores of what was found, best first: equal where ids are, or are tied."""
    chosen = vectors[1:][ids[:CHECKED]].astype(np.float64)
    if any(len(set(row)) < len(row) for row in ids[:CHECKED].tolist()):
        raise RuntimeError("an item was found twice.")
    scores = np.einsum("rkd,rd->rk", chosen, queries[:CHECKED].astype(np.float64))
    return -np.sort(-scores, axis=1)


def figures_of(seconds: dict[str, list[float] | None], queries: int, items: int) -> dict[str, Any]:
    """Returns rates, ratios and shares of the ceilings."""
    medians = {name: times and statistics.median(times) for name, times in seconds.items()}
    ours = seconds["ours"]
    assert ours is not None

    def ratio(name: str | None) -> float | None:
        times = seconds[name] if name else None
        if times is None:
            return None
        return statistics.median(a / b for a, b in zip(times, ours, strict=True))

    def fastest(names: tuple[str, ...]) -> str | None:
        there = {name: median for name in names if (median := medians[name])}
        return min(there, key=there.__getitem__) if there else None

    pairs, peer = queries * items, fastest(PEERS)
    gflop, gigabytes = 2e-9 * pairs * WIDTH, 4e-9 * items * WIDTH
    of_ours = statistics.median(ours)
    return {
        "million_candidates_per_s": {
            name: time and 1e-6 * pairs / time for name, time in medians.items() if name != "read"
        },
        "best_peer": peer,
        "speedup_vs_best_peer": ratio(peer),
        "speedup_vs_jax": ratio("jax"),
        "fraction_of_matmul": ratio(fastest(CEILINGS[:2])),
        "gflop_per_s": gflop / of_ours,
        "gb_per_s": gigabytes / of_ours,  # if items were read once for all queries
        "ceiling_gflop_per_s": gflop / min(medians[name] or 1e9 for name in CEILINGS[:2]),
        "ceiling_gb_per_s": gigabytes / medians["read"] if medians["read"] else None,
        "rounds": len(ours),
    }


def _ours(vectors: np.ndarray, kept: int) -> Search:
    import jax.numpy as jnp
    from ml_collections import FrozenConfigDict

    from interactrank_jax.models.preranker import PreRanker
    from interactrank_jax.ranking.corpus import CorpusScorer

    class InnerProduct(PreRanker):
        """A model of one head, whose score is the dot product of its two vectors."""

        uses_cross: ClassVar[bool] = False

        def score(self, query, items, cross):
            return jnp.einsum("rd,rcd->rc", query, items)[..., None]

        def serving_query(self, query, utility):
            return query * utility[0]

        def rank_all(self, query, items, utility):
            return self.serving_query(query, utility) @ items.T

    inputs: Any = None
    model = InnerProduct(config=FrozenConfigDict({}), inputs=inputs)
    scorer = CorpusScorer(model, {}, vectors, (1.0,))
    no_items, no_cross = np.zeros((1, 0), np.int32), np.zeros((1, 0, 0), np.float32)
    return lambda queries: scorer.top_k(queries, no_items, no_cross, kept)[1] - 1


def _in_blocks(search: Search, items: int) -> Search:
    """Searches so many queries at a time that their scores fit in memory."""
    at_once = max(SCORES_AT_ONCE // items, 1)

    def blocks(queries: np.ndarray) -> np.ndarray:
        starts = range(0, len(queries), at_once)
        return np.concatenate([search(queries[start : start + at_once]) for start in starts])

    return blocks


def _numpy(items: np.ndarray, kept: int) -> Search:
    def search(queries: np.ndarray) -> np.ndarray:
        scores = queries @ items.T
        best = np.argpartition(scores, len(items) - kept, axis=1)[:, len(items) - kept :]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
        return np.take_along_axis(best, order, 1)

    return _in_blocks(search, len(items))


def _faiss(items: np.ndarray, kept: int) -> Search:
    faiss = importlib.import_module("faiss")
    index = faiss.IndexFlatIP(WIDTH)
    index.add(items)
    return lambda queries: index.search(queries, kept)[1]


def _torch(items: np.ndarray, kept: int) -> Search:
    torch = importlib.import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(os.cpu_count() or 1)
    placed = torch.from_numpy(items).to(device)

    def search(queries: np.ndarray) -> np.ndarray:
        scores = torch.from_numpy(queries).to(device) @ placed.T
        return torch.topk(scores, kept, dim=1).indices.cpu().numpy()

    return _in_blocks(search, len(items))


def _usearch(items: np.ndarray, kept: int) -> Search:
    usearch = importlib.import_module("usearch.index")

    def search(queries: np.ndarray) -> np.ndarray:
        metric = usearch.MetricKind.IP
        return usearch.search(items, queries, kept, metric, exact=True).keys.astype(np.int64)

    return search


def _jax(items: np.ndarray, kept: int) -> Search:
    import jax

    placed = jax.device_put(items)
    best = jax.jit(lambda queries, items: jax.lax.top_k(queries @ items.T, kept)[1])
    return _in_blocks(lambda queries: np.asarray(best(queries, placed)), len(items))


def _matmul_numpy(items: np.ndarray, kept: int) -> Search:
    del kept

    def product(queries: np.ndarray) -> np.ndarray:
        tile = min(max(TILE_SCORES // len(queries), 1), len(items))
        scores = np.empty((len(queries), tile), np.float32)
        for first in range(0, len(items) - tile + 1, tile):
            np.matmul(queries, items[first : first + tile].T, out=scores)
        return scores

    return product


def _matmul_jax(items: np.ndarray, kept: int) -> Search:
    import jax

    del kept
    multiply = jax.jit(lambda queries, items: queries @ items.T)

    def product(queries: np.ndarray) -> np.ndarray:
        tile = min(max(TILE_SCORES // len(queries), 1), len(items))
        starts = range(0, len(items) - tile + 1, tile)
        scores = [multiply(queries, items[first : first + tile]) for first in starts[-2:]]
        for first in starts[:-2]:
            scores = [scores[-1], multiply(queries, items[first : first + tile])]
        return jax.block_until_ready(scores)[-1]

    return product


def _read(items: np.ndarray, kept: int) -> Search:
    import jax
    import jax.numpy as jnp

    del kept
    total, placed = jax.jit(jnp.sum), jax.device_put(items)
    return lambda queries: np.asarray(total(placed))
