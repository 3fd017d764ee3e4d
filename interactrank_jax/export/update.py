"""Adds items to a bundle, encoded from their raw features by its own item tower."""

import shutil
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.export.export import write_record
from interactrank_jax.io import files, interrupts, outputs
from interactrank_jax.log.values import as_values, concat_tables
from interactrank_jax.ranking.ranker import JaxGraphs
from interactrank_jax.ranking.requests import parquet_files
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.golden import FOLDER, rank_golden, save_features
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
    bundle = Bundle.open(bundle_path)
    graphs = JaxGraphs(bundle)
    encoder = ItemEncoder(bundle, graphs)
    listed = parquet_files(items, "--items")
    table = encoder.check(concat_tables([pq.ParquetFile(path).read() for path in listed]))
    progress("encode")
    store = encoder.store(table)
    leaves = encoder.encode_store(store)
    row = bundle.rows_of(as_values(table["item_id"]).cast(bundle.items.ids.type))
    is_new = row == 0
    row[is_new] = bundle["items"] + np.arange(is_new.sum())
    total = bundle["items"] + int(is_new.sum())
    with interrupts.deferred(), outputs.new_directory(out) as directory:
        progress("copy")
        shutil.copytree(bundle.path, directory, dirs_exist_ok=True)
        of_index = {f"index/{name.partition('/')[2]}": leaf for name, leaf in leaves.items()}
        of_store = {f"items/{name}": values for name, values in store.items()}
        for name, values in {**of_index, **of_store}.items():
            path = directory / f"{name}.npy"
            old = np.load(bundle.path / f"{name}.npy")
            whole = np.zeros((total, *old.shape[1:]), old.dtype)
            whole[: len(old)] = old
            whole[row] = values
            path.unlink()
            files.save_array(path, whole)
        if bundle["has_fresh"]:
            fresh = np.load(bundle.path / "items" / "fresh.npy")
            (directory / "items" / "fresh.npy").unlink()
            flags = np.append(fresh, np.zeros(total - len(fresh), fresh.dtype))
            files.save_array(directory / "items" / "fresh.npy", flags)
        added = as_values(table["item_id"]).cast(bundle.items.ids.type).filter(pa.array(is_new))
        shutil.rmtree(directory / "items" / "ids")
        KeyIndex.build(pa.concat_arrays([bundle.items.ids, added])).save(
            directory / "items" / "ids"
        )
        record = {**bundle.artifact.record, "items": total}
        write_record(directory, record)
        progress("golden requests")
        updated = Bundle.open(directory)
        ranked = rank_golden(Ranking(updated, JaxGraphs(updated)))
        save_features(ranked, directory / FOLDER)
        pq.write_table(ranked.table, directory / FOLDER / "scores.parquet")
        write_record(directory, record)
    return {"added": int(is_new.sum()), "replaced": int((~is_new).sum()), "items": total - 1}
