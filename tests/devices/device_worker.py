"""Runs in a process of its own, with four fake CPU devices; `test_parallel.py` reads the result.

python -m tests.devices.device_worker EXAMPLES RESULT.npz
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax.sharding import PartitionSpec as P

from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation.evaluate import Rows, slate_figures
from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import train_iterator
from interactrank_jax.tables import lookup
from interactrank_jax.tables.lookup import Slot
from interactrank_jax.tables.optimizer import RowOptimizer
from interactrank_jax.tables.sharding import look_up, reduce_rows
from interactrank_jax.training.checkpoint import Checkpoints, Progress
from interactrank_jax.training.trainer import Trainer
from tests.synthetic import tiny_config, without_blocks

DEVICES = 4
FLAG = f"--xla_force_host_platform_device_count={DEVICES}"
KINDS = ("pmap", "shard_map")
# name -> kind, devices, shards of long tables
RUNS = {
    "pmap1": ("pmap", 1, 1),
    "shard_map1": ("shard_map", 1, 1),
    "pmap4": ("pmap", DEVICES, 1),
    "shard_map4": ("shard_map", DEVICES, 1),
    "sharded2": ("shard_map", DEVICES, 2),
    "sharded4": ("shard_map", DEVICES, 4),
}
LOSS = {
    "impression_sampling": 1.0,
    "softmax_weight": 0.5,
    "log_q": "sketch",
    "correction": "positive_apart",
    "pairwise_weight": 0.1,
    "listwise_weight": 0.1,
}
# Who saves a checkpoint, and who restores it.
RESTORES = (("pmap4", "shard_map1"), ("sharded4", "pmap1"), ("pmap1", "sharded4"))
LONG_TABLE, LONG_ROWS, SPREAD = "item", 70_000, 800  # ids times SPREAD reach every shard
BATCH, STEPS = 16, 4
TABLE_SIZES = (3, 8, 12, 40)  # longer than, as long as and shorter than what devices hold together
LOOKUPS, DIM = 2, 3  # per device


def make_trainer(
    examples: Examples,
    kind: str = "shard_map",
    shards: int = 1,
    devices: list[jax.Device] | None = None,
    steps: int = 1,
) -> Trainer:
    """Returns a trainer with every loss at work, but for what devices draw differently."""
    config = tiny_config("interactrank")
    without_blocks(config)
    config.train.update({"parallel": kind, "table_shards": shards, "max_steps": steps})
    config.train.loss.update(LOSS)
    config.train.tables.learning_rate = 0.05
    # Not Adam: it turns a gradient of rounding errors into a whole step.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    return Trainer(config, examples, "unused", devices, optimizer=optimizer)


def long_examples(path: str | Path) -> Examples:
    """Returns examples with a table long enough to be split over devices, and ids all over it."""
    examples = Examples(path)
    examples.metadata.tables[LONG_TABLE] = LONG_ROWS
    examples.items["id"] = examples.items["id"] * SPREAD
    return examples


def one_batch(examples: Examples) -> dict[str, np.ndarray]:
    """Returns the first batch of the training data."""
    return next(train_iterator(examples, BATCH, seed=0))


def main(examples_path: str, result_path: str) -> None:
    """Trains and evaluates on one and on four devices, and saves what came of it."""
    flags.FLAGS.mark_as_parsed()
    assert jax.device_count() == DEVICES, f"set XLA_FLAGS={FLAG}"
    examples = long_examples(examples_path)
    stream = train_iterator(examples, BATCH, seed=0)
    batches = [next(stream) for _ in range(STEPS)]

    result: dict[str, np.ndarray] = {}
    trained: dict[str, Trainer] = {}
    for name, (kind, count, shards) in RUNS.items():
        trainer = make_trainer(examples, kind, shards, jax.devices()[:count], STEPS)
        parallel = trainer.parallel
        save(result, f"{name}/initial", trainer.state)
        scorer = ModelScorer(trainer.run, examples, "test", parallel)
        model = {"params": trainer.placed.params, "tables": trainer.placed.tables}
        evaluated(result, name, scorer.use(model))
        for number, batch in enumerate(batches):
            trainer.advance(parallel.shard({key: value.copy() for key, value in batch.items()}))
            if number == 0:
                save(result, f"{name}/first", trainer.state)
        if shards > 1:
            sharded(result, name, trainer, batches[0])
        else:
            for device in range(count):
                save(result, f"{name}/device{device}", copy_on(trainer.placed, device, kind))
        trained[name] = trainer
    restored(result, trained, stream, Path(result_path).parent)
    reduced(result)
    np.savez(result_path, **result)  # type: ignore[arg-type]


def restored(result, trained, stream, directory) -> None:
    """Adds what a checkpoint of some devices gives on others, and what it was made of."""
    for number, (saver, reader) in enumerate(RESTORES):
        root = directory / f"restore{number}"
        with Checkpoints(root) as checkpoints:
            checkpoints.save(trained[saver].state, stream, Progress())
        save(result, f"restore{number}/saved", trained[saver].state)
        parallel = trained[reader].parallel
        with Checkpoints(root) as checkpoints:
            template = parallel.initialise(trained[reader].init)
            state, _ = checkpoints.restore(template, stream)
        save(result, f"restore{number}/found", parallel.canonical(parallel.place(state)))
        device_sets = [leaf.sharding.device_set for leaf in jax.tree.leaves(state)]
        result[f"restore{number}/devices"] = np.array([len(devices) for devices in device_sets])


def sharded(result, name, trainer, batch) -> None:
    """Adds how many rows of the long table a device has ever held, and every replica of a shard."""
    parallel, state = trainer.parallel, trainer.placed
    batch = parallel.shard({key: value.copy() for key, value in batch.items()})
    mapped = parallel._map(
        trainer.per_device, outputs=lambda state, *_: parallel.specs(state), donate_argnums=(0, 1)
    )
    program = mapped.lower(state, batch, trainer.store).compile().as_text()
    shardings = parallel.shardings(jax.eval_shape(trainer.init))
    program += jax.jit(trainer.init, out_shardings=shardings).lower().compile().as_text()
    rows = state.tables[LONG_TABLE].shape[0]
    result[f"{name}/whole_in_program"] = np.array(f"[{rows}," in program or f"[{rows}]" in program)
    result[f"{name}/part_in_program"] = np.array(f"[{rows // parallel.layout.shards}," in program)
    table, accumulator = state.tables[LONG_TABLE], state.table_states[LONG_TABLE]["accumulator"]
    for leaf, what in ((table, "table"), (accumulator, "accumulator")):
        shards = sorted(leaf.addressable_shards, key=lambda shard: shard.device.id)
        result[f"{name}/held_{what}"] = np.array([len(shard.data) for shard in shards])
        result[f"{name}/start_{what}"] = np.array([shard.index[0].start or 0 for shard in shards])
        result[f"{name}/shards_{what}"] = np.stack([np.asarray(shard.data) for shard in shards])


def save(result, prefix, state) -> None:
    """Adds a state's leaves under their paths."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        result[prefix + jax.tree_util.keystr(path)] = np.array(leaf)


def copy_on(tree, device: int, kind: str):
    """Returns one device's copy of a replicated tree."""

    def one(leaf):
        copy = np.asarray(leaf.addressable_shards[device].data)
        return copy[0] if kind == "pmap" else copy

    return jax.tree.map(one, tree)


def evaluated(result, name, scorer: ModelScorer) -> None:
    """Adds the rows that an evaluation saw, and its figures."""
    rows = Rows(scorer, scorer.examples, "test", scorer.batch_size)
    for field in ("request", "item", "actions", "logits"):
        result[f"{name}/rows/{field}"] = getattr(rows, field)
    for metric, value in slate_figures(scorer, rows, scorer.rule).items():
        result[f"{name}/figures/{metric}"] = np.float64(value)


def reduced(result) -> None:
    """Adds tables after one update from lookups of four devices, and those lookups."""
    rng = np.random.default_rng(0)
    optimizer = RowOptimizer("adagrad", lambda _: jnp.float32(0.1))
    parallel = DataParallel("shard_map", jax.devices())
    for size in TABLE_SIZES:
        table = rng.normal(size=(size, DIM)).astype(np.float32)
        ids = rng.integers(0, size, DEVICES * LOOKUPS).astype(np.int32)
        ids[2] = ids[0]  # two devices look up the same row
        weight = rng.normal(size=(len(ids), DIM)).astype(np.float32)

        def update(table, ids, weight):
            slots = {"slot": Slot("t", ids)}
            values, rows, index = look_up({"t": table}, slots, parallel.layout)
            gradient = jax.grad(
                lambda values: (lookup.embed(values, slots, index)["slot"] * weight).sum()
            )(values)
            if len(table) > DEVICES * LOOKUPS:  # owners add what a lookup used, and nothing else
                gradient["t"] = jnp.where(rows["t"].touched[:, None], gradient["t"], jnp.nan)
            rows, gradient = reduce_rows(rows, gradient, {"t": table}, parallel.layout)
            updated = optimizer.update(
                table, optimizer.init(table), rows["t"], gradient["t"], jnp.int32(0)
            )
            return *updated, jnp.isfinite(gradient["t"]).all()

        mapped = jax.shard_map(
            update,
            mesh=parallel._mesh,
            in_specs=(P(), P(parallel.layout.batch), P(parallel.layout.batch)),
            out_specs=P(),
            check_vma=False,
        )
        after, state, finite = jax.block_until_ready(jax.jit(mapped)(table, ids, weight))
        for name, value in (("table", table), ("ids", ids), ("weight", weight), ("after", after)):
            result[f"reduced{size}/{name}"] = np.array(value)
        result[f"reduced{size}/finite"] = np.array(finite)
        result[f"reduced{size}/accumulator"] = np.array(state["accumulator"])


if __name__ == "__main__":
    main(*sys.argv[1:])
