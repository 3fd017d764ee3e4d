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

from interactrank_jax.examples.checks import INTEGERS, check_below
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import artifact, contents, files, interrupts, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.lookup import embed_items, item_store

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
      InputError: no trained model, or examples of another encoder.
    """
    outputs.output_directory(out, workdir, examples_path)
    run, examples = Run.open(workdir), Examples(examples_path)
    if not run.model.is_decoupled:
        raise InputError(
            f"{workdir} holds a '{run.config.model.name}' model, a network over each pair: "
            f"there is nothing to compute ahead. Evaluate it, or index a model of two towers."
        )
    examples = run.check_examples(examples)
    model, step = run.restore_model()
    with interrupts.deferred():
        representation = encode_items(run, model, item_store(examples.items))
    with outputs.new_directory(out) as directory:
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
    """An index, opened for a model and for the examples whose requests it is to score.

    Attributes:
      items: the item representation, a pytree with leaves `[I, ...]`.
      ids: original item ids `[I]` (arrow column; null for padding).

    Raises:
      InputError: no index there, damaged, of another model, or not of these examples' items.
    """

    def __init__(self, path: files.PathLike, run: Run, model: dict[str, Any], examples: Examples):
        self.path = Path(path)
        file = self.path / "metadata.json"
        self.metadata = _read_metadata(file)
        expected = fingerprint(model)
        if self.metadata.get("model_checksum") != expected:
            raise InputError(
                f"{self.path} was built by another model (checksum "
                f"{self.metadata.get('model_checksum')}, {run.workdir} has {expected}). Its "
                f"vectors mean nothing to this one: run `interactrank index` again."
            )
        if self.metadata.get("examples_digest") != examples.metadata.digest:
            raise InputError(
                f"{self.path} was built from other examples (hash "
                f"{self.metadata.get('examples_digest')}, {examples.path} has "
                f"{examples.metadata.digest}), where a row may be another item: run `interactrank "
                f"index` with these."
            )
        rows = examples.num_items
        try:
            self.items = self._load_items(run, rows)
            ids = self._whole(IDS, self.metadata["ids_sha256"])
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file} is incomplete ({error!r}): build the index again.") from error
        self.ids = contents.read_table(ids, rows, "item_id")["item_id"]

    def _load_items(self, run: Run, rows: int) -> Any:
        """Returns the representation, held against what the model makes of so many items.

        Scoring gathers its rows on a device, where one that is not there would be the last.
        """
        shapes, structure = jax.tree.flatten(_item_shapes(run))
        entries = self.metadata["leaves"]
        if self.metadata["items"] != rows or len(entries) != len(shapes):
            raise InputError(
                f"{self.path} has {len(entries)} arrays of {self.metadata['items']} items, the "
                f"model makes {len(shapes)} and the examples have {rows} items, padding included: "
                f"build the index again."
            )
        leaves, limit = [], run.model.number_limit()
        for entry, shape in zip(entries, shapes, strict=True):
            file = self._whole(entry["file"], entry["sha256"])
            leaf = contents.load_array(file, (rows, *shape.shape[2:]), shape.dtype.kind)
            if leaf.dtype != shape.dtype:
                raise InputError(f"{file} holds {leaf.dtype}, the model makes {shape.dtype}.")
            if limit is not None and leaf.dtype.kind in INTEGERS:
                check_below(str(file), leaf, limit)
            leaves.append(np.array(leaf))
        return jax.tree.unflatten(structure, leaves)

    def _whole(self, name: str, checksum: str) -> Path:
        file = artifact.inside(self.path, name)
        if not file.is_file() or files.file_digest(file) != checksum:
            raise InputError(f"{file} is absent or damaged: build the index again.")
        return file


def _read_metadata(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise InputError(
            f"{file.parent} holds no index (no metadata.json). Expected the --out of "
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
    return files.read_sealed(file)


def _item_shapes(run: Run) -> Any:
    """Returns the shapes of one item's representation, `[1, 1, ...]`."""
    sample = zero_inputs(run.inputs, run.model.row_width)
    encode = functools.partial(run.model.apply, method="encode_item")
    return jax.eval_shape(encode, {"params": run.model_template["params"]}, sample["items"])
