"""Directories that are whole or absent, JSON, checksums, locks, and files compressed or not."""

import concurrent.futures
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from interactrank_jax.errors import InputError

if TYPE_CHECKING:
    import pyarrow

PathLike = str | os.PathLike

_REMEDIES = {
    errno.ENOSPC: "Free some space and run the same command again",
    errno.EDQUOT: "Free some space and run the same command again",
    errno.EFBIG: "Free some space and run the same command again",
    errno.EROFS: "Choose another directory, or make it writable",
}


def write_problem(error: BaseException) -> str | None:
    """Returns why a file could not be written and what to do, None for any other error.

    Libraries raise this under many types, so their texts are looked at too, and the errors that an
    error came from.
    """
    seen: BaseException | None = error
    while seen is not None:
        for number, remedy in _REMEDIES.items():
            reason = os.strerror(number)
            if (isinstance(seen, OSError) and seen.errno == number) or reason in str(seen):
                return f"{reason}. {remedy}"
        seen = seen.__cause__ or seen.__context__
    return None


@contextlib.contextmanager
def writing(path: PathLike, left: str) -> Iterator[None]:
    """Turns what keeps the block from writing `path` into an error that says what to do.

    Where one such block is inside another, the error speaks of the outer one.

    Args:
      path: what the block writes.
      left: what stands on disk afterwards, for the message.

    Raises:
      InputError: no space, a quota, or a place that is read-only.
    """
    try:
        yield
    except Exception as error:
        problem = write_problem(error)
        if problem is None:
            raise
        raise InputError(f"{path} was not written: {problem}; {left}.") from error


@contextlib.contextmanager
def new_directory(path: PathLike) -> Iterator[Path]:
    """Yields a directory beside `path` and renames it to `path` when the block ends well.

    So a reader never sees half an artefact. If the block raises, what was written is removed.

    Raises:
      InputError: `path` exists already and holds something, or it cannot be written.
    """
    final = Path(path)
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise InputError(
            f"{final} exists already. Expected a new or empty directory: choose another one, "
            f"or remove it first."
        )
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.parent / f".{final.name}.partial-{uuid.uuid4().hex[:8]}"
        partial.mkdir()
    except OSError as error:
        raise InputError(
            f"cannot write to {final.parent}: {error.strerror}. Choose another directory, or make "
            f"this one writable."
        ) from error
    with writing(final, "nothing was left behind"):
        try:
            yield partial
            if final.exists():
                final.rmdir()
            partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def new_file(path: PathLike) -> Iterator[Path]:
    """Yields a path beside `path`; moves it to `path`, replacing it, when the block ends well.

    Raises:
      InputError: it cannot be written.
    """
    final = Path(path)
    partial = final.parent / f".{final.name}.partial-{uuid.uuid4().hex[:8]}"
    with writing(final, "what was there before is unchanged"):
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(final)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def lock(directory: PathLike) -> Iterator[None]:
    """Keeps other processes out of `directory`, which is made where it is absent.

    The system gives the lock back when the process dies, however it dies: what a killed one leaves
    of `directory/.lock` locks nothing.

    Raises:
      InputError: another process holds it, or the directory cannot be written.
    """
    path = Path(directory) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise InputError(
            f"cannot write to {path.parent}: {error.strerror}. Choose another directory, or make "
            f"this one writable."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                raise BlockingIOError  # its last holder removed it just now
        except BlockingIOError as error:
            raise InputError(
                f"{path.parent} is in use by another process. Wait until it ends, or choose "
                f"another directory."
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_json(path: PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    with new_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=False) + "\n", encoding="utf-8")


def read_json(path: PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      InputError: the file is absent or not JSON.
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"{file} does not exist.")
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


def digest(value: Any) -> str:
    """Returns a short hash of anything JSON can hold."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: PathLike) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(directory: PathLike) -> dict[str, str]:
    """Returns the SHA-256 of every file below a directory, by its path in there, sorted."""
    root = Path(directory)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = pool.map(file_digest, paths)
        return {
            path.relative_to(root).as_posix(): value
            for path, value in zip(paths, found, strict=True)
        }


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


def inside(directory: PathLike, name: Any) -> Path:
    """Returns the path of a file that an artefact's metadata names, in or below `directory`.

    Raises:
      InputError: the name leads out of the directory, or is no name.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or "\0" in name or {"", ".", ".."} & set(parts):
        raise InputError(
            f"{directory}: its metadata names the file {name!r}. Expected a plain name inside that "
            f"directory: it was edited, write it again by the command that made it."
        )
    return Path(directory, *parts)


def load_array(path: PathLike, shape: Sequence[int | None], kind: str) -> np.ndarray:
    """Opens an array of which shape and type are known, mapped into memory and not read.

    Args:
      path: of an .npy file.
      shape: expected; None for any length.
      kind: letters of the kinds of NumPy types that are expected, such as 'iu'.

    Raises:
      InputError: it is no array, or another.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises whatever the header leads it to
        raise InputError(f"{path} is no array ({error}): it was truncated or edited.") from error
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, length) for length, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.kind not in kind:
        expected = ", ".join("any" if length is None else str(length) for length in shape)
        kinds = " or ".join(_KINDS.get(letter, letter) for letter in kind)
        raise InputError(
            f"{path} holds {array.dtype} of shape {array.shape}. Expected shape ({expected}) of "
            f"{kinds}: it was edited, write it again by the command that made it."
        )
    return array


_KINDS = {"i": "integers", "u": "unsigned integers", "f": "numbers", "b": "flags"}


def read_table(path: PathLike, rows: int, column: str) -> "pyarrow.Table":
    """Reads a Parquet file of which the number of rows and one column are known.

    Raises:
      InputError: it is no Parquet file, or another.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file ({error}): it was edited.") from error
    if table.num_rows != rows or column not in table.column_names:
        raise InputError(
            f"{path} has {table.num_rows} rows and the columns {table.column_names}. Expected "
            f"{rows} rows with '{column}': it was edited, write it again by the command that made "
            f"it."
        )
    return table
