"""Candidates per second that the input pipeline delivers, beside Grain reading example by example.

    python -m experiments.benchmarks.input --examples=runs/quickstart/examples

The peer reads the same columns of the same data with one record per example: what a Grain pipeline
looks like without blocks. Both from a warm file system, in turn, medians of several runs.
"""

import argparse
import importlib.metadata
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grain
import numpy as np

from interactrank_jax import files
from interactrank_jax.data.blocks import BlockWriter, decode_block
from interactrank_jax.data.examples import Examples
from interactrank_jax.data.pipeline import Batch, train_columns, train_iterator


def write_single_examples(examples: Examples, directory: Path, limit: int) -> tuple[list[str], int]:
    """Writes up to `limit` training examples as one record each; returns files and their count."""
    count = 0
    with BlockWriter(directory, blocks_per_file=1 << 30) as writer:
        for block in examples.blocks("train", train_columns(examples)):
            for row in range(min(len(block["mask"]), limit - count)):
                writer.write({name: value[row : row + 1] for name, value in block.items()})
                count += 1
    return [str(directory / name) for name, _ in writer.files], count


def per_example_iterator(paths: list[str], batch_size: int, seed: int) -> Iterator[Batch]:
    """Returns batches from single-example records, shuffled globally."""
    source = grain.sources.ArrayRecordDataSource(paths)
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(1 << 30)
    decoded = dataset.map(lambda record: {k: v[0] for k, v in decode_block(record).items()})
    batches = decoded.batch(batch_size, drop_remainder=True)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=64)))


def rate(make: Callable[[], Iterator[Batch]], seconds: float) -> float:
    """Returns candidates per second over `seconds`, the first batches left out."""
    iterator = make()
    for _ in range(3):
        next(iterator)
    candidates, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        candidates += int(np.count_nonzero(next(iterator)["mask"]))
    return candidates / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", default="runs/quickstart/examples")
    parser.add_argument("--batch_size", type=int, default=256, help="requests per batch")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="per run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one short run")
    parser.add_argument("--out", type=Path, help="directory to write input.json into")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    runs, seconds = (1, 0.5) if arguments.quick else (arguments.runs, arguments.seconds)
    examples = Examples(arguments.examples)
    size, seed = arguments.batch_size, arguments.seed
    with tempfile.TemporaryDirectory() as directory:
        paths, count = write_single_examples(examples, Path(directory), limit=20_000)
        size = min(size, count)
        rates: dict[str, list[float]] = {"blocks": [], "per_example": []}
        for _ in range(runs):
            rates["blocks"].append(rate(lambda: train_iterator(examples, size, seed), seconds))
            rates["per_example"].append(
                rate(lambda: per_example_iterator(paths, size, seed), seconds)
            )
    figures = {f"{name}_candidates_per_s": statistics.median(v) for name, v in rates.items()}
    figures["ratio"] = figures["blocks_candidates_per_s"] / figures["per_example_candidates_per_s"]
    row = next(train_iterator(examples, size, seed))
    figures["bytes_per_candidate"] = sum(v.nbytes for v in row.values()) / row["mask"].sum()
    print(json.dumps(figures, indent=2))
    record = {
        **figures,
        "runs": runs,
        "batch_size": size,
        "seed": seed,
        "data": examples.metadata.config,
        "versions": {name: importlib.metadata.version(name) for name in ("grain", "numpy")},
    }
    for path in (arguments.json, arguments.out and arguments.out / "input.json"):
        if path:
            files.write_json(path, record)
    return figures


if __name__ == "__main__":
    main()
