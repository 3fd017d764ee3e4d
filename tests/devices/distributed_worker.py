"""One process of two: takes one training step on a given batch, whole and with tables split.

python -m tests.devices.distributed_worker COORDINATOR PROCESS EXAMPLES RESULT.npz
"""

import sys

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from interactrank_jax.devices import distributed
from tests.devices.device_worker import BATCH, long_examples, make_trainer, one_batch

PROCESSES = 2
RUNS = {"pmap": ("pmap", 1), "shard_map": ("shard_map", 1), "sharded": ("shard_map", 4)}


def main(coordinator: str, process: str, examples_path: str, result_path: str) -> None:
    """Process 0 saves the state of each run after the step."""
    flags.FLAGS.mark_as_parsed()
    with distributed.joined(coordinator, PROCESSES, int(process)):
        examples = long_examples(examples_path)
        share = BATCH // PROCESSES
        mine = slice(int(process) * share, (int(process) + 1) * share)
        batch = {name: value[mine] for name, value in one_batch(examples).items()}
        result: dict[str, np.ndarray] = {}
        for name, (kind, shards) in RUNS.items():
            trainer = make_trainer(examples, kind, shards)
            trainer.advance(trainer.parallel.shard(batch))
            whole = multihost_utils.process_allgather(trainer.state, tiled=True)
            for path, leaf in jax.tree_util.tree_leaves_with_path(whole):
                result[name + jax.tree_util.keystr(path)] = np.asarray(leaf)
        if jax.process_index() == 0:
            np.savez(result_path, **result)  # type: ignore[arg-type]
        distributed.wait_for_all("saved")


if __name__ == "__main__":
    main(*sys.argv[1:])
