"""The best model of a run as it lies on disk, RUN/best/STEP: parameters, tables, calibration.

STEP/calibration.json is what turns the model's logits into probabilities. It is fitted on the
validation that made the model the best, and written before the checkpoint is sealed. Where it is
absent (the process was killed in between) probabilities have the prior correction alone.

Checkpoints of both kinds (see `training/checkpoint.py`) are sealed and verified here: the SHA-256
of each file is written into the checkpoint, STEP/checksums.json, and compared before it is read. A
checkpoint without that file is taken: its process was killed between the two, and it was whole.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from interactrank_jax.io import artifact, interrupts, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.files import PathLike
from interactrank_jax.serving.probabilities import Calibration

logger = logging.getLogger(__name__)

KIND = artifact.Kind("checksums", "train", "checksums.json", version=1, flag="workdir")
CALIBRATION = artifact.Kind("calibration", "train", "calibration.json", version=1, flag="workdir")

_PLAIN = re.compile(r"[\w/.,@=+-]*", re.ASCII)


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
        reading(path),
        literal_path(path) as literal,
        ocp.StandardCheckpointer() as checkpointer,
    ):
        check_shapes(path, literal / "default", template)
        return checkpointer.restore(literal / "default", abstract(template)), max(steps)


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Writes the calibration of a best model into its checkpoint, which is to be sealed after."""
    artifact.write(CALIBRATION, path, {"calibration": calibration.to_json()}, folders=())


def read_calibration(workdir: PathLike, step: int, prior: Calibration) -> Calibration:
    """Returns the calibration of a run's best model.

    Args:
      workdir: the run.
      step: of its best model, as `restore_best` gave it.
      prior: what to return, with a warning, where nothing was fitted.

    Raises:
      InputError: it is damaged or of other heads, or another model has become the best since.
    """
    path = Path(workdir).absolute() / "best" / str(step)
    if not path.is_dir():
        raise InputError(f"{path} is gone: a training has found a better model since. Try again.")
    if not (path / CALIBRATION.file).exists():
        logger.warning(
            "%s has no %s: probabilities are corrected for weights and sampling alone",
            *(path, CALIBRATION.file),
        )
        return prior
    opened = artifact.open_artifact(CALIBRATION, path, ("calibration",))
    try:
        return Calibration.from_json(opened.record["calibration"], prior.heads)
    except InputError as error:
        raise InputError(f"{opened.file}: {error}") from error


def check_shapes(path: Path, item: Path, template: dict[str, Any]) -> None:
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
    artifact.write(KIND, path, {})


def verify(path: Path) -> None:
    """Compares a checkpoint with its checksums, if they were written.

    Raises:
      InputError: a file is absent or damaged; the message names it, and what can be done.
    """
    if not (path / KIND.file).exists():
        logger.warning("%s has no checksums: its process was killed early. Taken unverified.", path)
        return
    steps = [int(other.name) for other in path.parent.iterdir() if other.name.isdigit()]
    older = max((step for step in steps if step < int(path.name)), default=None)
    remedy = "there is no older one: train again in a new --workdir"
    if older is not None:
        remedy = f"remove {path} to go on from step {older}"
    artifact.open_artifact(KIND, path, remedy=remedy).check_all()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Verifies a checkpoint; names it where the block cannot read it all the same."""
    verify(path)
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read ({error}): it is damaged.") from error


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


def fingerprint(model: dict[str, Any]) -> str:
    """Returns a hash of every parameter and table: an index names the model it came from."""
    checksum = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        checksum.update(jax.tree_util.keystr(path).encode())
        checksum.update(np.ascontiguousarray(leaf).data)
    return checksum.hexdigest()[:16]
