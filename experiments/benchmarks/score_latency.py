"""Latency of one request, from its raw row to an Arrow table of the best 500 of its candidates.

    python -m experiments.benchmarks.score_latency --json=runs/score_latency.json
    python -m experiments.benchmarks.score_latency --bundles=runs/bundles   # makes them once

Models are trained for a few steps on a simulated log with 120,000 items, and exported: what a
request costs does not depend on what was learned. Each request has candidates of its own, as a
table of request_id and item_id. Engines take turns on the same requests:

    ours        `Ranker.rank`, jax
    reader      `serving.Reader.rank`: the same by onnxruntime
    onnx loop   one run of the exported graph `score_list` on the encoded request, then top-k
    torch       eager: gather, score and top-k; the query is encoded by jax, as in ours, and the
                weights of FIT's scorer and of cross features are random
    torch, one thread   the same; on few cores its threads wait long for those of other engines

The loop and torch take the encoded request and the candidates' rows from our code, and their result
through it to an Arrow table: both are timed, since a service has to do them whatever scores.
"""

import argparse
import contextlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.benchmarks import reporting
from experiments.benchmarks.peers import fastest_kernels, rotated

MODELS = ("two_tower", "interactrank", "fit", "interactfit")
CANDIDATES, ITEMS, KEPT = (1_000, 10_000, 100_000), 120_000, 500
REPEATS = {1_000: 200, 10_000: 100, 100_000: 40}
QUICK_MODELS, QUICK_CANDIDATES, QUICK_ITEMS, QUICK_REPEATS = ("two_tower", "fit"), (100,), 400, 3
REST_S = 0.01  # after a request, so that the threads of one engine sleep when the next one runs
OURS, READER, LOOP, TORCH = "ours", "reader", "onnx loop", "torch"
TORCH_ALONE = "torch, one thread"


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures, by the names of the record."""
    bundles = getattr(arguments, "bundles", None)
    models = QUICK_MODELS if arguments.quick else MODELS
    with fastest_kernels(), contextlib.ExitStack() as stack:
        if bundles is None:
            bundles = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        items = QUICK_ITEMS if arguments.quick else ITEMS
        reporting.apart(make_bundles, bundles, models, items)
        parts = {
            model: reporting.apart(_measure, bundles, model, arguments.quick, arguments.seed)
            for model in models
        }
    return _figures(parts)


def make_bundles(root: Path, models: tuple[str, ...], items: int) -> None:
    """Writes ROOT/bundle_MODEL of those models that have none there, and ROOT/examples."""
    import interactrank_jax as ir
    from interactrank_jax.log.simulator.simulate import simulate

    if not (root / "log" / "schema.json").exists():
        simulate("small", 0, root / "log", items=items, requests=3000, topics=items // 500 + 4)
    for model in models:
        if (root / f"bundle_{model}").exists():
            continue
        config = ir.configs.build(model, "search")
        config.train.batch_size, config.evaluate.corpus_requests = 64, 8
        examples = root / "examples"
        if not examples.exists():
            ir.prepare(root / "log", config, examples)
        if not (root / f"run_{model}").exists():
            ir.Trainer(config, ir.Examples(examples), root / f"run_{model}").fit(steps=10)
        ir.export_bundle(
            root / f"run_{model}", root / f"bundle_{model}", state=examples / "state", onnx=True
        )


def _figures(parts: dict[str, dict[str, dict[int, list[float]]]]) -> dict[str, Any]:
    """Returns the record: of each model, engine and number of candidates the p50 and p99 in ms."""
    first = next(iter(parts.values()))
    counts = list(next(iter(first.values())))
    ours = {model: engines[OURS] for model, engines in parts.items()}

    def over_best_peer(model: str, count: int, column: int) -> float:
        peers = [parts[model][name][count][column] for name in first if name != OURS]
        return ours[model][count][column] / min(peers)

    per_candidate = {model: {n: ours[model][n][0] / n for n in counts} for model in ours}
    figures: dict[str, Any] = {
        "latency_ms": ours,
        "latency_ms_of_peers": {
            model: {name: figures for name, figures in engines.items() if name != OURS}
            for model, engines in parts.items()
        },
        "latency_over_best_peer": {
            model: {n: [over_best_peer(model, n, column) for column in (0, 1)] for n in counts}
            for model in ours
        },
        "growth_candidates": {
            model: values[counts[-1]] / values[counts[0]] for model, values in per_candidate.items()
        },
    }
    if "fit" in ours and "two_tower" in ours:
        figures["fit_over_two_tower"] = {
            n: ours["fit"][n][0] / ours["two_tower"][n][0] for n in counts
        }
    return figures


def _measure(
    root: Path, model: str, is_quick: bool, seed: int
) -> dict[str, dict[int, list[float]]]:
    """Returns by engine and number of candidates the p50 and p99 of one model, in ms."""
    import numpy as np

    case = _Case(root, model, seed)
    engines = case.engines()
    result: dict[str, dict[int, list[float]]] = {name: {} for name in engines}
    for count in QUICK_CANDIDATES if is_quick else CANDIDATES:
        repeats = QUICK_REPEATS if is_quick else REPEATS[count]
        times: dict[str, list[float]] = {name: [] for name in engines}
        warm = max(repeats // 10, 2)
        for turn, (request, candidates) in enumerate(case.requests(count, repeats + warm)):
            for name, engine in rotated(engines, turn):
                start = time.perf_counter()
                table = engine(request, candidates)
                if turn >= warm:
                    times[name].append(1e3 * (time.perf_counter() - start))
                assert len(table) == min(KEPT, count)
                time.sleep(REST_S)
        for name, values in times.items():
            result[name][count] = np.percentile(values, [50, 99]).round(3).tolist()
    return result


class _Case:
    """A bundle, opened by jax and by onnxruntime, and requests for it."""

    def __init__(self, root: Path, model: str, seed: int):
        import numpy as np

        import interactrank_jax as ir
        from interactrank_jax.serving.reader import Reader

        self.ranker = ir.Ranker(root / f"bundle_{model}")
        self.ranker.warm_up(max(CANDIDATES), k=KEPT)
        self.reader = Reader(root / f"bundle_{model}")
        self.bundle = self.ranker.bundle
        self._raw = ir.Examples(root / "examples").raw_requests("test")
        self._rng = np.random.default_rng(seed)

    def requests(self, count: int, number: int) -> Iterator[tuple[Any, Any]]:
        """Yields requests, each with so many candidates."""
        import pyarrow as pa

        ids = self.bundle.items.ids
        for turn in range(number):
            request = self._raw.slice(turn % len(self._raw), 1)
            chosen = self._rng.choice(len(ids), count, replace=False)
            names = pa.array([request["request_id"][0].as_py()]).take(pa.array([0] * count))
            yield request, pa.table({"request_id": names, "item_id": ids.take(pa.array(chosen))})

    def engines(self) -> dict[str, Callable[[Any, Any], Any]]:
        """Returns what ranks a request's candidates."""
        engines = {
            OURS: lambda request, listed: self.ranker.rank(request, listed, k=KEPT),
            READER: lambda request, listed: self.reader.rank(request, listed, k=KEPT),
            LOOP: self._by(self._onnx()),
        }
        if importlib.util.find_spec("torch") is not None:  # else it has no figures
            for name, threads in ((TORCH, os.cpu_count() or 1), (TORCH_ALONE, 1)):
                encode = self.ranker.ranking.encode
                engines[name] = self._by(_torch_scorer(self.bundle, encode, threads))
        return engines

    def _by(
        self, score: Callable[[Any, Any, Any], tuple[Any, Any, Any]]
    ) -> Callable[[Any, Any], Any]:
        """Returns an engine that encodes as we do, scores by `score`, and writes a table."""
        import numpy as np
        import pyarrow as pa

        from interactrank_jax.serving.lists import candidate_lists

        ranking, uses_cross = self.ranker.ranking, self.ranker.ranking.pairs.uses_cross

        def engine(request: Any, listed: Any) -> Any:
            table = ranking.encoder.check(request)
            lists = candidate_lists(self.bundle, table, listed)
            assert lists is not None
            encoded, cross = ranking.encoder.encode(table), None
            if uses_cross:
                cross = self.bundle.cross.values(encoded.groups, lists.row[None])
            chosen, scores, logits = score(encoded, lists.row, cross)
            return pa.table(
                {
                    "request_id": encoded.ids.take(pa.array(np.zeros(len(chosen), np.int64))),
                    "item_id": self.bundle.ids_of(lists.row[chosen]),
                    "rank": pa.array(np.arange(1, len(chosen) + 1), pa.int32()),
                    "score": scores,
                    **ranking.calibration.columns(logits),
                }
            )

        return engine

    def _onnx(self) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        import numpy as np

        graphs = self.reader.ranking.graphs
        wanted = self.bundle["graphs"]["score_list"]["inputs"]

        def score(encoded: Any, row: Any, cross: Any) -> tuple[Any, Any, Any]:
            inputs = {name: a for name, a in encoded.arrays.items() if name in wanted}
            inputs["row"] = row[None].astype(np.int32)
            if cross is not None:
                inputs["cross"] = cross
            outputs = graphs.run("score_list", inputs)
            chosen = _best(outputs["score"][0])
            return chosen, outputs["score"][0, chosen], outputs["logits"][0, chosen]

        return score


def _best(score: Any) -> Any:
    import numpy as np

    kept = np.argpartition(-score, KEPT)[:KEPT] if len(score) > KEPT else np.arange(len(score))
    return kept[np.argsort(-score[kept], kind="stable")]


def _torch_scorer(
    bundle: Any, encode: Callable[[Any], dict[str, Any]], threads: int
) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
    """Returns torch's eager arithmetic of a model's score.

    Args:
      bundle: the bundle.
      encode: returns the representation of an encoded request, leaves `query/0`, ...
      threads: that torch may use.
    """
    import numpy as np
    import torch

    generator = torch.Generator().manual_seed(0)
    index = [
        torch.from_numpy(np.array(bundle.arrays[f"index/{n}"]))
        for n in range(sum(name.startswith("index/") for name in bundle.arrays))
    ]
    heads, is_dot = len(bundle["heads"]), "query_vector" in bundle["graphs"]
    utility = torch.tensor(bundle["utility"])
    weights = torch.randn((len(bundle.cross.names), heads), generator=generator)
    first = torch.randn((4, 8), generator=generator)
    second = torch.randn((4, 8), generator=generator)
    last = torch.randn((64, heads), generator=generator)

    def late(query: Any, row: Any) -> Any:
        item = index[0].index_select(0, row)
        user = query.index_select(0, index[1].index_select(0, row).long())
        x = torch.relu(torch.bmm(user, item.transpose(1, 2)) @ first)
        return torch.relu(x.transpose(1, 2) @ second).reshape(len(row), -1) @ last

    def score(encoded: Any, row: Any, cross: Any) -> tuple[Any, Any, Any]:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            query = torch.tensor(encode(encoded)["query/0"][0])
            at = torch.from_numpy(row)
            logits = None if is_dot else late(query, at)
            if logits is None:
                value = index[0].index_select(0, at) @ (utility @ query)
            else:
                value = logits @ utility
            if cross is not None:
                # sign log1p, as the model damps them
                damped = torch.from_numpy(cross[0])
                damped = torch.sign(damped) * torch.log1p(damped.abs())
                value = value + damped @ (weights @ utility)
            top = value.topk(min(KEPT, len(row)))
            chosen = top.indices
            if logits is None:
                kept = index[0].index_select(0, at[chosen]) @ query.T
            else:
                kept = logits[chosen]
            return chosen.numpy(), top.values.numpy(), kept.numpy()

    return score


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark by itself."""
    parser = reporting.parser(__doc__ or "")
    parser.add_argument("--bundles", type=Path, help="directory to make bundles in, or to use them")
    arguments = parser.parse_args(argv)
    reporting.report("score_latency", arguments, measure(arguments))


if __name__ == "__main__":
    main()
