"""Files: JSON whole or absent, arrays, checksums, and records that carry their own."""

import concurrent.futures
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError

PathLike = outputs.PathLike


def write_json(path: PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all.

    Raises:
      ValueError: it has NaN or an infinity, which JSON has no number for: say what None is.
    """
    text = json.dumps(value, indent=2, sort_keys=False, allow_nan=False)
    with outputs.new_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read_json(path: PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      InputError: the file is absent or not JSON.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file} {'is no file' if file.exists() else 'does not exist'}.")
    try:
        return json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON ({error}): it was truncated or edited.") from (
            error
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:  # JSON would take the last and say nothing
            raise ValueError(f"'{name}' occurs twice in one object")
    return dict(pairs)


class _Plain:
    """A file of which NumPy sees nothing but `write`."""

    def __init__(self, file: IO[bytes]):
        self.write = file.write


def save_array(path: PathLike, array: np.ndarray) -> None:
    """Writes an array as `numpy.save` does, but for one thing: a full disk is an error.

    To a file that it knows as one, NumPy writes past Python, and does not notice when the last
    bytes find no room.
    """
    with Path(path).open("wb") as file:
        np.save(_Plain(file), array, allow_pickle=False)


def link(source: PathLike, target: PathLike) -> None:
    """Lets a new path name a file that is never written to again: a hard link, or else a copy."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, too many links, or one of somebody else's files
        shutil.copyfile(source, target)


class ArrayWriter:
    """Writes an array some rows at a time, to the bytes that `save_array` writes of it whole.

    Not through a map of the file: where the disk is full, that ends the process without a word.

    Args:
      path: of an .npy file.
      shape: of the whole array, `[N, ...]`.
      dtype: of its numbers.
    """

    def __init__(self, path: PathLike, shape: Sequence[int], dtype: Any):
        self._shape, self._dtype, self._rows = tuple(shape), np.dtype(dtype), 0
        self._file = Path(path).open("wb")  # noqa: SIM115
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": self._shape,
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, rows: np.ndarray) -> None:
        """Writes the next rows, `[n, ...]`."""
        rows = np.ascontiguousarray(rows, self._dtype)
        if rows.shape[1:] != self._shape[1:]:
            raise ValueError(f"rows of shape {rows.shape[1:]}, expected {self._shape[1:]}")
        self._file.write(rows.tobytes() if not rows.size else rows.reshape(-1).view(np.uint8).data)
        self._rows += len(rows)

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Closes the file; refuses one that lacks rows, unless an error is under way."""
        self._file.close()
        if kind is None and self._rows != self._shape[0]:
            raise ValueError(f"{self._rows} rows were written, expected {self._shape[0]}")


def digest(value: Any) -> str:
    """Returns a short hash of anything JSON can hold."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: PathLike) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(
    directory: PathLike, skip: str = "", known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Returns the SHA-256 of every file below a directory, by its path in there, sorted.

    Args:
      directory: it.
      skip: a folder in it to leave out.
      known: digests of some of the files, which are not read.
    """
    root = Path(directory)
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*"))}
    names = [
        name
        for name, path in paths.items()
        if path.is_file() and not (skip and name.startswith(f"{skip}/"))
    ]
    known = known or {}
    unknown = [name for name in names if name not in known]
    digests = dict(zip(unknown, digests_of([paths[name] for name in unknown]), strict=True))
    return {name: known[name] if name in known else digests[name] for name in names}


def digests_of(paths: Sequence[PathLike]) -> list[str]:
    """Returns the SHA-256 of files, several hashed at a time: that leaves Python's lock."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(file_digest, paths))


def write_sealed(path: PathLike, value: Mapping[str, Any]) -> None:
    """Writes a JSON object that carries a checksum of itself, whole or not at all."""
    write_json(path, {**value, "checksum": digest(value)})


def read_sealed(path: PathLike) -> dict[str, Any]:
    """Reads what `write_sealed` wrote.

    Raises:
      InputError: the file is absent or is not what was written.
    """
    value = read_json(path)
    checksum = value.pop("checksum", None) if isinstance(value, dict) else None
    if checksum != digest(value):
        raise InputError(
            f"{path} is damaged or was edited: its checksum does not match. Write it again by the "
            f"command that made it."
        )
    return value
