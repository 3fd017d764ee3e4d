"""Directories that are whole or absent, JSON, checksums, and files compressed or not."""

import contextlib
import hashlib
import io
import json
import lzma
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interactrank_jax.errors import InputError

PathLike = str | os.PathLike


@contextlib.contextmanager
def new_directory(path: PathLike) -> Iterator[Path]:
    """Yields a directory beside `path` and renames it to `path` when the block ends well.

    So a reader never sees half an artefact. If the block raises, what was written is removed.

    Raises:
      InputError: `path` exists already and holds something.
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
        raise InputError(f"cannot write to {final.parent}: {error.strerror}.") from error
    try:
        yield partial
        if final.exists():
            final.rmdir()
        partial.rename(final)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (28, 122):  # no space, over quota
            raise InputError(
                f"{final} was not written: {error.strerror}. Free some space and run the same "
                f"command again; nothing was left behind."
            ) from error
        raise


@contextlib.contextmanager
def new_file(path: PathLike) -> Iterator[Path]:
    """Yields a path beside `path`; moves it to `path`, replacing it, when the block ends well."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.parent / f".{final.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        yield partial
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    with new_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=False) + "\n")


def read_json(path: PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      InputError: the file is absent or not JSON.
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"{file} does not exist.")
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON ({error}): it was truncated or edited.") from (
            error
        )


def digest(value: Any) -> str:
    """Returns a short hash of anything JSON can hold."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: PathLike) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_text(path: PathLike, encoding: str = "utf-8") -> io.TextIOBase:
    """Opens a text file that may be plain, `.xz` or `.zip` (with one file in it).

    `path` may name the plain file: then its `.xz` or `.zip` sibling is used where it is absent.

    Raises:
      InputError: none of the three exists.
    """
    path = Path(path)
    candidates = [path, path.with_name(path.name + ".xz"), path.with_name(path.name + ".zip")]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise InputError(f"{path} does not exist, neither plain nor as .xz or .zip.")
    if found.suffix == ".xz":
        return lzma.open(found, "rt", encoding=encoding)
    if found.suffix == ".zip":
        archive = zipfile.ZipFile(found)
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise InputError(f"{found} holds {len(names)} files. Expected exactly one: unpack it.")
        return io.TextIOWrapper(archive.open(names[0]), encoding=encoding)
    return found.open("rt", encoding=encoding)
