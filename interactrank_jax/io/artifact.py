"""Artifacts: what a station writes, with a manifest that names every file and its SHA-256.

A manifest is written last, so that what it names is complete; `outputs.new_directory` makes the
directory appear whole. What is read later is what was written, or an error: each file is compared
with its digest once per process, before it is first read, and a folder that lacks a file, or has
one more, is refused.

A checksum says that a file is what was written, not who wrote it: the whole may have been edited
and sealed again. So a name must lie inside the directory.
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError

_VERSION, _FILES = "format_version", "files"
# Files with the right digest: that digest, and their state.
_verified: set[tuple[Any, ...]] = set()


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of artifact.

    Attributes:
      what: it is, as 'examples'.
      command: the subcommand that writes it.
      file: name of its manifest.
      version: of its format.
      flag: of the command, that names its directory.
    """

    what: str
    command: str
    file: str
    version: int
    flag: str = "out"


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An artifact that was opened, or a part of one that has a manifest of its own.

    Attributes:
      kind: what it is.
      file: its manifest.
      root: the directory that its files are in.
      record: what the manifest says besides.
      digests: SHA-256 of each file, by its path below `root`.
      remedy: what to do where a file is not what was written.
    """

    kind: Kind
    file: Path
    root: Path
    record: dict[str, Any]
    digests: dict[str, str]
    remedy: str

    def names(self, folder: str) -> list[str]:
        """Returns the paths below `root` of a folder's files.

        Raises:
          InputError: the folder lacks one of them, or has one more.
        """
        names = {name for name in self.digests if name.startswith(f"{folder}/")}
        paths = (self.root / folder).rglob("*")
        present = {path.relative_to(self.root).as_posix() for path in paths if path.is_file()}
        if missing := sorted(names - present):
            raise InputError(f"{self.root / missing[0]} is missing: {self.remedy}.")
        if extra := sorted(present - names):
            raise InputError(
                f"{self.root / extra[0]} is not one of the files that {self.file} names. Move it "
                f"elsewhere."
            )
        return sorted(names)

    def path(self, name: str) -> Path:
        """Returns the path of a file, once it was compared with its digest.

        Raises:
          InputError: it is absent or another, or the name leads out of the directory.
        """
        path = inside(self.root, name)
        if not path.is_file():
            raise InputError(f"{path} does not exist: {self.remedy}.")
        self.check(name)
        return path

    def check_all(self) -> None:
        """Compares every file with its digest, several at once.

        Raises:
          InputError: see `path`.
        """
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(self.path, sorted(self.digests)))

    def check(self, name: str) -> None:
        """Compares a file with its digest, unless this process did so.

        Raises:
          InputError: it is another, or cannot be read.
        """
        path = (self.root / name).absolute()
        try:
            identity = (self.digests.get(name), *file_identity(path))
            if identity in _verified:
                return
            digest = files.file_digest(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): {self.remedy}.") from error
        if digest != self.digests.get(name):
            raise InputError(
                f"{path} is damaged: its checksum is not the one in {self.file.name}. Its values "
                f"would be wrong: {self.remedy}."
            )
        _verified.add(identity)


def file_identity(path: Path) -> tuple[Any, ...]:
    """Returns a path, and what changes when its file is written to."""
    status = path.stat()
    return path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def inside(directory: files.PathLike, name: Any) -> Path:
    """Returns the path of a file that an artifact's manifest names, in or below `directory`.

    Raises:
      InputError: the name leads out of the directory, or is no name.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or "\0" in name or "\\" in name or {"", ".", ".."} & set(parts):
        raise InputError(
            f"{directory}: its metadata names the file {name!r}. Expected a plain name inside that "
            f"directory: it was edited, write it again by the command that made it."
        )
    return Path(directory, *parts)


def write(
    kind: Kind,
    root: Path,
    record: Mapping[str, Any],
    folders: Iterable[str] | None = None,
    file: Path | None = None,
    skip: str = "",
    known: Mapping[str, str] | None = None,
) -> None:
    """Writes a manifest, which makes an artifact, or some folders of one, complete.

    Args:
      kind: what it is.
      root: its directory.
      record: what the manifest says besides.
      folders: paths below `root` that it is for; None for all files there.
      file: the manifest; `root / kind.file` unless given.
      skip: a folder that has a manifest of its own.
      known: digests, by paths below `root`, of files that are not read for it: what a manifest has
        told of them, the next one tells too.
    """
    file = root / kind.file if file is None else file
    known = known or {}
    if folders is None:
        digests = files.file_digests(root, skip)
        digests.pop(file.relative_to(root).as_posix(), None)
    else:
        digests = {
            f"{folder}/{name}": digest
            for folder in folders
            for name, digest in files.file_digests(
                root / folder, known=_below(known, folder)
            ).items()
        }
    files.write_sealed(file, {_VERSION: kind.version, **record, _FILES: digests})


def _below(digests: Mapping[str, str], folder: str) -> dict[str, str]:
    prefix = f"{folder}/"
    return {
        name.removeprefix(prefix): digest
        for name, digest in digests.items()
        if name.startswith(prefix)
    }


def open_artifact(
    kind: Kind,
    root: files.PathLike,
    fields: Iterable[str] = (),
    file: Path | None = None,
    remedy: str = "",
) -> Artifact:
    """Opens an artifact.

    Args:
      kind: what is expected.
      root: its directory.
      fields: that its record must have.
      file: its manifest; `root / kind.file` unless given.
      remedy: what to do where it is damaged; to make it again, unless given.

    Raises:
      InputError: none there, damaged, of another release, or not what `kind.command` writes.
    """
    root = Path(root)
    file = root / kind.file if file is None else file
    if not file.is_file():
        raise InputError(
            f"{file.parent} holds no {kind.what} (no {file.name}). Expected the --{kind.flag} of "
            f"`interactrank {kind.command}`."
        )
    again = f"make {root} again, by `interactrank {kind.command}` with a new --{kind.flag}"
    try:
        value = files.read_json(file)
        version = value.get(_VERSION) if isinstance(value, dict) else None
        if isinstance(value, dict) and version != kind.version:
            raise InputError(f"{file}: format_version is {version}, expected {kind.version}.")
        record = files.read_sealed(file)
    except InputError as error:
        raise InputError(f"{error} This release cannot read it: {remedy or again}.") from error
    record.pop(_VERSION)
    digests = record.pop(_FILES, None)
    if not isinstance(digests, dict) or not set(fields) <= set(record):
        raise InputError(
            f"{file} is not what `interactrank {kind.command}` writes: "
            f"{remedy or 'name another directory'}."
        )
    for name in digests:
        inside(root, name)
    remedy = remedy or f"{again}, or bring the file back from a copy"
    return Artifact(kind, file, root, record, digests, remedy)
