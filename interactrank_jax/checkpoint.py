"""Checkpoints: the whole run (to resume), and the best model so far (to index and score).

    RUN/checkpoints/STEP    train state, Grain iterator, progress   (the two newest are kept)
    RUN/best/STEP           parameters and tables of the best validation so far

Orbax writes beside and renames, so a checkpoint is whole or absent.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp

from interactrank_jax.errors import InputError
from interactrank_jax.files import PathLike
from interactrank_jax.state import TrainState


@dataclasses.dataclass
class Progress:
    """What the loop knows beside the state.

    Attributes:
      best_metric: best validation value so far (higher is better), or None.
      best_step: its step.
      evaluations_since_best: for early stopping.
      stopped: early stopping has ended the run.
    """

    best_metric: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    stopped: bool = False


class Checkpoints:
    """The checkpoints of one run directory; a context manager that waits for pending writes."""

    def __init__(self, workdir: PathLike):
        root = Path(workdir).absolute()
        self._runs = ocp.CheckpointManager(
            root / "checkpoints", options=ocp.CheckpointManagerOptions(max_to_keep=2)
        )
        self._best = ocp.CheckpointManager(
            root / "best", options=ocp.CheckpointManagerOptions(max_to_keep=1)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Waits for pending writes."""
        self._runs.close()
        self._best.close()

    def latest_step(self) -> int | None:
        """Returns the newest whole checkpoint's step, or None."""
        return self._runs.latest_step()

    def save(self, state: TrainState, data: grain.DatasetIterator, progress: Progress) -> None:
        """Saves everything a resumed run needs, at `state.step`."""
        step = int(state.step)
        if step == self.latest_step():
            return
        self._runs.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=grain.checkpoint.CheckpointSave(data),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
        )

    def restore(
        self, template: TrainState, data: grain.DatasetIterator
    ) -> tuple[TrainState, Progress]:
        """Restores the newest checkpoint; sets the iterator's position."""
        step = self.latest_step()
        progress = Progress(
            **self._runs.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))[
                "progress"
            ]
        )
        restored = self._runs.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract(template)),
                data=grain.checkpoint.CheckpointRestore(data),
            ),
        )
        return restored["state"], progress

    def save_best(self, state: TrainState) -> None:
        """Saves the model alone as the best so far."""
        step = int(state.step)
        if step != self._best.latest_step():
            model = {"params": state.params, "tables": state.tables}
            self._best.save(step, args=ocp.args.StandardSave(model), force=True)
            # Before the checkpoint that speaks of it: a kill in between must not lose the model.
            self._best.wait_until_finished()


def restore_best(workdir: PathLike, template: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Returns a run's best model, {'params', 'tables'}, and its step; writes nothing.

    Raises:
      InputError: there is none yet.
    """
    directory = Path(workdir).absolute() / "best"
    # A checkpoint being written has another name until it is whole.
    steps = [int(path.name) for path in directory.glob("*") if path.name.isdigit()]
    if not steps:
        raise InputError(f"{directory} holds no model yet. Train first: `interactrank train`.")
    with ocp.StandardCheckpointer() as checkpointer:
        path = directory / str(max(steps)) / "default"
        return checkpointer.restore(path, abstract(template)), max(steps)


def abstract(tree: Any) -> Any:
    """Returns shapes and types, placed on this process's first device: restores anywhere."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding), tree
    )


def fingerprint(model: dict[str, Any]) -> str:
    """Returns a hash of every parameter and table: an index names the model it came from."""
    checksum = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        checksum.update(jax.tree_util.keystr(path).encode())
        checksum.update(np.ascontiguousarray(leaf).data)
    return checksum.hexdigest()[:16]
