"""Candidates per second that the input pipeline delivers, beside Grain reading example by example.

    python -m experiments.benchmarks.input --examples=runs/quickstart/examples

The peer reads the same columns of the same data with one record per example: what a Grain pipeline
looks like without blocks. Both from a warm file system, in turn, medians of several runs.

Then InteractRank is trained on the same examples, fed as `train` feeds it, and the share of time
that the loop is blocked in `next(data)` is taken: an upper bound of what the device waits for
input, for steps run on while the loop waits.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmarks import reporting
from interactrank_jax.config import models
from interactrank_jax.examples.blocks import BlockWriter, decode_block
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import Batch, train_columns, train_iterator
from interactrank_jax.training.trainer import Trainer


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


def waiting_share(
    config: ConfigDict,
    examples: Examples,
    batch_size: int,
    seed: int,
    steps: int,
    after: Callable[[int], None] = lambda step: None,
) -> float:
    """Returns the share of the training loop's time that goes into getting batches.

    Args:
      config: whole.
      examples: to train on.
      batch_size: requests.
      seed: of the order and of the parameters.
      steps: to take.
      after: called after each step with its number.
    """
    config = config.copy_and_resolve_references()
    config.train.update({"batch_size": batch_size, "seed": seed})
    trainer = Trainer(config, examples, devices=jax.local_devices()[:1])
    data = trainer.batches()
    for _ in range(3):  # compiles, and fills the pipeline's buffers
        trainer.advance(trainer.parallel.shard(next(data)))
    jax.block_until_ready(trainer.placed)
    waited, start = 0.0, time.perf_counter()
    for step in range(steps):
        asked = time.perf_counter()
        batch = next(data)
        waited += time.perf_counter() - asked
        trainer.advance(trainer.parallel.shard(batch))
        after(step)
    jax.block_until_ready(trainer.placed)
    return waited / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--examples", default="runs/quickstart/examples")
    parser.add_argument("--batch_size", type=int, default=256, help="requests per batch")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="per run")
    parser.add_argument("--steps", type=int, default=150, help="of training")
    arguments = parser.parse_args(argv)
    runs, seconds, steps = arguments.runs, arguments.seconds, arguments.steps
    config = models.interactrank("search")
    if arguments.quick:
        runs, seconds, steps = 1, 0.2, 3
        config.model.tower.masknet.blocks = 1  # compiles quickly
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
    figures["share_of_training_waiting_for_input"] = waiting_share(
        config, examples, size, seed, steps
    )
    row = next(train_iterator(examples, size, seed))
    figures["bytes_per_candidate"] = sum(v.nbytes for v in row.values()) / row["mask"].sum()
    reporting.report(
        "input", arguments, figures, runs=runs, batch_size=size, data=examples.metadata.config
    )
    return figures


if __name__ == "__main__":
    main()
