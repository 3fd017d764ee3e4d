"""Training of several models in one vmapped step, beside the same trainings one after the other.

    python -m experiments.benchmarks.vmap_sweep --json=vmap_sweep.json

S models of seeds and learning rates of their own, on the same batches: in one step of
`training/vmapped.py`, and each by its own steps. The two take turns, round after round. Both do the
same work, so the ratio of their seconds within a round is that of examples per second summed over
models. Its median is reported; above 1 one step for all is faster:

    small    two-tower, 32 requests of 10 candidates a batch: where a step is mostly overhead
    large    full InteractRank, 256 requests of 10 candidates

Steps alone are measured. Compiling, validations and checkpoints are left out, and so is what a
sweep saves by starting one process in place of S. `throughput_ratio` is that of the first size
measured (small, where both are) with most models.
"""

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax

from experiments.benchmarks import reporting
from experiments.benchmarks.train_step import Engine, measure, median_ratio
from experiments.benchmarks.workload import (
    Batch,
    BenchmarkTrainer,
    Workload,
    make_batch,
    make_workload,
)
from interactrank_jax.devices import cuda
from interactrank_jax.training.vmapped import Vmapped

ITEM_ROWS, QUICK_ITEM_ROWS = 10_000, 1_500
SIZES = {"small": ("two_tower", 32), "large": ("interactrank", 256)}  # model, requests a batch


class OneByOne:
    """Trainings that take their steps one training after the other."""

    def __init__(self, trainers: Sequence[BenchmarkTrainer]):
        self._trainers = trainers
        for trainer in trainers[1:]:  # another rate is another constant, not other work
            trainer.step = trainers[0].step

    def run_steps(self, batches: list[Batch]) -> float:
        """Takes one step per batch and model; returns seconds."""
        return sum(trainer.run_steps(batches) for trainer in self._trainers)


class Together:
    """The same trainings in one step."""

    def __init__(self, trainers: Sequence[BenchmarkTrainer]):
        self._models, self._parallel = Vmapped(trainers), trainers[0].parallel

    def run_steps(self, batches: list[Batch]) -> float:
        """Takes one step of all models per batch; returns seconds, placing batches left out."""
        placed = [self._parallel.shard(batch) for batch in batches]
        jax.block_until_ready((self._models.states, placed))
        start = time.perf_counter()
        for batch in placed:
            self._models.advance(batch)
        jax.block_until_ready(self._models.states)
        return time.perf_counter() - start


def make_trainers(workload: Workload, models: int) -> list[BenchmarkTrainer]:
    """Returns trainers of seeds and learning rates of their own."""
    trainers = []
    for seed in range(models):
        config = workload.config.copy_and_resolve_references()
        config.train.update({"seed": seed, "order_seed": 0})
        config.train.optimizer.learning_rate *= 1 + seed / models
        trainers.append(BenchmarkTrainer(Workload(config, workload.metadata, workload.store)))
    return trainers


def compare(
    workload: Workload, batches: list[Batch], models: int, rounds: int, steps: int
) -> dict[str, list[float]]:
    """Returns seconds per batch, of all models, either way; one figure a round."""
    engines: dict[str, tuple[Engine, list[Batch]]] = {
        "one_by_one": (OneByOne(make_trainers(workload, models)), batches),
        "together": (Together(make_trainers(workload, models)), batches),
    }
    return measure(engines, rounds, steps)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=(2, 4, 8), help="in one step")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=tuple(SIZES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="per round and model")
    parser.add_argument("--parallel", choices=("pmap", "shard_map"), default="pmap")
    arguments = parser.parse_args(argv)
    cuda.avoid_slow_scatter(os.environ)  # as the command line does
    sizes, models = arguments.sizes, sorted(arguments.models)
    rounds, steps = arguments.rounds, arguments.steps
    if arguments.quick:
        sizes, models, rounds, steps = sizes[:1], models[:1], 1, 2

    ratios: dict[str, dict[str, float]] = {}
    rates: dict[str, dict[str, dict[str, float]]] = {}
    seconds: dict[str, dict[str, list[float]]] = {}
    for size in sizes:
        model, requests = SIZES[size]
        rows = QUICK_ITEM_ROWS if arguments.quick else ITEM_ROWS
        options = {"parallel": arguments.parallel, "small": arguments.quick, "model": model}
        workload = make_workload(rows, arguments.seed, **options)
        seeds = [arguments.seed * 1000 + i for i in range(4 * steps)]
        batches = [make_batch(workload, requests, seed) for seed in seeds]
        ratios[size], rates[size] = {}, {}
        for count in models:
            took = compare(workload, batches, count, rounds, steps)
            seconds[f"{size}_{count}"] = took
            ratios[size][str(count)] = median_ratio(took["one_by_one"], took["together"])
            rates[size][str(count)] = {
                way: count * requests / statistics.median(values) for way, values in took.items()
            }
    figures = {
        "throughput_ratio": ratios[sizes[0]][str(models[-1])],
        "throughput_ratio_by_models": ratios,
        "examples_per_s": rates,
    }
    reporting.report(
        *("vmap_sweep", arguments, figures),
        seconds_per_batch=seconds,
        device=str(jax.local_devices()[0].device_kind),
        malloc=os.environ.get("GLIBC_TUNABLES", ""),
    )
    return figures


if __name__ == "__main__":
    main()
