"""Scores of long candidate lists: 64 requests with 100,000 random candidates each, of a million.

    python -m experiments.benchmarks.score_lists --json=runs/score_lists.json

Ours is `serving.list_scorer` by the graphs of a bundle of InteractRank, whose index and cross
features are replaced by random ones of the size asked for: 64 numbers an item, six cross features,
which one in a hundred pairs has. Timed from rows of candidates, ascending in each list, to the best
1,000 of each list; looking the cross features up is timed too, while the peers are given them as a
dense array. Peers: numpy, torch and jax, which gather each list's items and multiply; jax in one
batch too. numpy that multiplies all items with all requests and picks is shown beside, as no peer.
Engines take turns in one process, without the settings that hold numpy's kernels back.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmarks import reporting
from experiments.benchmarks.peers import aligned, fastest_kernels, rotated

TORCH = "gather, torch"
WIDTH, KEPT = 64, 1000
WITH_CROSS = 0.01  # share of the pairs that have cross features


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is scored: requests, candidates of each, items of the corpus, turns."""

    requests: int = 64
    candidates: int = 100_000
    items: int = 1_000_000
    repeats: int = 7


QUICK = Sizes(requests=8, candidates=5_000, items=50_000, repeats=2)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures, by the names of the record."""
    sizes = QUICK if arguments.quick else Sizes()
    with fastest_kernels(), tempfile.TemporaryDirectory() as scratch:
        return reporting.apart(_measure, sizes, arguments.seed, scratch)


def _measure(sizes: Sizes, seed: int, scratch: str) -> dict[str, Any]:
    data = _Data(sizes, seed, Path(scratch))
    engines = {"ours": data.ours, **_peers(data)}
    _check(data, engines)
    seconds = in_turns(engines, sizes.repeats)
    peers = {name: value for name, value in seconds.items() if name != "ours"}
    best = min(peers, key=lambda name: peers[name])
    pairs = sizes.requests * sizes.candidates
    return {
        "list_speedup_vs_best_peer": peers[best] / seconds["ours"],
        "list_best_peer": best,
        "list_seconds": {TORCH: None, **seconds},
        "list_candidates_per_s": {name: pairs / value for name, value in seconds.items()},
        "list_ceilings": _ceilings(data, sizes.repeats),
        "list_sizes": dataclasses.asdict(sizes),
    }


def in_turns(engines: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Returns the median seconds of functions that take turns, after one call of each."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(repeats + 1):
        for name, engine in rotated(engines, turn):
            start = time.perf_counter()
            engine()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


class _Data:
    """A bundle with a random corpus, and requests with random lists."""

    def __init__(self, sizes: Sizes, seed: int, scratch: Path):
        import numpy as np

        from interactrank_jax.ranking.ranker import JaxGraphs
        from interactrank_jax.serving.list_scorer import ListScorer
        from interactrank_jax.serving.pairs import PairScorer
        from interactrank_jax.serving.requests import EncodedRequests

        rng = np.random.default_rng(seed)
        self.vectors = aligned(sizes.items, WIDTH)
        rng.standard_normal(dtype=np.float32, out=self.vectors)
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)
        count, length = sizes.requests, sizes.candidates
        self.rows = np.stack(
            [np.sort(rng.choice(sizes.items - 1, length, replace=False) + 1) for _ in range(count)]
        )
        self.start = np.arange(count + 1, dtype=np.int64) * length
        chosen = rng.random((count, length)) < WITH_CROSS
        bundle = enlarged_bundle(scratch, self.vectors, self.rows, chosen, rng)
        self.bundle, self.graphs = bundle, JaxGraphs(bundle)
        self.pairs = PairScorer(bundle, self.graphs)
        self.lists = ListScorer(bundle, self.graphs, self.pairs)
        specs = bundle["graphs"]["score"]["inputs"]
        self.query = {
            name: rng.standard_normal((count, *spec["shape"][1:]), np.float32) / 8
            for name, spec in specs.items()
            if name.startswith("query/")
        }
        groups: dict[tuple[str, ...], Any] = {
            ("query",): np.repeat(np.arange(count)[:, None], 2, 1)
        }
        self.encoded = EncodedRequests(_names(count), {}, groups)
        self.cross = self.pairs.cross_of_lists(self.encoded, self.start, self.rows.ravel())
        self.cross = self.cross.reshape(count, length, -1)
        self.weights = rng.standard_normal(self.cross.shape[-1], np.float32)
        # What peers multiply: the heads folded into one vector, as ours are.
        self.folded = self.query["query/0"].mean(1)

    def ours(self) -> Any:
        """Returns rows of the best of each list, `[R, KEPT]`."""
        import numpy as np

        from interactrank_jax.serving.top_k import top_k

        rows = self.rows.ravel()
        ways = self.lists.ways(self.start)
        scores = self.lists.scores(self.encoded, self.query, self.start, rows, ways)
        scores = scores.reshape(self.rows.shape)
        return np.stack(
            [row[top_k(score, row, KEPT)] for score, row in zip(scores, self.rows, strict=True)]
        )


def _names(count: int) -> Any:
    import pyarrow as pa

    return pa.array([f"r{number}" for number in range(count)])


def enlarged_bundle(scratch: Path, vectors: Any, rows: Any, chosen: Any, rng: Any) -> Any:
    """Returns a bundle of InteractRank with other items and cross features.

    Args:
      scratch: an empty directory.
      vectors: `[I, 64]` of the items; row 0 is padding.
      rows: `[R, C]` candidates, ascending; request r asks with query r.
      chosen: bool `[R, C]` candidates that have cross features.
      rng: of their values.
    """
    import numpy as np

    from interactrank_jax.serving.past import SHIFT, CrossFeatures, CrossTable

    made = small_bundle(scratch, "interactrank")
    record = {**made.artifact.record, "items": len(vectors)}
    bundle = dataclasses.replace(made, artifact=dataclasses.replace(made.artifact, record=record))
    names = made.cross.names
    pair = np.concatenate(
        [
            number << SHIFT | row[has]
            for number, (row, has) in enumerate(zip(rows, chosen, strict=True))
        ]
    )
    value = np.abs(rng.standard_normal((len(pair), len(names)), np.float32)) / 10
    table = CrossTable(("query",), names, None, pair, value)
    cross = CrossFeatures({name: [("query",)] for name in names}, {("query",): table}, None)
    bundle.__dict__["arrays"] = {**made.arrays, "index/0": vectors}
    bundle.__dict__["cross"] = cross
    return bundle


def small_bundle(scratch: Path, model: str, **options: Any) -> Any:
    """Trains a model for some steps on a small simulated log, and opens its bundle."""
    import interactrank_jax as ir
    from interactrank_jax.log.simulator.simulate import simulate

    simulate("tiny", 0, scratch / "log")
    config = ir.configs.build(model, "search")
    config.evaluate.corpus_requests = 8
    examples = ir.prepare(scratch / "log", config, scratch / "examples")
    trainer = ir.Trainer(config, examples, scratch / "run").fit(steps=3)
    return ir.export_bundle(trainer, scratch / "bundle", **options).bundle


def _torch(data: _Data) -> dict[str, Callable[[], Any]]:
    """Returns PyTorch's way, by name; nothing where it is not installed."""
    import numpy as np

    try:
        import torch
    except ImportError:
        return {}
    tensors = [
        torch.from_numpy(np.ascontiguousarray(array))
        for array in (data.vectors, data.rows, data.folded, data.cross, data.weights)
    ]

    def by_torch() -> Any:
        vectors, rows, folded, cross, weights = tensors
        with torch.inference_mode():
            return [
                row[(vectors.index_select(0, row) @ q + c @ weights).topk(KEPT).indices]
                for row, q, c in zip(rows, folded, cross, strict=True)
            ]

    return {TORCH: by_torch}


def _peers(data: _Data) -> dict[str, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    def best_of(score: Any, row: Any) -> Any:
        kept = np.argpartition(-score, KEPT)[:KEPT]
        return row[kept[np.argsort(-score[kept], kind="stable")]]

    def by_numpy() -> Any:
        parts = zip(data.rows, data.folded, data.cross, strict=True)
        return [best_of(data.vectors[row] @ q + c @ data.weights, row) for row, q, c in parts]

    def by_numpy_tiles() -> Any:
        every = data.folded @ data.vectors.T
        parts = zip(every, data.rows, data.cross, strict=True)
        return [best_of(score[row] + c @ data.weights, row) for score, row, c in parts]

    placed = [
        jax.device_put(array)
        for array in (data.vectors, data.rows.astype(np.int32), data.folded, data.cross)
    ]
    weights = jnp.asarray(data.weights)

    @jax.jit
    def mapped(vectors: Any, rows: Any, folded: Any, cross: Any) -> Any:
        def one(of_request: Any) -> Any:
            row, q, c = of_request
            score = jnp.take(vectors, row, axis=0, mode="clip") @ q + c @ weights
            return row[jax.lax.top_k(score, KEPT)[1]]

        return jax.lax.map(one, (rows, folded, cross))

    @jax.jit
    def batched(vectors: Any, rows: Any, folded: Any, cross: Any) -> Any:
        items = jnp.take(vectors, rows, axis=0, mode="clip")
        score = jnp.einsum("rcd,rd->rc", items, folded) + cross @ weights
        return jnp.take_along_axis(rows, jax.lax.top_k(score, KEPT)[1], 1)

    return {
        "gather, numpy": by_numpy,
        **_torch(data),
        "gather, jax, request by request": lambda: jax.block_until_ready(mapped(*placed)),
        "gather, jax, one batch": lambda: jax.block_until_ready(batched(*placed)),
        "all items, numpy": by_numpy_tiles,
    }


def _check(data: _Data, engines: dict[str, Callable[[], Any]]) -> None:
    """Compares ours with float64 sums, and the peers with each other.

    Raises:
      AssertionError: an engine ranks something else.
    """
    import numpy as np

    def as_scores(first: int) -> tuple[Any, Any]:
        one = slice(data.start[first], data.start[first + 1])
        query = {name: leaf[[first]] for name, leaf in data.query.items()}
        row = data.rows.ravel()[one]
        groups = {keys: group[[first]] for keys, group in data.encoded.groups.items()}
        encoded = dataclasses.replace(data.encoded, ids=data.encoded.ids[:1], groups=groups)
        exact = data.pairs.of_lists(encoded, query, np.array([0, len(row)]), row)[0]
        return row, exact

    ours = engines["ours"]()
    for request in range(0, len(data.rows), 16):
        row, exact = as_scores(request)
        chosen = exact[np.searchsorted(row, ours[request])]
        np.testing.assert_allclose(chosen, -np.sort(-exact)[:KEPT], rtol=1e-4, atol=1e-5)
    expected = np.sort(np.asarray(engines["gather, numpy"]()), 1)
    for name, engine in engines.items():
        if name != "ours":
            overlap = [
                len(np.intersect1d(np.asarray(a), b)) / KEPT
                for a, b in zip(engine(), expected, strict=True)
            ]
            assert min(overlap) > 0.99, f"{name}: {min(overlap)}"


def _ceilings(data: _Data, repeats: int) -> dict[str, float]:
    """Returns what memory and multiplication allow: GB/s of random rows, GFLOP/s of a tile."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rows = jax.device_put(data.rows[0].astype(np.int32))
    shuffled = jax.random.permutation(jax.random.key(0), rows)
    vectors, queries = jax.device_put(data.vectors), jax.device_put(data.folded)
    gather = jax.jit(lambda v, r, q: jnp.take(v, r, axis=0, mode="clip") @ q)
    tile, multiply = vectors[:16384], jax.jit(lambda q, v: q @ v.T)
    seconds = in_turns(
        {
            "sorted": lambda: jax.block_until_ready(gather(vectors, rows, queries[0])),
            "random": lambda: jax.block_until_ready(gather(vectors, shuffled, queries[0])),
            "product": lambda: jax.block_until_ready(multiply(queries, tile)),
        },
        10 * repeats,
    )
    read = data.rows.shape[1] * WIDTH * 4
    work = 2 * WIDTH * len(tile) * len(data.folded)
    return {
        "random rows, GB/s": read / seconds["random"] / 1e9,
        "ascending rows, GB/s": read / seconds["sorted"] / 1e9,
        "product of a tile in the cache, GFLOP/s": work / seconds["product"] / 1e9,
    }


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark by itself."""
    arguments = reporting.parser(__doc__ or "").parse_args(argv)
    reporting.report("score_lists", arguments, measure(arguments))


if __name__ == "__main__":
    main()
