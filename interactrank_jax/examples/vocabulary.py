"""From ids and categories to rows of embedding tables: known values, and hashed rows for the rest.

Needs numpy and pyarrow only, so that serving maps ids by the same code.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.io.errors import InputError
from interactrank_jax.io.files import PathLike, file_digest
from interactrank_jax.log.values import as_values, index_in

# 64-bit FNV-1a (Fowler, Noll, Vo), then the 64-bit finaliser of MurmurHash3: FNV alone leaves the
# low bits, which the modulo reads, poorly mixed on short strings.
_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_SHIFT = np.uint64(33)
_FEW = 16  # values up to which plain Python hashes sooner than arrays do
_BITS = (1 << 64) - 1


def stable_hash(values: pa.Array) -> np.ndarray:
    """Hashes the UTF-8 text of each value, alike on every machine and in every process.

    An integer hashes like its decimal digits.

    Args:
      values: `[N]` strings or integers, no nulls.

    Returns:
      uint64 `[N]`.
    """
    text = values.cast(pa.large_string())
    if len(text) <= _FEW:
        return np.array([_hash_text(value or "") for value in text.to_pylist()], np.uint64)
    _, offsets_buffer, data = text.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[text.offset : text.offset + len(text) + 1]
    octets = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    lengths = np.diff(offsets)
    # All strings advance together, longest first, so that those still running are a prefix.
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = offsets[:-1][order], lengths[order]
    hashes = np.full(len(text), _FNV_OFFSET)
    running = len(text)
    for position in range(int(lengths[0])):
        running = int(np.searchsorted(-lengths[:running], -position, side="left"))
        hashes[:running] ^= octets[starts[:running] + position]
        hashes[:running] *= _FNV_PRIME
    for factor in _MIX:
        hashes = (hashes ^ (hashes >> _SHIFT)) * factor
    hashes ^= hashes >> _SHIFT
    result = np.empty_like(hashes)
    result[order] = hashes
    return result


def _hash_text(text: str) -> int:
    """Returns what `stable_hash` does of one text."""
    result = int(_FNV_OFFSET)
    for octet in text.encode():
        result = (result ^ octet) * int(_FNV_PRIME) & _BITS
    for factor in _MIX:
        result = (result ^ result >> int(_SHIFT)) * int(factor) & _BITS
    return result ^ result >> int(_SHIFT)


def hash_rows(values: pa.Array, rows: int) -> np.ndarray:
    """Returns `1 + hash % rows` as int32 `[N]`: a row in 1..rows, row 0 being padding."""
    return (1 + stable_hash(values) % np.uint64(rows)).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """One embedding table's rows: 0 padding, 1..out_of_vocabulary hashed, then one per value.

    Attributes:
      values: the known values in row order (`int64` or `large_string`).
      out_of_vocabulary: number of hashed rows.
    """

    values: pa.Array
    out_of_vocabulary: int

    @classmethod
    def build(
        cls,
        values: pa.Array,
        counts: np.ndarray,
        min_count: int,
        out_of_vocabulary: int,
        old: "Vocabulary | None" = None,
    ) -> "Vocabulary":
        """Gives rows to the values seen often enough, the most frequent first.

        Rarer ones share the hashed rows, which are trained that way and so mean something when a
        value never seen comes along.

        Args:
          values: `[V]` distinct values of the training split.
          counts: `[V]` how often each was seen there.
          min_count: seen at least so often is known.
          out_of_vocabulary: number of hashed rows, at least 1.
          old: a vocabulary to extend: its values keep their rows, known or not by these counts.
        """
        known = counts >= min_count
        if old is not None:
            known &= index_in(values, old.values) < 0
        table = pa.table({"value": values, "count": counts}).filter(pa.array(known))
        table = table.sort_by([("count", "descending"), ("value", "ascending")])
        chosen = as_values(table["value"])
        if old is not None:
            chosen = pa.concat_arrays([old.values, chosen.cast(old.values.type)])
        return cls(chosen, out_of_vocabulary)

    @property
    def size(self) -> int:
        """Rows of the table."""
        return 1 + self.out_of_vocabulary + len(self.values)

    def rows(self, values: pa.Array) -> np.ndarray:
        """Returns the row of each value as int32 `[N]`; 0 for null."""
        if not len(values):
            return np.zeros(0, np.int32)
        if len(values) <= _FEW and not values.null_count:
            return self._rows(values)
        distinct = values.dictionary_encode()
        codes = pc.fill_null(distinct.indices, -1).to_numpy(zero_copy_only=False)
        table = np.append(self._rows(distinct.dictionary), np.int32(0))  # code -1
        return table[codes]

    def _rows(self, values: pa.Array) -> np.ndarray:
        """Returns the row of each value as int32 `[N]`; there are no nulls."""
        found = self._find(values)
        result = found + np.int32(1 + self.out_of_vocabulary)
        missing = np.flatnonzero(found < 0)
        if len(missing):
            result[missing] = hash_rows(values.take(pa.array(missing)), self.out_of_vocabulary)
        return result

    def _find(self, distinct: pa.Array) -> np.ndarray:
        """Returns the position of distinct values among those known, -1 for others."""
        return index_in(distinct, self.values)

    def save(self, path: PathLike) -> None:
        """Writes columns `value` and `row`."""
        first = 1 + self.out_of_vocabulary
        rows = np.arange(first, first + len(self.values), dtype=np.int32)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"value": self.values, "row": rows}), path)

    @classmethod
    def load(cls, path: PathLike, out_of_vocabulary: int) -> "Vocabulary":
        """Reads what `save` wrote.

        Raises:
          InputError: the file is absent or damaged, or was written with other hashed rows.
        """
        try:
            table = pq.read_table(path)
            rows = table["row"].to_numpy()
            values = as_values(table["value"])
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{path} is absent or damaged ({error}): prepare again.") from error
        if len(rows) and rows[0] != 1 + out_of_vocabulary:
            raise InputError(
                f"{path} starts at row {rows[0]}. Expected {1 + out_of_vocabulary}, after "
                f"{out_of_vocabulary} hashed rows: it belongs to other examples."
            )
        return cls(values, out_of_vocabulary)


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What tells one vocabulary from another without reading it.

    Attributes:
      length: number of its values.
      sha256: of their type and their bytes in row order, in hexadecimal.
    """

    length: int
    sha256: str

    @classmethod
    def of(cls, values: pa.Array) -> "Fingerprint":
        """Returns the fingerprint of values (`int64` or `large_string`, no nulls).

        It does not depend on how Arrow holds them: not on slices, chunks or file versions.
        """
        checksum = hashlib.sha256(str(values.type).encode())
        if pa.types.is_int64(values.type):
            checksum.update(values.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        elif len(values):
            lengths = pc.binary_length(values).to_numpy(zero_copy_only=False)
            checksum.update(lengths.astype("<i8").tobytes())
            _, offsets, text = values.buffers()
            ends = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
            if text is not None:
                checksum.update(memoryview(text)[ends[0] : ends[-1]])
        return cls(len(values), checksum.hexdigest())


class StoredVocabularies(Mapping[str, Vocabulary]):
    """Vocabularies on disk, each read when it is asked for and held against its fingerprint."""

    def __init__(
        self,
        directory: Path,
        fingerprints: Mapping[str, Fingerprint],
        digests: Mapping[str, str],
        out_of_vocabulary: int,
    ):
        """Reads nothing yet.

        Args:
          directory: where `TABLE.parquet` lies.
          fingerprints: of the values, by table.
          digests: SHA-256 of each file, by its name there.
          out_of_vocabulary: number of hashed rows.
        """
        self._directory, self._fingerprints, self._digests = directory, fingerprints, digests
        self._out_of_vocabulary = out_of_vocabulary

    def __getitem__(self, name: str) -> Vocabulary:
        """Reads one.

        Raises:
          InputError: it is absent, damaged, or another than the encoder was saved with.
        """
        fingerprint = self._fingerprints[name]
        path = self._directory / f"{name}.parquet"
        if path.is_file() and file_digest(path) == self._digests.get(path.name):
            vocabulary = Vocabulary.load(path, self._out_of_vocabulary)
            if Fingerprint.of(vocabulary.values) == fingerprint:
                return vocabulary
        raise InputError(
            f"{path} is absent or damaged, or was edited: it is not what the encoder was saved "
            f"with. Write it again by the command that made it."
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._fingerprints)

    def __len__(self) -> int:
        return len(self._fingerprints)
