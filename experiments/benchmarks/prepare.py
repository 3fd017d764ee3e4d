"""Impressions per second of the preparation, at 1 and at 10 million impressions.

    python -m experiments.benchmarks.prepare --out=runs/benchmarks

The logs are simulated first (preset medium, more or fewer requests), which is not timed. Each
preparation runs in a process of its own, so that its peak memory is its own; DuckDB's spill files
and the page cache are not part of that.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from configs import interactrank
from experiments.benchmarks import reporting
from interactrank_jax.log.simulator.presets import PRESETS
from interactrank_jax.log.simulator.simulate import simulate

SIZES = {"1m": ("medium", 100_000), "10m": ("medium", 1_000_000)}  # preset, requests
QUICK_SIZES = {"50k": ("small", 5_000)}


def prepare_once(log: Path, out: Path) -> dict[str, Any]:
    """Prepares a log; returns seconds, seconds by phase, and the process's peak memory in GiB."""
    from interactrank_jax.examples.prepare import prepare

    config = interactrank.get_config("search")
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
        "phases": {name: done - at for (name, at), done in zip(begun, ends, strict=True)},
        "peak_gib": reporting.peak_gib(),
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args(argv)
    sizes = QUICK_SIZES if arguments.quick else {name: SIZES[name] for name in arguments.sizes}
    figures: dict[str, Any] = {}
    phases = {}
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    for name, (preset, requests) in sizes.items():
        # Beside the record where there is one: a temporary directory may lie in memory.
        with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
            log = Path(directory) / "log"
            simulate(preset, arguments.seed, log, requests=requests)
            result = reporting.apart(prepare_once, log, Path(directory) / "examples")
        figures[f"impressions_per_s_{name}"] = result["impressions"] / result["seconds"]
        figures[f"seconds_{name}"] = result["seconds"]
        figures[f"peak_gib_{name}"] = result["peak_gib"]
        phases[name] = result["phases"]
        for phase, seconds in result["phases"].items():
            print(f"{name:>4} {phase:<20} {seconds:8.2f} s")
    presets = {name: PRESETS[preset].items for name, (preset, _) in sizes.items()}
    reporting.report("prepare", arguments, figures, phases=phases, items=presets)
    return figures


if __name__ == "__main__":
    main()
