"""The item index: every item's representation, computed once, with its id and its model's checksum.

INDEX/metadata.json          model checksum, step, hash of the examples, shapes, and checksums of
                             every file, itself included
INDEX/representation-N.npy   leaf N of the item representation, `[I, ...]`, row = store row
INDEX/ids.parquet            original item id of each row (row 0 is padding: null)
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax import files, interrupts
from interactrank_jax.checkpoint import fingerprint
from interactrank_jax.data.examples import Examples
from interactrank_jax.errors import InputError
from interactrank_jax.models.embeddings import embed_items, item_store
from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.runs import Run

FORMAT, FORMAT_VERSION = "interactrank-index", 2
IDS = "ids.parquet"


@functools.lru_cache(maxsize=8)
def _item_encoder(run: Run) -> Callable[..., Any]:
    """Compiles once a run, for hard negatives encode the corpus again and again."""

    @jax.jit
    def encode(model, store, rows):
        items = embed_items(model["tables"], rows, store, run.inputs)
        return run.model.apply({"params": model["params"]}, items, method="encode_item")

    return encode


def encode_items(run: Run, model: dict[str, Any], store: dict[str, np.ndarray], tile: int = 4096):
    """Returns the item representation of every store row: a pytree of numpy `[I, ...]`."""
    encode = _item_encoder(run)
    count = len(store["id"])
    tile = min(tile, count)
    store = jax.device_put(store)
    parts = []
    for start in range(0, count, tile):
        interrupts.check()
        # The last tile starts earlier rather than being shorter: one shape, one compilation.
        rows = np.arange(min(start, count - tile), min(start + tile, count), dtype=np.int32)
        part = jax.device_get(encode(model, store, rows))
        fresh = start - rows[0]
        parts.append(jax.tree.map(lambda leaf, fresh=fresh: leaf[fresh:], part))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def build_index(workdir: files.PathLike, examples_path: files.PathLike, out: files.PathLike):
    """Encodes every item of the store with a run's best model and writes an index.

    Returns:
      Its metadata.

    Raises:
      InputError: no trained model, or examples it was not trained on.
    """
    files.output_directory(out)
    run, examples = Run.open(workdir), Examples(examples_path)
    if not run.model.is_decoupled:
        raise InputError(
            f"{workdir} holds a '{run.config.model.name}' model, a network over each pair: "
            f"there is nothing to compute ahead. Evaluate it, or index a model of two towers."
        )
    run.check_examples(examples)
    model, step = run.restore_model()
    with interrupts.deferred():
        representation = encode_items(run, model, item_store(examples.items))
    with files.new_directory(out) as directory:
        leaves = []
        for number, leaf in enumerate(jax.tree.leaves(representation)):
            name = f"representation-{number}.npy"
            files.save_array(directory / name, leaf)
            leaves.append(
                {
                    "file": name,
                    "shape": list(leaf.shape),
                    "dtype": str(leaf.dtype),
                    "sha256": files.file_digest(directory / name),
                }
            )
        ids = pa.array(examples.item_ids.tolist())
        pq.write_table(pa.table({"item_id": ids}), directory / IDS)
        metadata = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": run.config.model.name,
            "model_checksum": fingerprint(model),
            "step": step,
            "examples_digest": examples.metadata.digest,
            "protocol": examples.metadata.protocol,
            "items": examples.num_items,
            "leaves": leaves,
            "ids_sha256": files.file_digest(directory / IDS),
        }
        files.write_sealed(directory / "metadata.json", metadata)
    return metadata


class Index:
    """An index, opened for a model.

    Attributes:
      items: the item representation, a pytree with leaves `[I, ...]`.
      ids: original item ids `[I]` (arrow column; null for padding).

    Raises:
      InputError: no index there, damaged, or of another model.
    """

    def __init__(self, path: files.PathLike, run: Run, model: dict[str, Any]):
        self.path = Path(path)
        file = self.path / "metadata.json"
        if not file.exists():
            raise InputError(
                f"{self.path} holds no index (no metadata.json). Expected the --out of "
                f"`interactrank index`."
            )
        metadata = files.read_json(file)
        found = (None, None)
        if isinstance(metadata, dict):
            found = (metadata.get("format"), metadata.get("format_version"))
        if found != (FORMAT, FORMAT_VERSION):
            raise InputError(
                f"{file} is of {found}, expected {(FORMAT, FORMAT_VERSION)}: give the --out of "
                f"`interactrank index` of this release."
            )
        self.metadata = files.read_sealed(file)
        expected = fingerprint(model)
        if self.metadata["model_checksum"] != expected:
            raise InputError(
                f"{self.path} was built by another model (checksum "
                f"{self.metadata['model_checksum']}, {run.workdir} has {expected}). Its vectors "
                f"mean nothing to this one: run `interactrank index` again."
            )
        leaves = []
        for entry in self.metadata["leaves"]:
            leaf_file = self._whole(entry["file"], entry["sha256"])
            leaves.append(np.load(leaf_file, allow_pickle=False))
        self.items = jax.tree.unflatten(_structure(run), leaves)
        self.ids = pq.read_table(self._whole(IDS, self.metadata["ids_sha256"]))["item_id"]

    def _whole(self, name: str, checksum: str) -> Path:
        file = self.path / name
        if not file.is_file() or files.file_digest(file) != checksum:
            raise InputError(f"{file} is absent or damaged: build the index again.")
        return file


def _structure(run: Run):
    sample = zero_inputs(run.inputs, run.model.row_width)
    encode = functools.partial(run.model.apply, method="encode_item")
    shape = jax.eval_shape(encode, {"params": run.model_template["params"]}, sample["items"])
    return jax.tree.structure(shape)
