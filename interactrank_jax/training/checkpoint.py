"""Checkpoints: the whole run (to resume), and the best model so far (to index and score).

    RUN/checkpoints/STEP    train state, Grain iterator, progress   (the two newest are kept)
    RUN/best/STEP           parameters, tables and calibration of the best validation so far

Orbax writes beside and renames, so a checkpoint is whole or absent. Once it is there, the SHA-256
of each of its files is written into it, STEP/checksums.json, and compared before it is read. A
checkpoint without that file is taken: its process was killed between the two, and it was whole by
then. (Orbax calls back before it has written the last file, so the digests have a thread of their
own. RUN/best is no policy of the other manager: that would keep whole states, and later.)
"""

import contextlib
import dataclasses
import logging
import threading
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp

from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.files import PathLike
from interactrank_jax.runs.best import KIND as SEAL
from interactrank_jax.runs.best import (
    abstract,
    check_shapes,
    literal_path,
    reading,
    restore_best,
    seal,
    write_calibration,
)
from interactrank_jax.serving.probabilities import Calibration
from interactrank_jax.training.state import TrainState

logger = logging.getLogger(__name__)

_WRITING = "the last whole checkpoint is sound, and the same command goes on from there"


@dataclasses.dataclass
class Progress:
    """What the loop knows beside the state.

    Attributes:
      best_metric: best validation value so far (higher is better), or None.
      best_step: its step.
      best_trained: the best validation value after step 0, or None. A start may know much, and
        training first lose some of it: early stopping compares trained models alone.
      evaluations_since_best: of the trained models, for early stopping.
      stopped: early stopping has ended the run.
      processes: that read the data, each its own part.
    """

    best_metric: float | None = None
    best_step: int = 0
    best_trained: float | None = None
    evaluations_since_best: int = 0
    stopped: bool = False
    processes: int = dataclasses.field(default_factory=jax.process_count)


class Checkpoints:
    """The checkpoints of one run directory; a context manager that waits for pending writes."""

    def __init__(self, workdir: PathLike):
        root = Path(workdir).absolute()
        self._root = root
        self._seals: list[_Seal] = []
        self._is_proven = False
        self._link = contextlib.ExitStack()
        with outputs.writing(root, _WRITING):
            root.mkdir(parents=True, exist_ok=True)
            self._open(self._link.enter_context(literal_path(root)))

    def _open(self, root: Path) -> None:
        def manager(name: str, kept: int) -> ocp.CheckpointManager:
            options = ocp.CheckpointManagerOptions(max_to_keep=kept, cleanup_tmp_directories=True)
            return ocp.CheckpointManager(root / name, options=options)

        self._runs, self._best = manager("checkpoints", 2), manager("best", 1)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Waits for pending writes.

        Raises:
          InputError: one failed for want of space or permission.
        """
        try:
            with outputs.writing(self._root, _WRITING), contextlib.ExitStack() as stack:
                stack.callback(self._best.close)
                stack.callback(self._runs.close)
        finally:
            for seal in self._seals:
                seal.finish()
            self._link.close()

    def latest_step(self) -> int | None:
        """Returns the newest whole checkpoint's step, or None."""
        return self._runs.latest_step()

    def save(self, state: TrainState, data: grain.DatasetIterator, progress: Progress) -> None:
        """Saves everything a resumed run needs, at `state.step`; the disk is written to meanwhile.

        Raises:
          InputError: this or an earlier one cannot be written for want of space or permission.
        """
        step = int(state.step)
        if step == self.latest_step():
            return
        with outputs.writing(self._root, _WRITING):
            self._runs.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=grain.checkpoint.CheckpointSave(data),
                    progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
                ),
            )
        self._seals = [seal for seal in self._seals if seal.pending]
        if jax.process_index() == 0:
            self._seals.append(_Seal(self._root / "checkpoints" / str(step)))

    def restore(
        self, template: TrainState, data: grain.DatasetIterator
    ) -> tuple[TrainState, Progress]:
        """Restores the newest checkpoint; sets the iterator's position.

        Raises:
          InputError: it was saved by another number of processes, whose places in the data mean
            nothing to these; it is of a model of other shapes; or it is damaged. An older one is
            not taken in its stead without being asked: a disk that loses bits is something to know
            of.
        """
        step = self.latest_step()
        path = self._root / "checkpoints" / str(step)
        with reading(path):
            progress = Progress(
                **self._runs.restore(
                    step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
                )["progress"]
            )
            if progress.processes != jax.process_count():
                raise InputError(
                    f"{self._root} was trained by {progress.processes} processes, here are "
                    f"{jax.process_count()}: each process goes on where it was in its own part of "
                    f"the data. Resume with as many (the number of devices may differ), or start "
                    f"another run with --config.train.warm_start={self._root}."
                )
            model = {"params": template.params, "tables": template.tables}
            check_shapes(path, self._runs.directory / str(step) / "state", model)
            restored = self._runs.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract(template)),
                    data=grain.checkpoint.CheckpointRestore(data),
                ),
            )
        return restored["state"], progress

    def check_best(self, progress: Progress) -> None:
        """Refuses to go on where the best model that the progress speaks of is gone.

        Raises:
          InputError: it is.
        """
        if progress.best_metric is not None and self._best.latest_step() is None:
            raise InputError(
                f"{self._root / 'best'} lacks the model of step {progress.best_step}, the best so "
                f"far: it was removed. Put it back, or train again in a new --workdir."
            )

    def save_best(self, state: TrainState, calibration: Calibration) -> None:
        """Saves the model alone as the best so far; the first one is read back, as a proof.

        A run that was killed before its last best model was calibrated comes here again, at the
        same step and with the same bits: the first process then writes what is absent.

        Args:
          state: whose model.
          calibration: of that model.

        Raises:
          InputError: it cannot be written, or what was written is not what comes back.
        """
        step = int(state.step)
        path, is_new = self._root / "best" / str(step), step != self._best.latest_step()
        model = {"params": state.params, "tables": state.tables}
        with outputs.writing(self._root, _WRITING):
            if is_new:
                self._best.save(step, args=ocp.args.StandardSave(model), force=True)
                # Before the checkpoint that speaks of it: a kill in between must not lose it.
                self._best.wait_until_finished()
            if jax.process_index() == 0 and not (path / SEAL.file).exists():
                write_calibration(path, calibration)
                seal(path)
        if is_new and not self._is_proven:
            self._prove(model)
            self._is_proven = True

    def _prove(self, model: dict[str, Any]) -> None:
        restored, _ = restore_best(self._root, _on_host(model))

        def is_same(saved: jax.Array, restored: jax.Array) -> bool:
            host = np.asarray(restored)
            shards = saved.addressable_shards
            return all(np.array_equal(shard.data, host[shard.index]) for shard in shards)

        if not all(jax.tree.leaves(jax.tree.map(is_same, model, restored))):
            raise InputError(
                f"{self._root / 'best'} gives back another model than was saved there: the file "
                f"system cannot be trusted with it. Name another --workdir."
            )


class _Seal:
    """Seals a checkpoint from a thread of its own, as soon as Orbax has renamed it."""

    def __init__(self, path: Path):
        self._path = path
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def pending(self) -> bool:
        """Whether it is not sealed yet."""
        return self._thread.is_alive()

    def finish(self) -> None:
        """Seals at once; to be called when nothing is being written any more."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._path.is_dir() and not self._closing.wait(0.05):
            pass
        # One that was removed meanwhile, or that a full disk has no room for, goes unsealed.
        with contextlib.suppress(OSError, InputError):
            if self._path.is_dir():
                seal(self._path)


def _on_host(tree: Any) -> Any:
    """Returns shapes and types that are restored to host memory, where there is a CPU backend."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = jax.local_devices()[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
