"""Checkpoints: the whole run (to resume), and the best model so far (to index and score).

    RUN/checkpoints/STEP    train state, Grain iterator, progress   (the two newest are kept)
    RUN/best/STEP           parameters and tables of the best validation so far

Orbax writes beside and renames, so a checkpoint is whole or absent. Once it is there, the SHA-256
of each of its files is written into it, STEP/checksums.json, and held against them before they are
read. A checkpoint without that file is taken: its process was killed between the two, and it was
whole by then.
"""

import contextlib
import dataclasses
import hashlib
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp

from interactrank_jax.io import artifact, files, interrupts, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.files import PathLike
from interactrank_jax.train_state import TrainState

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
_PLAIN = re.compile(r"[\w/.,@=+-]*", re.ASCII)
_WRITING = "the last whole checkpoint is sound, and the same command goes on from there"


@dataclasses.dataclass
class Progress:
    """What the loop knows beside the state.

    Attributes:
      best_metric: best validation value so far (higher is better), or None.
      best_step: its step.
      evaluations_since_best: for early stopping.
      stopped: early stopping has ended the run.
      processes: that read the data, each its own part.
    """

    best_metric: float | None = None
    best_step: int = 0
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
        with _reading(path):
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
            _check_shapes(path, self._runs.directory / str(step) / "state", model)
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
        if progress.best_step and self._best.latest_step() is None:
            raise InputError(
                f"{self._root / 'best'} lacks the model of step {progress.best_step}, the best so "
                f"far: it was removed. Put it back, or train again in a new --workdir."
            )

    def save_best(self, state: TrainState) -> None:
        """Saves the model alone as the best so far; the first one is read back, as a proof.

        Raises:
          InputError: it cannot be written, or what was written is not what comes back.
        """
        step = int(state.step)
        if step != self._best.latest_step():
            model = {"params": state.params, "tables": state.tables}
            with outputs.writing(self._root, _WRITING):
                self._best.save(step, args=ocp.args.StandardSave(model), force=True)
                # Before the checkpoint that speaks of it: a kill in between must not lose it.
                self._best.wait_until_finished()
                if jax.process_index() == 0:
                    seal(self._root / "best" / str(step))
            if not self._is_proven:
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


@contextlib.contextmanager
def literal_path(path: Path) -> Iterator[Path]:
    """Yields a path to the same directory in which no character means anything but itself.

    Orbax looks for files by patterns made of the whole path, so that of `run[1]` it finds nothing.
    Such a directory is reached through a link in a scratch directory.
    """
    if _PLAIN.fullmatch(str(path)):
        yield path
        return
    with outputs.scratch_directory() as scratch:
        link = scratch / "run"
        link.symlink_to(path, target_is_directory=True)
        yield link


def restore_best(workdir: PathLike, template: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Returns a run's best model, {'params', 'tables'}, and its step; writes nothing.

    Raises:
      InputError: there is none yet, it is damaged, or it is of another model than the template.
    """
    directory = Path(workdir).absolute() / "best"
    # A checkpoint being written has another name until it is whole.
    paths = directory.iterdir() if directory.is_dir() else ()
    steps = [int(path.name) for path in paths if path.name.isdigit()]
    if not steps:
        raise InputError(f"{directory} holds no model yet. Train first: `interactrank train`.")
    path = directory / str(max(steps))
    with (
        interrupts.deferred(),  # Orbax, interrupted, prints the errors of its threads
        _reading(path),
        literal_path(path) as literal,
        ocp.StandardCheckpointer() as checkpointer,
    ):
        _check_shapes(path, literal / "default", template)
        return checkpointer.restore(literal / "default", abstract(template)), max(steps)


def _check_shapes(path: Path, item: Path, template: dict[str, Any]) -> None:
    """Refuses parameters and tables of other shapes, of which Orbax would say less and later.

    Args:
      path: the checkpoint, for the message.
      item: where its parameters are, a path as `literal_path` gives it.
      template: shapes of {'params', 'tables'}.
    """

    def shapes(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(key): tuple(leaf.shape) for key, leaf in leaves}

    with ocp.StandardCheckpointer() as checkpointer:
        metadata: Any = checkpointer.metadata(item)
    tree = getattr(metadata, "item_metadata", metadata).tree
    saved_shapes, expected = shapes({key: tree.get(key) for key in template}), shapes(template)
    for name in sorted(saved_shapes | expected):
        if saved_shapes.get(name) != expected.get(name):
            raise InputError(
                f"{path} holds {name} of shape {saved_shapes.get(name)}, the model of this run has "
                f"shape {expected.get(name)}: the class that its config names is another than in "
                f"training, or one of the two was edited."
            )


def seal(path: Path) -> None:
    """Writes the checksums of a finished checkpoint into it."""
    files.write_sealed(path / CHECKSUMS, {"files": files.file_digests(path)})


def verify(path: Path) -> None:
    """Holds a checkpoint against its checksums, if they were written.

    Raises:
      InputError: a file is absent or damaged; the message names it, and what can be done.
    """
    if not (path / CHECKSUMS).exists():
        logger.warning("%s has no checksums: its process was killed early. Taken unverified.", path)
        return
    others = [other.name for other in path.parent.iterdir() if other.name.isdigit()]
    older = max((int(name) for name in others if int(name) < int(path.name)), default=None)
    if older is None:
        remedy = "there is no older one: train again in a new --workdir"
    else:
        remedy = f"remove {path} to go on from step {older}"
    try:
        expected = dict(files.read_sealed(path / CHECKSUMS)["files"])
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path / CHECKSUMS} is damaged: {remedy}.") from error
    found = files.file_digests(path)
    for name, checksum in expected.items():
        if found.get(name) != checksum:
            raise InputError(f"{artifact.inside(path, name)} is absent or damaged: {remedy}.")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Verifies a checkpoint; names it where the block cannot read it all the same."""
    verify(path)
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read ({error}): it is damaged.") from error


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


def abstract(tree: Any) -> Any:
    """Returns shapes and types, each where the leaf lies, or else on this process's first device.

    So what was saved by any number of devices is restored to those of `tree`.
    """
    alone = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            np.shape(leaf), leaf.dtype, sharding=getattr(leaf, "sharding", None) or alone
        ),
        tree,
    )


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


def fingerprint(model: dict[str, Any]) -> str:
    """Returns a hash of every parameter and table: an index names the model it came from."""
    checksum = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        checksum.update(jax.tree_util.keystr(path).encode())
        checksum.update(np.ascontiguousarray(leaf).data)
    return checksum.hexdigest()[:16]
