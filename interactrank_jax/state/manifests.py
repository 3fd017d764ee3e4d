"""Manifests: what is in a directory, with a SHA-256 of every file and a checksum of their own.

A manifest is written last, so that what it names is complete. What is read later is what was
written, or an error: each file is compared with its digest once per process, before it is first
read, and a folder that lacks a file, or has one more, is refused.

This process hashes, also where Spark runs on a cluster: it must see the files in any case, for it
lists them to the engine.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.log import engine_paths

FORMAT_VERSION = 4  # of counts, features and snapshots
_VERSION, _FILES = "format_version", "files"
# Files with the right digest: that digest, and their state.
_verified: set[tuple[Any, ...]] = set()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A manifest that was read.

    Attributes:
      file: its JSON.
      root: the directory that its files are in.
      command: the subcommand that makes it.
      record: what it says besides.
      digests: SHA-256 of each file, by its path below `root`.
    """

    file: Path
    root: Path
    command: str
    record: dict[str, Any]
    digests: dict[str, str]

    def names(self, folder: str) -> list[str]:
        """Returns the paths below `root` of a folder's files.

        Raises:
          InputError: the folder lacks one of them, or has one more.
        """
        names = {name for name in self.digests if name.startswith(f"{folder}/")}
        paths = (self.root / folder).rglob("*")
        present = {path.relative_to(self.root).as_posix() for path in paths if path.is_file()}
        if missing := sorted(names - present):
            raise InputError(f"{self.root / missing[0]} is missing: {self._remedy}.")
        if extra := sorted(present - names):
            raise InputError(
                f"{self.root / extra[0]} is not one of the files that {self.file} names. Move it "
                f"elsewhere."
            )
        return sorted(names)

    def check(self, name: str) -> None:
        """Compares a file with its digest, unless this process did so.

        Raises:
          InputError: it is another, or cannot be read.
        """
        path = (self.root / name).absolute()
        try:
            identity = (self.digests[name], *_state(path))
            if identity in _verified:
                return
            digest = files.file_digest(path)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): {self._remedy}."
            ) from error
        if digest != self.digests[name]:
            raise InputError(
                f"{path} is damaged: its checksum is not the one in {self.file.name}. Its values "
                f"would be wrong: {self._remedy}."
            )
        _verified.add(identity)

    @property
    def _remedy(self) -> str:
        return (
            f"make {self.root} again, by `interactrank {self.command}` with a new --out, or bring "
            f"the file back from a copy"
        )


def read_parquet(backend: ibis.BaseBackend, folders: Sequence[tuple[Manifest, str]]) -> ir.Table:
    """Returns the rows of the Parquet files of some folders, which must be as they were written.

    Args:
      backend: that reads them.
      folders: pairs of a manifest and the path of a folder below its root.

    Raises:
      InputError: a file is missing, damaged, one too many, or has other columns than the others.
    """
    pairs = [(manifest, name) for manifest, folder in folders for name in manifest.names(folder)]
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
        list(pool.map(lambda pair: pair[0].check(pair[1]), pairs))
    paths = [manifest.root / name for manifest, name in pairs if name.endswith(".parquet")]
    if not paths:
        manifest, folder = folders[0]
        raise InputError(
            f"{manifest.file} names no Parquet file of {folder}: it was made from another kind of "
            f"log. Make it again, by `interactrank {manifest.command}` with a new --out."
        )
    columns = [_columns(_state(path.absolute())) for path in paths]
    for path, others in zip(paths, columns, strict=True):
        if others != columns[0]:
            # An engine would read all files as it reads the first.
            root, command = folders[0][0].root, folders[0][0].command
            raise InputError(
                f"{path} has the columns {dict(others)}, {paths[0]} has {dict(columns[0])}: ids or "
                f"segments of the log became of another kind. Make {root} again, by `interactrank "
                f"{command}` with a new --out."
            )
    return engine_paths.read_parquet(backend, paths)


def _state(path: Path) -> tuple[Any, ...]:
    """Returns a path, and what changes when its file is written to."""
    status = path.stat()
    return path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=2**16)
def _columns(state: tuple[Any, ...]) -> tuple[tuple[str, str], ...]:
    """Returns the columns of a Parquet file, by its state, and their types."""
    schema = pq.read_schema(state[0])
    return tuple(sorted((field.name, str(field.type)) for field in schema))


def count_rows(directory: Path) -> int:
    """Returns the rows of all Parquet files below a directory, as their footers say."""
    # Absolute: Arrow takes a colon in a relative path for the end of a URL's scheme.
    paths = directory.absolute().rglob("*.parquet")
    return sum(pq.read_metadata(path).num_rows for path in paths)


def write(file: Path, root: Path, record: Mapping[str, Any], folders: Iterable[str] = ()) -> None:
    """Writes a manifest, which makes folders complete.

    Args:
      file: its JSON.
      root: directory that the folders are in.
      record: what it says besides.
      folders: paths below `root`.
    """
    digests = {
        f"{folder}/{name}": digest
        for folder in folders
        for name, digest in files.file_digests(root / folder).items()
    }
    files.write_sealed(file, {_VERSION: FORMAT_VERSION, **record, _FILES: digests})


def read(file: Path, root: Path, command: str, fields: Iterable[str]) -> Manifest:
    """Reads a manifest.

    Args:
      file: its JSON.
      root: as it was written with.
      command: the subcommand that writes it.
      fields: that its record must have.

    Raises:
      InputError: none there, damaged, of another release, or not what `command` writes.
    """
    if not file.is_file():
        raise InputError(
            f"{file.parent} holds no {file.name}. Expected the --out of `interactrank {command}`."
        )
    again = f"make {root} again, by `interactrank {command}` with a new --out"
    try:
        record = files.read_sealed(file)
    except InputError as error:
        raise InputError(f"{error} What it says is lost: {again}.") from error
    version, digests = record.pop(_VERSION, None), record.pop(_FILES, None)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{root} is of another release (format {version or 'unknown'}; this one reads "
            f"{FORMAT_VERSION}): {again}."
        )
    if not isinstance(digests, dict) or not set(fields) <= set(record):
        raise InputError(
            f"{file} is not what `interactrank {command}` writes: name another directory."
        )
    for name in digests:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise InputError(
                f"{file} names the file {name!r}, which is not below {root}: somebody edited it. "
                f"Do not use it."
            )
    return Manifest(file, root, command, record, digests)
