"""Training impressions per second of full InteractRank, beside the same model in eager PyTorch.

    python -m experiments.benchmarks.train_step --json=train_step.json

Slates of 10, 256 requests a batch, Zipf ids, item tables of 10 thousand, 1 million and 10 million
rows. The engines take turns, round after round, on the same batches; what is compared is the ratio
within a round, and its median is reported. Batches are made and placed before the clock starts, for
all alike; the first steps are left out.

    ours                    requests as the unit; the tables' optimizer as configured (adagrad)
    ours_adam               the same with lazy Adam: the work that SparseAdam does
    torch_dense             one row per impression, as the official code trains; Adam for everything
    torch_sparse            one row per impression; SparseAdam for the tables
    torch_request_batches   our batches; SparseAdam for the tables

First ours take turns alone, for the ratio of table sizes; then, without the largest tables, beside
PyTorch. Without PyTorch its columns are null. The peers stop at 1 million rows: Adam over 10
million would need several times 1.3 GB beside all others. PyTorch gets its faster choice of one or
two threads, the fused Adam kernel, its own defaults for how threads wait, and labels made
beforehand. On a busy machine its two threads wait for each other, so take figures from an idle one;
see `load_average`. Set GLIBC_TUNABLES=glibc.malloc.hugetlb=1, as the command does: it holds for
both.
"""

import os
import statistics
import time
from typing import Any, Protocol

import jax

from experiments.benchmarks import reporting
from experiments.benchmarks.workload import (
    Batch,
    BenchmarkTrainer,
    Workload,
    make_batch,
    make_workload,
    one_row_per_impression,
)
from interactrank_jax.config import configuration
from interactrank_jax.devices import cuda

try:
    from experiments.benchmarks import torch_interactrank as pytorch
except ImportError:
    pytorch = None  # type: ignore[assignment]

SIZES = {"10k": 10_000, "1m": 1_000_000, "10m": 10_000_000}
QUICK_SIZES = dict.fromkeys(SIZES, 1_500)  # one size: each other one is compiled anew
PEER_SIZES = ("10k", "1m")
OURS = {"adagrad": "ours", "adam": "ours_adam"}


class Engine(Protocol):
    """Something that trains."""

    def run_steps(self, batches: list[Batch]) -> float:
        """Takes one step per batch; returns seconds."""


def measure(
    engines: dict[str, tuple[Engine, list[Batch]]], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Returns seconds per step, per engine one figure a round; the engines take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for round_ in range(-1, rounds):  # the first warms up: it compiles, and fills the caches
        for name, (engine, batches) in engines.items():
            first = max(round_, 0) * steps % len(batches)
            chosen = (batches[first:] + batches[:first])[: steps if round_ >= 0 else 2]
            took = engine.run_steps(chosen) / len(chosen)
            if round_ >= 0:
                seconds[name].append(took)
            time.sleep(0.02)  # so that the threads of one engine sleep when the next one runs
    return seconds


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Returns the median over rounds of a ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def _no_peers(arguments: Any, size: str) -> str:
    """Returns why PyTorch does not take part at this size, or ''."""
    if arguments.no_peers:
        return "--no_peers"
    if pytorch is None:
        return "PyTorch is not installed"
    return "" if size in PEER_SIZES else "memory: the peers stop at 1 million rows"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--requests", type=int, default=256, help="per batch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="per engine and round")
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=("adagrad", "adam"),
        default=("adagrad", "adam"),
        help="our optimizers of the tables",
    )
    parser.add_argument("--no_peers", action="store_true", help="ours alone")
    parser.add_argument("--parallel", choices=("pmap", "shard_map"), default="pmap")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args(argv)
    cuda.avoid_slow_scatter(os.environ)  # as the command line does
    sizes = QUICK_SIZES if arguments.quick else SIZES
    requests = 8 if arguments.quick else arguments.requests
    rounds, steps = (1, 2) if arguments.quick else (arguments.rounds, arguments.steps)

    engines: dict[str, tuple[Engine, list[Batch]]] = {}
    context: dict[str, Any] = {
        "rows": sizes,
        "device": str(jax.local_devices()[0].device_kind),
        "parallel": arguments.parallel,
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),
        "torch_threads": None,
        "skipped": {},
    }
    workloads: dict[str, Workload] = {}
    batches: dict[str, list[Batch]] = {}
    for size, rows in sizes.items():
        for optimizer in arguments.tables:
            workloads[size] = workload = make_workload(
                rows,
                arguments.seed,
                row_optimizer=optimizer,
                parallel=arguments.parallel,
                dtype=arguments.dtype,
                small=arguments.quick,
            )
            context.setdefault("config", configuration.to_json(workload.config))
            seeds = [arguments.seed * 1000 + i for i in range(4 * steps)]
            if size not in batches:
                batches[size] = [make_batch(workload, requests, seed) for seed in seeds]
            engines[f"{OURS[optimizer]}_{size}"] = BenchmarkTrainer(workload), batches[size]
    seconds = measure(engines, rounds, steps)
    figures: dict[str, Any] = {}
    for optimizer in arguments.tables:
        small, large = (seconds[f"{OURS[optimizer]}_{size}"] for size in ("10k", "10m"))
        name = "step_time_ratio_10m_over_10k" + OURS[optimizer].removeprefix("ours")
        figures[name] = median_ratio(large, small)
        # On a busy machine the fastest rounds say more than the median of disturbed ones.
        figures[f"{name}_fastest"] = min(large) / min(small)

    # The peers come when the largest tables have gone: they would share its memory.
    for size in sizes:
        if reason := _no_peers(arguments, size):
            context["skipped"][f"torch_{size}"] = reason
            for name in [name for name in engines if name.endswith(f"_{size}")]:
                del engines[name]
            continue
        rows_each = [one_row_per_impression(batch) for batch in batches[size]]
        sparse = pytorch.TorchTrainer(workloads[size], sparse=True)
        if context["torch_threads"] is None:
            context["torch_threads"] = pytorch.choose_threads(sparse, batches[size])
        dense = pytorch.TorchTrainer(workloads[size], sparse=False)
        engines[f"torch_dense_{size}"] = dense, rows_each
        engines[f"torch_sparse_{size}"] = sparse, rows_each
        engines[f"torch_request_batches_{size}"] = sparse, batches[size]
    beside_peers = measure(engines, rounds, steps)
    for optimizer in arguments.tables:
        ours, suffix = OURS[optimizer], OURS[optimizer].removeprefix("ours")
        for peer in ("torch_dense", "torch_sparse", "torch_request_batches"):
            other = beside_peers.get(f"{peer}_1m")
            figures[f"speedup_vs_{peer}_1m{suffix}"] = other and median_ratio(
                other, beside_peers[f"{ours}_1m"]
            )
    seconds |= beside_peers
    impressions = requests * int(workload.metadata.slate)
    for name, values in seconds.items():
        figures[f"impressions_per_s_{name}"] = impressions / statistics.median(values)
    reporting.report("train_step", arguments, figures, seconds_per_step=seconds, **context)
    return figures


if __name__ == "__main__":
    main()
