"""The delta of a bundle: items that changed since its arrays were written, in files of their own.

    delta/row.npy         int64 `[D]` rows with other values than the arrays have, ascending; those
                          of added items, which lie behind the arrays, are last
    delta/deleted.npy     int64 `[T]` rows that are nobody's candidates, ascending
    delta/ids/            ids of the added items (`KeyIndex`), in the order of their rows
    delta/items/NAME.npy, delta/index/N.npy     `[D, ...]` values of those rows

A row is one item's for good: a deleted item keeps its row, by which timelines and cross features
name it, and has it back when it returns. What a delta costs, to write and to open, grows with it.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.format import PADDING
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.serving.keys import KeyIndex, open_array
from interactrank_jax.serving.past import rows as length

FOLDER = "delta"
_ROW, _DELETED, _IDS = "row.npy", "deleted.npy", "ids"


@dataclasses.dataclass(frozen=True)
class Delta:
    """What changed of a bundle's items.

    Attributes:
      row: `[D]` rows whose values are others than the arrays', or behind them, ascending.
      deleted: `[T]` rows of deleted items, ascending.
      added: ids of the items behind the arrays.
    """

    row: np.ndarray
    deleted: np.ndarray
    added: KeyIndex

    @classmethod
    def empty(cls, id_type: pa.DataType) -> "Delta":
        """Returns the delta of a bundle as it was exported."""
        none = np.zeros(0, np.int64)
        return cls(none, none, KeyIndex.build(pa.array([], id_type)))

    @classmethod
    def open(cls, directory: Path, base: int, total: int) -> "Delta":
        """Opens what `save` wrote.

        Args:
          directory: of the delta.
          base: rows of the bundle's arrays, padding included.
          total: rows with those of the added items.

        Raises:
          InputError: a file is damaged, or rows are not of such a bundle.
        """
        row, deleted = (
            np.array(open_array(path, (length(path),), "i"))
            for path in (directory / _ROW, directory / _DELETED)
        )
        delta = cls(row, deleted, KeyIndex.open(directory / _IDS))
        behind = row[row >= base]
        for name, rows in ((_ROW, row), (_DELETED, deleted)):
            fits = not len(rows) or (rows[0] > PADDING and rows[-1] < total)
            if not fits or (np.diff(rows) <= 0).any():
                raise InputError(
                    f"{directory / name} has rows that are not ascending, or not of 1 to "
                    f"{total - 1:,}: it was edited. Make the bundle again."
                )
        if not len(behind) == len(delta.added) == total - base:
            raise InputError(
                f"{directory} has {len(behind):,} rows and {len(delta.added):,} ids of added "
                f"items. Expected {total - base:,} of each: it was edited. Make the bundle again."
            )
        return delta

    def save(self, directory: Path) -> None:
        """Writes it into a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        files.save_array(directory / _ROW, self.row)
        files.save_array(directory / _DELETED, self.deleted)
        self.added.save(directory / _IDS)


class ItemRows:
    """Ids of a bundle's items and their rows: those of its arrays, then the added ones.

    Attributes:
      ids: `[I - 1]` of all items, deleted ones too: the one at position p has row p + 1.

    Args:
      base: ids of the items of the arrays.
      delta: what changed since.
    """

    def __init__(self, base: KeyIndex, delta: Delta):
        self._base, self._delta = base, delta
        self.ids = pa.chunked_array([base.ids, delta.added.ids])

    @property
    def type(self) -> pa.DataType:
        """`int64` or `large_string`, of the ids."""
        return self._base.ids.type

    def find(self, ids: pa.Array, with_deleted: bool = False) -> np.ndarray:
        """Returns the rows of items, int64 `[N]`; 0 for an unknown one, and for a deleted one."""
        row = self._base.find(ids) + 1
        if len(self._delta.added):
            absent = np.flatnonzero(row == PADDING)
            position = self._delta.added.find(ids.take(pa.array(absent)))
            row[absent] = np.where(position < 0, PADDING, position + len(self._base) + 1)
        if len(self._delta.deleted) and not with_deleted:
            row[self.is_deleted(row)] = PADDING
        return row

    def is_deleted(self, row: np.ndarray) -> np.ndarray:
        """Returns whether the items of rows were deleted."""
        deleted = self._delta.deleted
        if not len(deleted):
            return np.zeros(row.shape, bool)
        return deleted[np.minimum(np.searchsorted(deleted, row), len(deleted) - 1)] == row

    def take(self, row: np.ndarray) -> pa.Array:
        """Returns the ids of items by their rows; null for padding."""
        base, added, number = self._base.ids, self._delta.added.ids, row.astype(np.int64)
        is_base = number <= len(base)
        if is_base.all():
            return base.take(pa.array(number - 1, mask=number == PADDING))
        of_base = np.where(is_base, number, PADDING)
        of_added = np.where(is_base, 0, number - len(base))
        parts = [
            ids.take(pa.array(part - 1, mask=part == PADDING))
            for ids, part in ((base, of_base), (added, of_added))
        ]
        return pa.compute.if_else(pa.array(is_base), *parts)
