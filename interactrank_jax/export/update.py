"""Adds items to a bundle, encoded from their raw features by its own item tower."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.export.export import write_record
from interactrank_jax.export.vectors import write_vectors
from interactrank_jax.io import files, interrupts, outputs
from interactrank_jax.log.values import concat_tables
from interactrank_jax.ranking.ranker import JaxGraphs
from interactrank_jax.ranking.requests import parquet_files
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.golden import save_golden
from interactrank_jax.serving.items import ItemEncoder
from interactrank_jax.serving.keys import KeyIndex
from interactrank_jax.serving.ranking import Ranking


def update_items(
    bundle_path: files.PathLike,
    items: files.PathLike,
    out: files.PathLike,
    progress: Callable[[str], None] = lambda phase: None,
) -> dict[str, int]:
    """Writes a bundle that has further items; those that it has already are encoded anew.

    Nothing is known of the history of new items: their cross features are 0 until the next export.

    Args:
      bundle_path: what `export` wrote.
      items: a Parquet file or a directory of some: item_id and the item features of the log.
      out: a new directory.
      progress: called with the name of each phase as it begins.

    Returns:
      How many items were added, and how many replaced.

    Raises:
      InputError: items that do not fit the bundle.
    """
    outputs.output_directory(out, bundle_path, items)
    listed = parquet_files(items, "--items")
    bundle = Bundle.open(bundle_path)
    with interrupts.deferred(), outputs.new_directory(out) as directory:
        encoder = ItemEncoder(bundle, JaxGraphs(bundle))
        table = concat_tables([pq.ParquetFile(path).read() for path in listed])
        table = encoder.raw.check(table, f"items ({items})")
        progress("encode")
        store = encoder.raw.store(table)
        leaves = encoder.encode_store(store)
        row = bundle.rows_of(encoder.raw.ids(table))
        is_new = row == 0
        row[is_new] = bundle["items"] + np.arange(is_new.sum())
        total = bundle["items"] + int(is_new.sum())
        progress("copy")
        shutil.copytree(bundle.path, directory, dirs_exist_ok=True)
        interrupts.check()
        ids = pa.concat_arrays([bundle.items.ids, encoder.raw.ids(table).filter(pa.array(is_new))])
        arrays = {f"items/{name}": values for name, values in store.items()}
        arrays |= {name.replace("item/", "index/"): leaf for name, leaf in leaves.items()}
        _write_items(bundle, directory, ids, row, arrays)
        progress("golden requests")
        record = {**bundle.artifact.record, "items": total}
        write_record(directory, record)
        updated = Bundle.open(directory)
        save_golden(Ranking(updated, JaxGraphs(updated)))
        write_record(directory, record)
    return {"added": int(is_new.sum()), "replaced": int((~is_new).sum()), "items": total - 1}


def _write_items(
    bundle: Bundle, directory: Path, ids: pa.Array, row: np.ndarray, arrays: dict[str, np.ndarray]
) -> None:
    """Writes the items of a bundle anew into a copy of it: `ids`, those of `row` being `arrays`."""
    shutil.rmtree(directory / "items" / "ids")
    KeyIndex.build(ids).save(directory / "items" / "ids")
    total = 1 + len(ids)
    for name, values in arrays.items():
        _extend(bundle.path / f"{name}.npy", directory / f"{name}.npy", total, row, values)
    if bundle["has_fresh"]:  # whose history is not known, its age does not matter
        name, none = "cross/fresh.npy", np.zeros(0, np.int8)
        _extend(bundle.path / name, directory / name, total, row[:0], none)
    if bundle["vectors"]:
        shutil.rmtree(directory / "vectors")
        vectors = np.load(directory / "index" / "0.npy", mmap_mode="r")[1:]
        write_vectors(ids, vectors, bundle["vectors"], directory / "vectors")


def _extend(source: Path, file: Path, total: int, row: np.ndarray, values: np.ndarray) -> None:
    """Writes an array of items anew: `total` rows, those of `row` being `values`."""
    old = np.load(source, mmap_mode="r")
    whole = np.zeros((total, *old.shape[1:]), old.dtype)
    whole[: len(old)] = old
    whole[row] = values
    file.unlink()
    files.save_array(file, whole)
