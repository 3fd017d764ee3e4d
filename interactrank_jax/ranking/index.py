"""The item index: every item's representation, computed once, with its id and its model's checksum.

INDEX/index.json              model and its checksum, step, hash of the examples, number of items;
                              the digest of every file
INDEX/representation/N.npy    leaf N of the item representation, `[I, ...]`, row = store row
INDEX/ids.parquet             original item id of each row (row 0 is padding: null)
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq

from interactrank_jax.examples.checks import INTEGERS, check_below
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import artifact, contents, files, interrupts, outputs
from interactrank_jax.io.artifact import Artifact, Kind
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.files import ArrayWriter
from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.lookup import embed_items, item_store

KIND = Kind("index", "index", "index.json", version=3)
IDS, REPRESENTATION = "ids.parquet", "representation"
_RECORD = ("model", "model_checksum", "step", "examples_digest", "protocol", "items")


@functools.lru_cache(maxsize=8)
def _item_encoder(run: Run) -> Callable[..., Any]:
    """Compiles once a run, for hard negatives encode the corpus again and again."""

    @jax.jit
    def encode(model, store, rows):
        items = embed_items(model["tables"], rows, store, run.inputs)
        return run.model.apply({"params": model["params"]}, items, method="encode_item")

    return encode


def item_tiles(
    run: Run, model: dict[str, Any], store: Mapping[str, np.ndarray], tile: int = 4096
) -> Iterator[Any]:
    """Yields the representation of the store's rows, some after the other: pytrees `[n, ...]`.

    Memory holds a tile, however many items there are, of which the store may be mapped from disk.
    """
    encode = _item_encoder(run)
    model = jax.device_put(model)
    count = len(store["id"])
    tile = min(tile, count)
    for start in range(0, count, tile):
        interrupts.check()
        # The last tile starts earlier rather than being shorter: one shape, one compilation.
        first = min(start, count - tile)
        part = {name: values[first : first + tile] for name, values in store.items()}
        encoded = jax.device_get(encode(model, part, np.arange(tile, dtype=np.int32)))
        for values in store.values():
            contents.release(values)
        yield jax.tree.map(lambda leaf, fresh=start - first: leaf[fresh:], encoded)


def encode_items(run: Run, model: dict[str, Any], store: Mapping[str, np.ndarray]) -> Any:
    """Returns the item representation of every store row: a pytree of numpy `[I, ...]`."""
    count, start = len(store["id"]), 0
    leaves: list[np.ndarray] = []
    for part in item_tiles(run, model, store):
        parts, structure = jax.tree.flatten(part)
        leaves = leaves or [np.empty((count, *one.shape[1:]), one.dtype) for one in parts]
        end = start + len(parts[0])
        for leaf, one in zip(leaves, parts, strict=True):
            leaf[start:end] = one
        start = end
    return jax.tree.unflatten(structure, leaves)


def write_representation(
    run: Run,
    model: dict[str, Any],
    store: Mapping[str, np.ndarray],
    directory: Path,
    dtypes: Sequence[Any] | None = None,
) -> None:
    """Encodes every store row and writes leaf N of the representation as DIRECTORY/N.npy.

    Args:
      run, model: the model.
      store: the item store, `[I, ...]` each.
      directory: new.
      dtypes: to write each leaf as, unless as it comes.
    """
    directory.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        writers: list[ArrayWriter] = []
        for part in item_tiles(run, model, store):
            leaves = jax.tree.leaves(part)
            if not writers:
                for number, leaf in enumerate(leaves):
                    shape = (len(store["id"]), *leaf.shape[1:])
                    kind = leaf.dtype if dtypes is None else dtypes[number]
                    file = directory / f"{number}.npy"
                    writers.append(stack.enter_context(ArrayWriter(file, shape, kind)))
            for writer, leaf in zip(writers, leaves, strict=True):
                writer.write(leaf)


def build_index(workdir: files.PathLike, examples_path: files.PathLike, out: files.PathLike):
    """Encodes every item of the store with a run's best model and writes an index.

    Returns:
      What its manifest says of it.

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
    record = {
        "model": run.config.model.name,
        "model_checksum": fingerprint(model),
        "step": step,
        "examples_digest": examples.metadata.digest,
        "protocol": examples.metadata.protocol_in_words,
        "items": examples.num_items,
    }
    with interrupts.deferred(), outputs.new_directory(out) as directory:
        store = item_store(examples.items)
        write_representation(run, model, store, directory / REPRESENTATION)
        ids = contents.read_table(examples.file("items/ids.parquet"), examples.num_items, "item_id")
        pq.write_table(ids.select(["item_id"]), directory / IDS)
        artifact.write(KIND, directory, record)
    return record


class Index:
    """An index, opened for a model and for the examples whose requests it is to score.

    Attributes:
      metadata: what its manifest says of it.
      items: the item representation, a pytree with leaves `[I, ...]`.
      ids: original item ids `[I]` (arrow column; null for padding).

    Raises:
      InputError: no index there, damaged, of another model, or not of these examples' items.
    """

    def __init__(self, path: files.PathLike, run: Run, model: dict[str, Any], examples: Examples):
        opened = artifact.open_artifact(KIND, path, _RECORD)
        self.path, self.metadata = opened.root, opened.record
        expected = fingerprint(model)
        if self.metadata["model_checksum"] != expected:
            raise InputError(
                f"{self.path} was built by another model (checksum "
                f"{self.metadata['model_checksum']}, {run.workdir} has {expected}). Its "
                f"vectors mean nothing to this one: run `interactrank index` again."
            )
        if self.metadata["examples_digest"] != examples.metadata.digest:
            raise InputError(
                f"{self.path} was built from other examples (hash "
                f"{self.metadata['examples_digest']}, {examples.path} has "
                f"{examples.metadata.digest}), where a row may be another item: run `interactrank "
                f"index` with these."
            )
        rows = examples.num_items
        self.items = _load_items(opened, run, rows)
        self.ids = contents.read_table(opened.path(IDS), rows, "item_id")["item_id"]


def _load_items(opened: Artifact, run: Run, rows: int) -> Any:
    """Returns the representation, checked against what the model makes of so many items.

    Scoring gathers its rows on a device, where one that is not there would be the last.
    """
    shapes, structure = jax.tree.flatten(_item_shapes(run))
    names = {_leaf(number) for number in range(len(shapes))}
    if opened.record["items"] != rows or set(opened.names(REPRESENTATION)) != names:
        raise InputError(
            f"{opened.root} has {len(opened.names(REPRESENTATION))} arrays of "
            f"{opened.record['items']} items, the model makes {len(shapes)} and the examples have "
            f"{rows} items, padding included: build the index again."
        )
    leaves, limit = [], run.model.number_limit()
    for number, shape in enumerate(shapes):
        file = opened.path(_leaf(number))
        leaf = contents.load_array(file, (rows, *shape.shape[2:]), shape.dtype.kind)
        if leaf.dtype != shape.dtype:
            raise InputError(f"{file} holds {leaf.dtype}, the model makes {shape.dtype}.")
        if limit is not None and leaf.dtype.kind in INTEGERS:
            check_below(str(file), leaf, limit)
        leaves.append(leaf)
    return jax.tree.unflatten(structure, leaves)


def _leaf(number: int) -> str:
    """Returns the name of an array of the representation, in its order."""
    return f"{REPRESENTATION}/{number}.npy"


def _item_shapes(run: Run) -> Any:
    """Returns the shapes of one item's representation, `[1, 1, ...]`."""
    sample = zero_inputs(run.inputs, run.model.row_width)
    encode = functools.partial(run.model.apply, method="encode_item")
    return jax.eval_shape(encode, {"params": run.model_template["params"]}, sample["items"])
