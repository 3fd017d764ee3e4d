"""Where keys lie among many: hashes on disk, sorted, mapped into memory and searched.

Opening one reads nothing but headers, however many keys there are; a search reads a few pages.

    DIRECTORY/keys.arrow    the keys in their order, a column per part of a key
    DIRECTORY/hash.npy      uint64, the hash of each key, ascending
    DIRECTORY/position.npy  int64, the position of the key of each hash
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.examples.vocabulary import Vocabulary, stable_hash
from interactrank_jax.io import contents, files, outputs
from interactrank_jax.io.errors import InputError

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_FEW = 16  # keys up to which plain Python finds sooner than arrays do
_MANY = 1000  # values from which on they are sorted to be searched for
_KEYS, _HASH, _POSITION = "keys.arrow", "hash.npy", "position.npy"


@dataclasses.dataclass(frozen=True)
class KeyIndex:
    """Distinct keys of one or more parts, to be found by value.

    Attributes:
      columns: `[N]` each, the parts of the keys: `int64` or `large_string`.
      hashes: `[N]` uint64, ascending.
      positions: `[N]` of the key with each hash.
    """

    columns: tuple[pa.Array, ...]
    hashes: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def ids(self) -> pa.Array:
        """The keys, where they have one part."""
        (column,) = self.columns
        return column

    @classmethod
    def build(cls, *columns: pa.Array) -> "KeyIndex":
        """Indexes distinct keys, as `log.values.as_values` has them, without nulls."""
        hashes = _hash(columns)
        order = np.argsort(hashes, kind="stable")
        return cls(columns, hashes[order], order.astype(np.int64))

    def save(self, directory: Path) -> None:
        """Writes it into a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        save_columns(directory / _KEYS, self.columns)
        files.save_array(directory / _HASH, self.hashes)
        files.save_array(directory / _POSITION, self.positions)

    @classmethod
    def open(cls, directory: Path) -> "KeyIndex":
        """Opens what `save` wrote.

        Raises:
          InputError: it is absent or damaged.
        """
        columns = open_columns(directory / _KEYS)
        shape = (len(columns[0]),)
        hashes = open_array(directory / _HASH, shape, "u")
        return cls(columns, hashes, open_array(directory / _POSITION, shape, "i"))

    def find(self, *columns: pa.Array) -> np.ndarray:
        """Returns the position of each key, int64 `[M]`; -1 where it is unknown, or a part is null.

        Args:
          *columns: `[M]` each, of the types of the keys.
        """
        count = len(columns[0])
        result = np.full(count, -1, np.int64)
        if not count or not len(self):
            return result
        rows, asked = np.arange(count), list(columns)
        if any(column.null_count for column in columns):
            present = np.ones(count, bool)
            for column in columns:
                present &= column.is_valid().to_numpy(zero_copy_only=False)
            rows = np.flatnonzero(present)
            asked = [column.take(pa.array(rows)) for column in columns]
        hashes = _hash(asked)
        at = _first_at_least(self.hashes, hashes)
        if len(rows) <= _FEW:
            result[rows] = self._find_few(asked, hashes, at)
            return result
        # Keys of one hash lie side by side; there is hardly ever more than one.
        while len(rows):
            inside = at < len(self)
            inside &= self.hashes[np.where(inside, at, 0)] == hashes
            rows, at, hashes, asked = _only(inside, rows, at, hashes, asked)
            position = self.positions[at]
            equal = np.ones(len(rows), bool)
            for column, key in zip(asked, self.columns, strict=True):
                same = pc.equal(key.take(pa.array(position)), column)
                equal &= same.to_numpy(zero_copy_only=False)
            result[rows[equal]] = position[equal]
            rows, at, hashes, asked = _only(~equal, rows, at + 1, hashes, asked)
        return result

    def _find_few(self, asked: Sequence[pa.Array], hashes: np.ndarray, at: np.ndarray) -> list[int]:
        """Returns positions one by one: of few keys sooner than arrays are made.

        Args:
          asked: the keys, no nulls.
          hashes, at: of each its hash, and the first of ours that is no less.
        """
        result = []
        keys = zip(*(column.to_pylist() for column in asked), strict=True)
        for key, sought, place in zip(keys, hashes, at.tolist(), strict=True):
            position = -1
            while place < len(self) and self.hashes[place] == sought:
                candidate = int(self.positions[place])
                if all(c[candidate].as_py() == k for c, k in zip(self.columns, key, strict=True)):
                    position = candidate
                    break
                place += 1
            result.append(position)
        return result


def _only(
    mask: np.ndarray,
    rows: np.ndarray,
    at: np.ndarray,
    hashes: np.ndarray,
    asked: list[pa.Array],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[pa.Array]]:
    """Returns the keys of a mask `[M]`, which mostly are all or none."""
    if mask.all():
        return rows, at, hashes, asked
    kept = pa.array(mask)
    return rows[mask], at[mask], hashes[mask], [column.filter(kept) for column in asked]


def _first_at_least(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the first position `[M]` whose number is no less, as `np.searchsorted` does.

    Many values are sorted first, so that their searches walk through memory once: four times as
    fast for 100,000 among a million.
    """
    if len(values) < _MANY:
        return np.searchsorted(ordered, values)
    order = np.argsort(values)
    result = np.empty(len(values), np.int64)
    result[order] = np.searchsorted(ordered, values[order])
    return result


class IndexedVocabulary(Vocabulary):
    """A vocabulary whose values are looked up in a `KeyIndex` instead of a table made anew."""

    def __init__(self, index: KeyIndex, out_of_vocabulary: int):
        super().__init__(index.ids, out_of_vocabulary)
        object.__setattr__(self, "index", index)

    index: KeyIndex

    def _find(self, distinct: pa.Array) -> np.ndarray:
        return self.index.find(distinct.cast(self.values.type)).astype(np.int32)


def open_array(path: Path, shape: Sequence[int | None], kind: str) -> np.ndarray:
    """Opens an array as `contents.load_array` does; an empty one, which cannot be mapped, too."""
    if 0 in shape:
        try:
            array = np.load(path, allow_pickle=False)
        except Exception as error:  # of many types, for a damaged header
            raise InputError(f"{path} is no array ({error}): it was edited.") from error
        if array.size:
            raise InputError(f"{path} has shape {array.shape}, expected an empty array.")
        return array
    return contents.load_array(path, shape, kind)


def _hash(columns: Sequence[pa.Array]) -> np.ndarray:
    first, *others = columns
    hashes = stable_hash(first)
    for column in others:
        hashes = hashes * _PRIME ^ stable_hash(column)
    return hashes


def save_columns(path: Path, columns: Sequence[pa.Array]) -> None:
    """Writes columns of one length so that they can be mapped into memory."""
    table = pa.table({str(number): column for number, column in enumerate(columns)})
    with (
        outputs.writing(path, "the output is not complete"),
        path.open("wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table.combine_chunks())


def open_columns(path: Path) -> tuple[pa.Array, ...]:
    """Maps what `save_columns` wrote into memory.

    Raises:
      InputError: it is absent or damaged.
    """
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        return tuple(_one_array(column) for column in table.columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is absent or damaged ({error}): export it again.") from error


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
