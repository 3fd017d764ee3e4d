"""Files of public data sets: where they are, how they are packed, and what their columns hold."""

import gzip
import io
import lzma
import re
import zipfile
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.data.vocabulary import as_values, index_in
from interactrank_jax.errors import InputError

_PACKED = re.compile(r"\.(xz|gz|zip)$")


class Folder:
    """Files of a directory, or of an archive as downloaded, plain, `.xz`, `.gz`, `.zip`; or one.

    Attributes:
      path: of the directory or the archive.
      names: from the name of each file, unpacked, to its name here. Plain goes before packed.

    Raises:
      InputError: there is nothing at `path`; `expected` says what should be.
    """

    def __init__(self, path: Path, expected: str):
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        if path.is_dir():
            found = sorted((file.name for file in path.iterdir()), reverse=True)
        elif not path.is_file():
            raise InputError(f"{path} does not exist. {expected}")
        elif zipfile.is_zipfile(path):
            self._archive = zipfile.ZipFile(path)
            found = [name for name in self._archive.namelist() if not name.endswith("/")]
        else:
            self.path, found = path.parent, [path.name]
        self.names = {_PACKED.sub("", Path(name).name): name for name in found}

    def open(self, name: str) -> IO[bytes]:
        """Opens a file by its unpacked name.

        Raises:
          InputError: a `.zip` that holds more than one file.
        """
        file = self.path / self.names[name]
        packed: IO[bytes] = (
            file.open("rb") if self._archive is None else self._archive.open(self.names[name])
        )
        if file.suffix == ".xz":
            return lzma.open(packed)
        if file.suffix == ".gz":
            return cast(IO[bytes], gzip.open(packed))
        if file.suffix != ".zip":
            return packed
        archive = zipfile.ZipFile(packed)
        members = [member for member in archive.namelist() if not member.endswith("/")]
        if len(members) != 1:
            raise InputError(f"{file} holds {len(members)} files. Expected exactly one: unpack it.")
        return archive.open(members[0])

    def lines(self, name: str, encoding: str) -> list[str]:
        """Returns the lines of a text file, without line ends and empty lines."""
        try:
            with io.TextIOWrapper(self.open(name), encoding=encoding) as text:
                lines = [line for line in text.read().split("\n") if line.strip()]
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}/{name} is not {encoding} text ({error}).") from error
        if not lines:
            raise InputError(f"{self.path}/{name} is empty.")
        return lines


def numbers(
    values: pa.Array, where: str, what: str, *, whole: bool = False, first_row: int = 1
) -> np.ndarray:
    """Parses a column of numbers, or of text that is numbers; float64 `[N]`.

    Args:
      values: the column.
      where: file or table, for messages.
      what: the column, for messages.
      whole: whether they must be whole; `3.0` is.
      first_row: number that users know the first row by.

    Raises:
      InputError: some are missing or are no (whole) finite numbers.
    """
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    try:
        parsed = pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        parsed = np.array([_number(value) for value in values.to_pylist()])
    wrong = ~np.isfinite(parsed)
    if whole:
        wrong |= parsed != np.round(parsed)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{where}: {what} is not a {'whole' if whole else 'finite'} number in "
            f"{wrong.sum():,} of {len(parsed):,} rows, for example {values[row].as_py()!r} in row "
            f"{row + first_row}. Fill it in: or was the file truncated?"
        )
    return parsed


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan


def positions(
    values: pa.Array, known: pa.Array, where: str, what: str, *, first_row: int = 1
) -> np.ndarray:
    """Returns the index of each value in `known`, int32 `[N]`; arguments as for `numbers`.

    Raises:
      InputError: a value that is not there.
    """
    found = index_in(as_values(values), as_values(known))
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        row = int(unknown[0])
        raise InputError(
            f"{where}: {len(unknown):,} of {len(found):,} rows are of an unknown {what}, for "
            f"example {values[row].as_py()!r} in row {row + first_row}. Expected all of them in "
            f"the {what}s' own file: were files of two data sets mixed?"
        )
    return found
