"""Impressions per second of the preparation, from 1 to 100 million, and training from the largest.

    python -m experiments.benchmarks.prepare --out=runs/benchmarks --train_steps=2000
    python -m experiments.benchmarks.prepare --sizes 1m 10m --before=../before --repeats=3

The logs are simulated first, which is not timed. Each preparation runs in a process of its own, so
that its peak memory is its own; the page cache, and what lies on disk, are not part of that.
`--before` names a checkout of an earlier commit, whose `prepare` takes turns with ours on the same
logs. With `--train_steps` a run of
InteractRank trains on the examples of the largest log: its share of time that waits for input, and
how its memory grows from a tenth of the steps on.
"""

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks import reporting
from interactrank_jax.config import models
from interactrank_jax.log.simulator.presets import PRESETS
from interactrank_jax.log.simulator.simulate import simulate

IMPRESSIONS = {"50k": 50_000, "1m": 1_000_000, "10m": 10_000_000, "100m": 100_000_000}
# Preset and number of requests.
LOGS = {
    "50k": ("small", 5_000),
    "1m": ("medium", 100_000),
    "10m": ("medium", 1_000_000),
    "100m": ("large", 10_000_000),
}
SIZES = ("1m", "10m", "100m")
BATCH_SIZE = 256  # requests


def prepare_once(log: Path, out: Path) -> dict[str, Any]:
    """Prepares a log; returns seconds, seconds by phase, and the process's peak memory in GiB."""
    from interactrank_jax.examples.prepare import prepare

    config = models.interactrank("search")
    start = time.perf_counter()
    begun: list[tuple[str, float]] = []
    metadata = prepare(
        config.data, log, out, progress=lambda phase: begun.append((phase, time.perf_counter()))
    )
    end = time.perf_counter()
    ends = [at for _, at in begun[1:]] + [end]
    return {
        "impressions": sum(split.candidates for split in metadata.splits.values()),
        "seconds": end - start,
        "cpu_seconds": time.process_time(),
        "phases": {name: done - at for (name, at), done in zip(begun, ends, strict=True)},
        "peak_gib": reporting.peak_gib(),
    }


def prepare_before(checkout: Path, log: Path, out: Path) -> dict[str, Any]:
    """Does what `prepare_once` does with the code of another checkout."""
    code = (
        "import json, sys; from pathlib import Path\n"
        "from experiments.benchmarks.prepare import prepare_once\n"
        "print(json.dumps(prepare_once(Path(sys.argv[1]), Path(sys.argv[2]))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(log.absolute()), str(out.absolute())],
        cwd=checkout,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def train_on(examples: Path, steps: int) -> dict[str, float]:
    """Trains InteractRank; returns share of time waiting for input, rate and growth of memory."""
    from experiments.benchmarks.input import waiting_share
    from interactrank_jax.examples.format import Examples

    config = models.interactrank("search")
    resident: dict[int, float] = {}

    def at(step: int) -> None:
        if step in (steps // 10, steps - 1):
            resident[step] = reporting.resident_gib()

    start = time.perf_counter()
    waited = waiting_share(config, Examples(examples), BATCH_SIZE, 0, steps, at)
    return {
        "train_steps": steps,
        "train_seconds": time.perf_counter() - start,
        "train_input_wait": waited,
        "train_resident_gib_early": resident[steps // 10],
        "train_resident_gib_late": resident[steps - 1],
        "train_peak_gib": reporting.peak_gib(),
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=LOGS, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=1, help="of each size up to 10m; median")
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit, to take turns")
    parser.add_argument("--train_steps", type=int, default=0, help="on the largest examples")
    arguments = parser.parse_args(argv)
    sizes = ["50k"] if arguments.quick else arguments.sizes
    figures: dict[str, Any] = {}
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    for name in sizes:
        preset, requests = LOGS[name]
        # Beside the record where there is one: a temporary directory may lie in memory.
        with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
            log = Path(directory) / "log"
            simulate(preset, arguments.seed, log, requests=requests)
            repeats = 1 if IMPRESSIONS[name] > IMPRESSIONS["10m"] else arguments.repeats
            runs[name] = _in_turn(log, Path(directory), repeats, arguments.before)
            figures |= _figures(name, runs[name])
            if arguments.train_steps and name == sizes[-1]:
                examples = Path(directory) / "examples-ours"
                figures |= reporting.apart(train_on, examples, arguments.train_steps)
    if {"10m", "100m"} <= set(sizes):
        grown = figures["seconds_100m"] / figures["seconds_10m"]
        small, large = (IMPRESSIONS[name] for name in ("10m", "100m"))
        figures["growth_over_nlogn_10m_100m"] = grown / (
            large * math.log(large) / (small * math.log(small))
        )
    items = {name: PRESETS[LOGS[name][0]].items for name in sizes}
    reporting.report("prepare", arguments, figures, runs=runs, items=items)
    return figures


def _in_turn(
    log: Path, directory: Path, repeats: int, before: Path | None
) -> dict[str, list[dict[str, Any]]]:
    """Prepares a log several times, by our code and by that of another checkout in turn."""
    results: dict[str, list[dict[str, Any]]] = {"ours": []}
    for _ in range(repeats):
        out = directory / "examples-ours"
        shutil.rmtree(out, ignore_errors=True)
        results["ours"].append(reporting.apart(prepare_once, log, out))
        if before is not None:
            out = directory / "examples-before"
            shutil.rmtree(out, ignore_errors=True)
            results.setdefault("before", []).append(prepare_before(before, log, out))
            shutil.rmtree(out)
    return results


def _figures(name: str, results: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Returns the figures of one size: medians of several runs."""
    ours = results["ours"]
    seconds = statistics.median(run["seconds"] for run in ours)
    figures = {
        f"rows_per_s_{name}": ours[0]["impressions"] / seconds,
        f"seconds_{name}": seconds,
        f"peak_gib_{name}": max(run["peak_gib"] for run in ours),
    }
    if "before" in results:
        earlier = statistics.median(run["seconds"] for run in results["before"])
        figures[f"seconds_over_before_{name}"] = seconds / earlier
    for phase, spent in ours[0]["phases"].items():
        print(f"{name:>4} {phase:<34} {spent:8.2f} s")
    return figures


if __name__ == "__main__":
    main()
