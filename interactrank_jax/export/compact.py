"""Writes the arrays of a bundle anew, with what its delta changes: the delta is empty then."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.export.export import write_record
from interactrank_jax.export.update import link_files
from interactrank_jax.export.vectors import write_vectors
from interactrank_jax.io import contents, files, interrupts, outputs
from interactrank_jax.io.files import ArrayWriter
from interactrank_jax.ranking.ranker import JaxGraphs
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.delta import FOLDER, Delta
from interactrank_jax.serving.golden import FOLDER as GOLDEN
from interactrank_jax.serving.golden import RAW, save_golden
from interactrank_jax.serving.keys import KeyIndex
from interactrank_jax.serving.ranking import Ranking

ROWS_AT_ONCE = 1 << 17


def compact(
    bundle_path: files.PathLike, out: files.PathLike, *, link: files.PathLike = ""
) -> dict[str, int]:
    """Writes a bundle that ranks to the bit as another one does, without what that has of updates.

    Deleted items keep their rows, in which timelines and cross features know them, until the next
    export.

    Args:
      bundle_path: what an update wrote.
      out: a new directory, which appears whole.
      link: names OUT once that is whole, see `update_items`.

    Returns:
      How many rows were changed or added, and how many items there are.

    Raises:
      InputError: no bundle there, or a damaged one.
    """
    outputs.output_directory(out, bundle_path)
    outputs.check_link(link, out)
    bundle = Bundle.open(bundle_path)
    delta = bundle.delta
    with interrupts.deferred(), outputs.new_directory(out) as directory:
        ids = bundle.items.ids.combine_chunks()
        known = link_files(bundle, directory, _is_shared)
        for path in sorted((*bundle.path.glob("items/*.npy"), *bundle.path.glob("index/*.npy"))):
            _write_whole(bundle, path.relative_to(bundle.path), directory)
        KeyIndex.build(ids).save(directory / "items" / "ids")
        if bundle["has_fresh"]:
            fresh = np.load(bundle.path / "cross" / "fresh.npy", allow_pickle=False)
            whole = np.append(fresh, np.zeros(len(delta.added), fresh.dtype))
            (directory / "cross").mkdir(exist_ok=True)
            files.save_array(directory / "cross" / "fresh.npy", whole)
        if len(delta.deleted):
            none = Delta.empty(ids.type)
            Delta(none.row, delta.deleted, none.added).save(directory / FOLDER)
        if bundle["vectors"]:
            _write_vectors(bundle, ids, directory)
        record = {**bundle.artifact.record, "has_delta": len(delta.deleted) > 0}
        write_record(directory, record, known)
        _save_golden(directory, record)
    if link:
        outputs.replace_link(link, out)
    return {"changed": len(delta.row), "items": len(ids) - len(delta.deleted)}


def _is_shared(name: str) -> bool:
    """Returns whether a file depends on no item."""
    folder, _, rest = name.partition("/")
    if folder == GOLDEN:
        return rest in {f"{name}.parquet" for name in RAW}
    return name != "cross/fresh.npy" and folder not in ("items", "index", "vectors", FOLDER)


def _save_golden(directory: Path, record: dict[str, Any]) -> None:
    """Ranks the golden requests by the new arrays, and seals what they became."""
    written = Bundle.open(directory)
    exported = written.as_exported()
    save_golden(Ranking(exported, JaxGraphs(exported)))
    digests = written.artifact.digests.items()
    known = {name: digest for name, digest in digests if not name.startswith(f"{GOLDEN}/")}
    write_record(directory, record, known)


def _write_whole(bundle: Bundle, name: Path, directory: Path) -> None:
    """Writes an array of items as it is with the delta, some rows at a time."""
    (directory / name).parent.mkdir(exist_ok=True)
    # Whole, or its digest would be told of damaged values from now on.
    path = bundle.artifact.path(name.as_posix())
    base = np.load(path, mmap_mode="r", allow_pickle=False)
    shape = (bundle["items"], *base.shape[1:])
    with ArrayWriter(directory / name, shape, base.dtype) as writer:
        for rows in _whole_rows(bundle, name, base):
            interrupts.check()
            writer.write(rows)


def _whole_rows(bundle: Bundle, name: Path, base: np.ndarray) -> Iterator[np.ndarray]:
    row, values = bundle.delta.row, np.zeros((0, *base.shape[1:]), base.dtype)
    if len(row):
        path = bundle.artifact.path(f"{FOLDER}/{name.as_posix()}")
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    for first in range(0, len(base), ROWS_AT_ONCE):
        rows = np.array(base[first : first + ROWS_AT_ONCE])
        low, high = np.searchsorted(row, [first, first + len(rows)])
        rows[row[low:high] - first] = values[low:high]
        contents.release(base)
        yield rows
    yield np.asarray(values[np.searchsorted(row, len(base)) :])


def _write_vectors(bundle: Bundle, ids: pa.Array, directory: Path) -> None:
    vectors = np.load(directory / "index" / "0.npy", mmap_mode="r", allow_pickle=False)[1:]
    is_kept = np.ones(len(ids), bool)
    is_kept[bundle.delta.deleted - 1] = False
    write_vectors(ids, vectors, is_kept, bundle["vectors"], directory / "vectors")
