"""The codec of a block: about a thousand examples, stored column by column in one record.

A block is `magic, crc32 of the rest, header length, header (JSON), the columns' bytes`. A flipped
bit or a missing tail is an error that names the file, never a wrong number.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interactrank_jax.io.errors import InputError
from interactrank_jax.io.files import PathLike

if TYPE_CHECKING:  # a process that serves reads no blocks, and need not have it
    from array_record.python import array_record_module

MAGIC = b"IRB1"
_PREFIX = len(MAGIC) + 8

Columns = Mapping[str, np.ndarray]


def encode_block(columns: Columns) -> bytes:
    """Packs columns of equal length `[N, ...]` into one record."""
    lengths = {len(value) for value in columns.values()}
    if len(lengths) != 1:
        raise ValueError(f"columns of one block must have one length, got {sorted(lengths)}.")
    header = json.dumps(
        [[name, value.dtype.str, list(value.shape)] for name, value in columns.items()]
    ).encode()
    body = len(header).to_bytes(4, "little") + header
    body += b"".join(np.ascontiguousarray(value).tobytes() for value in columns.values())
    return MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def decode_block(record: bytes, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Unpacks a record; `names` limits the columns (a column left out costs nothing).

    Raises:
      InputError: the record is no block, or its checksum or its header does not match.
    """
    if record[: len(MAGIC)] != MAGIC or len(record) < _PREFIX:
        raise InputError("not a block of examples: prepare the examples again.")
    body = memoryview(record)[len(MAGIC) + 4 :]
    if zlib.crc32(body) != int.from_bytes(record[len(MAGIC) : len(MAGIC) + 4], "little"):
        raise InputError("a block's checksum does not match: the file is damaged, prepare again.")
    size = int.from_bytes(body[:4], "little")
    offset = 4 + size
    columns = {}
    try:
        for name, dtype, shape in json.loads(bytes(body[4:offset])):
            if min(shape, default=0) < 0:  # NumPy would take what is left
                raise ValueError(f"column '{name}' has shape {shape}")
            count = int(np.prod(shape, dtype=np.int64))
            if names is None or name in names:
                columns[name] = np.frombuffer(body, dtype, count, offset).reshape(shape)
            offset += count * np.dtype(dtype).itemsize
    except (TypeError, ValueError) as error:
        raise InputError(f"a block's header is wrong ({error}): prepare again.") from error
    if names is not None and len(columns) != len(set(names)):
        missing = sorted(set(names) - set(columns))
        raise InputError(f"blocks hold no column {missing}: prepare with a config that adds it.")
    return columns


class BlockWriter:
    """Writes blocks to `directory/blocks-00000.array_record`, ...; a context manager.

    Attributes:
      files: name and number of blocks of each file, in order, once closed.
    """

    def __init__(self, directory: PathLike, blocks_per_file: int = 64):
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._blocks_per_file = blocks_per_file
        self._writer: array_record_module.ArrayRecordWriter | None = None
        self.files: list[tuple[str, int]] = []

    def write(self, columns: Columns) -> None:
        """Appends one block."""
        from array_record.python import array_record_module

        if self._writer is None:
            name = f"blocks-{len(self.files):05d}.array_record"
            self._writer = array_record_module.ArrayRecordWriter(
                str(self._directory / name), "group_size:1,zstd:1"
            )
            self.files.append((name, 0))
        self._writer.write(encode_block(columns))
        name, count = self.files[-1]
        self.files[-1] = (name, count + 1)
        if count + 1 == self._blocks_per_file:
            self.close()

    def close(self) -> None:
        """Ends the file being written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> "BlockWriter":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


def read_blocks(
    files: Iterable[PathLike],
    names: Sequence[str] | None = None,
    check: Callable[[Columns], None] = lambda columns: None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the blocks of `files` in order, each read once.

    Args:
      files: paths.
      names: limits the columns.
      check: looks at each block, and raises InputError where it is wrong.

    Raises:
      InputError: a file is absent or damaged, or `check` refuses a block; the message names it.
    """
    from array_record.python import array_record_module

    for file in files:
        if not Path(file).is_file():
            raise InputError(f"{file} does not exist: prepare the examples again.")
        try:
            reader = array_record_module.ArrayRecordReader(str(file))
            for index in range(reader.num_records()):
                columns = decode_block(reader.read([index])[0], names)
                check(columns)
                yield columns
            reader.close()
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        except (RuntimeError, ValueError, IndexError) as error:
            raise InputError(f"{file} is damaged ({error}): prepare the examples again.") from error
