"""Changes the items of a bundle: some are encoded anew or added, some deleted, no other is touched.

The result is a bundle of its own, which shares all files that are the same by hard links; what is
other lies in its delta, see `serving/delta.py`. So an update costs what the changed items cost.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.examples.format import PADDING
from interactrank_jax.export.export import write_record
from interactrank_jax.export.vectors import CHANGES, write_changes
from interactrank_jax.io import files, interrupts, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.values import concat_tables
from interactrank_jax.ranking.ranker import JaxGraphs
from interactrank_jax.ranking.requests import parquet_files
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.delta import FOLDER, Delta
from interactrank_jax.serving.items import ItemEncoder
from interactrank_jax.serving.keys import KeyIndex
from interactrank_jax.serving.tables import as_table, check_columns, column, refuse_nulls


def update_items(
    bundle_path: files.PathLike,
    items: files.PathLike,
    out: files.PathLike,
    *,
    delete: files.PathLike = "",
    link: files.PathLike = "",
    progress: Callable[[str], None] = lambda phase: None,
) -> dict[str, int]:
    """Writes a bundle with other items; those that it has already are encoded anew.

    Nothing is known of the history of new items: their cross features are 0 until the next export.
    Deleted items are never ranked, and unknown as candidates and in events; who has engaged with
    one keeps it in their history. A deleted item that comes again has its row and history back.

    Args:
      bundle_path: what `export` or an update wrote.
      items: a Parquet file or a directory of some: item_id and the item features of the log; ''.
      out: a new directory, which appears whole.
      delete: the same of items to delete: item_id; ''.
      link: names OUT once that is whole, in one step: who opens a bundle by it opens the one before
        or the new one.
      progress: called with the name of each phase as it begins.

    Returns:
      How many items were added, replaced and deleted, how many to delete were unknown, and how many
      there are.

    Raises:
      InputError: items that do not fit the bundle, or are to be written and deleted.
    """
    outputs.output_directory(out, bundle_path, *(path for path in (items, delete) if path))
    outputs.check_link(link, out)
    if not items and not delete:
        raise InputError("nothing to do: name the changed and new --items, or those to --delete.")
    bundle = Bundle.open(bundle_path)
    with interrupts.deferred(), outputs.new_directory(out) as directory:
        progress("encode")
        ids, arrays = _encoded(bundle, items)
        deleted_ids = _ids_to_delete(bundle, delete)
        row = bundle.items.find(ids, with_deleted=True)
        deleted = bundle.rows_of(deleted_ids)
        _refuse_both(deleted_ids, np.isin(deleted, row[row != PADDING]), delete)
        is_there = (row != PADDING) & ~bundle.items.is_deleted(row)
        to_delete = np.unique(deleted[deleted != PADDING])
        progress("write")
        delta, arrays = _merged(bundle, ids, row, arrays, to_delete)
        known = link_files(bundle, directory, _is_shared)
        _write_delta(bundle, directory, delta, arrays)
        total = 1 + len(bundle.base) + len(delta.added)
        record = {**bundle.artifact.record, "items": total, "has_delta": True}
        write_record(directory, record, known)
    if link:
        outputs.replace_link(link, out)
    return {
        "added": int((~is_there).sum()),
        "replaced": int(is_there.sum()),
        "deleted": len(to_delete),
        "unknown": int((deleted == PADDING).sum()),
        "items": total - 1 - len(delta.deleted),
    }


def _refuse_both(deleted: pa.Array, is_written: np.ndarray, delete: files.PathLike) -> None:
    if is_written.any():
        raise InputError(
            f"--delete={delete}: {int(is_written.sum()):,} of its items are in --items too, for "
            f"example {deleted[int(np.argmax(is_written))].as_py()!r}. Name each in one of them."
        )


def _is_shared(name: str) -> bool:
    """Returns whether a file is the same after an update."""
    return not name.startswith(f"{FOLDER}/") and name not in CHANGES


def link_files(bundle: Bundle, directory: Path, is_shared: Callable[[str], bool]) -> dict[str, str]:
    """Links files of a bundle, by their names, into a new directory; returns their digests."""
    known = {}
    for name, digest in bundle.artifact.digests.items():
        interrupts.check()
        if is_shared(name):
            files.link(bundle.path / name, directory / name)
            known[name] = digest
    return known


def _encoded(bundle: Bundle, items: files.PathLike) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """Returns ids of the items in Parquet files, and their arrays by the names of files."""
    if not items:
        return pa.array([], bundle.items.type), {}
    encoder = ItemEncoder(bundle, JaxGraphs(bundle))
    table = concat_tables([pq.ParquetFile(path).read() for path in parquet_files(items, "--items")])
    table = encoder.raw.check(table, f"items ({items})")
    store = encoder.raw.store(table)
    arrays = {f"items/{name}": values for name, values in store.items()}
    leaves = encoder.encode_store(store)
    arrays |= {name.replace("item/", "index/"): leaf for name, leaf in leaves.items()}
    return encoder.raw.ids(table), arrays


def _ids_to_delete(bundle: Bundle, delete: files.PathLike) -> pa.Array:
    if not delete:
        return pa.array([], bundle.items.type)
    what, name = f"items to delete ({delete})", "item_id"
    parts = [pq.ParquetFile(path).read() for path in parquet_files(delete, "--delete")]
    table = as_table(concat_tables(parts), what)
    check_columns(table, {name: "id"}, {name: bundle.items.type}, what)
    refuse_nulls(table, (name,), what, name)
    return column(table, name, bundle.items.type)


def _merged(
    bundle: Bundle,
    ids: pa.Array,
    row: np.ndarray,
    arrays: dict[str, np.ndarray],
    deleted: np.ndarray,
) -> tuple[Delta, dict[str, np.ndarray]]:
    """Returns the bundle's delta with further changes, and its arrays by the names of files.

    Args:
      bundle: the bundle.
      ids: `[N]` of items.
      row: `[N]` theirs; 0 for new ones.
      arrays: `[N, ...]` their values.
      deleted: `[T]` rows.
    """
    old, is_new = bundle.delta, row == 0
    row = row.copy()
    row[is_new] = bundle["items"] + np.arange(is_new.sum())
    added = pa.concat_arrays([old.added.ids, ids.filter(pa.array(is_new))])
    rows = np.union1d(old.row, row)
    remaining = np.setdiff1d(np.union1d(old.deleted, deleted), row)
    merged = {}
    for path in sorted((*bundle.path.glob("items/*.npy"), *bundle.path.glob("index/*.npy"))):
        name = path.relative_to(bundle.path).with_suffix("").as_posix()
        base = np.load(path, mmap_mode="r", allow_pickle=False)
        merged[name] = np.zeros((len(rows), *base.shape[1:]), base.dtype)
        if len(old.row):
            # Whole, or its digest would be told of damaged values from now on.
            path = bundle.artifact.path(f"{FOLDER}/{name}.npy")
            values = np.load(path, allow_pickle=False)
            merged[name][np.searchsorted(rows, old.row)] = values
        if len(row):
            merged[name][np.searchsorted(rows, row)] = arrays[name]
    return Delta(rows, remaining, KeyIndex.build(added)), merged


def _write_delta(
    bundle: Bundle, directory: Path, delta: Delta, arrays: dict[str, np.ndarray]
) -> None:
    delta.save(directory / FOLDER)
    for name, values in arrays.items():
        path = directory / FOLDER / f"{name}.npy"
        path.parent.mkdir(exist_ok=True)
        files.save_array(path, values)
    if bundle["vectors"]:
        ids = pa.chunked_array([bundle.base.ids, delta.added.ids])
        is_kept = ~np.isin(delta.row, delta.deleted)
        changed = ids.take(pa.array(delta.row[is_kept] - 1)).combine_chunks()
        deleted = ids.take(pa.array(delta.deleted - 1)).combine_chunks()
        write_changes(changed, arrays["index/0"][is_kept], deleted, directory / "vectors")
