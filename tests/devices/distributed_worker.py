"""One process of two: takes one training step on a given batch, whole and with tables split.

python -m tests.devices.distributed_worker COORDINATOR PROCESS EXAMPLES RESULT.npz
"""

import sys

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from interactrank_jax.devices import distributed
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.examples.format import Examples
from interactrank_jax.tables.lookup import item_store
from interactrank_jax.training.steps import make_train_step
from tests.devices.device_worker import BATCH, LONG_ROWS, LONG_TABLE, SPREAD, make_parts, one_batch

PROCESSES = 2
RUNS = {"pmap": ("pmap", 1), "shard_map": ("shard_map", 1), "sharded": ("shard_map", 4)}


def main(coordinator: str, process: str, examples_path: str, result_path: str) -> None:
    """Process 0 saves the state of each run after the step."""
    flags.FLAGS.mark_as_parsed()
    with distributed.joined(coordinator, PROCESSES, int(process)):
        examples = Examples(examples_path)
        examples.metadata.tables[LONG_TABLE] = LONG_ROWS
        parts = make_parts(examples)
        store = item_store(examples.items)
        store["id"] = store["id"] * SPREAD
        share = BATCH // PROCESSES
        mine = slice(int(process) * share, (int(process) + 1) * share)
        batch = {name: value[mine] for name, value in one_batch(examples).items()}
        result: dict[str, np.ndarray] = {}
        for name, (kind, shards) in RUNS.items():
            parallel = DataParallel(kind, shards=shards, tables=examples.metadata.tables)
            step = parallel.map_step(make_train_step(*parts.step, parallel.layout, 1))
            state = parallel.place(parallel.initialise(parts.init))
            state = step(state, parallel.shard(batch), parallel.replicate(store))
            whole = multihost_utils.process_allgather(parallel.canonical(state), tiled=True)
            for path, leaf in jax.tree_util.tree_leaves_with_path(whole):
                result[name + jax.tree_util.keystr(path)] = np.asarray(leaf)
        if jax.process_index() == 0:
            np.savez(result_path, **result)  # type: ignore[arg-type]
        distributed.wait_for_all("saved")


if __name__ == "__main__":
    main(*sys.argv[1:])
