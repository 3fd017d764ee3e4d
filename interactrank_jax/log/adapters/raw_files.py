"""Files of public data sets: where they are, how they are packed, and how their text is encoded."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from interactrank_jax.io.errors import InputError

_SUFFIX = re.compile(r"\.(xz|gz|bz2|zip)$")
# What the codecs raise at bytes that they did not write; zipfile raises the last two for members
# that are encrypted or of a method unknown to it.
_UNREADABLE = (
    *(OSError, EOFError, MemoryError, lzma.LZMAError, zlib.error, zipfile.BadZipFile),
    *(RuntimeError, NotImplementedError),
)
# A header, or a line of MovieLens, ends long before.
_HEAD_BYTES = 1 << 20
# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_SIGNATURES = {
    rb"\xfd7zXZ\x00": "packed by xz",
    rb"\x1f\x8b": "packed by gzip",
    rb"BZh[1-9]1AY&SY": "packed by bzip2",
    rb"PK\x03\x04": "a zip archive",
    rb"\x28\xb5\x2f\xfd": "packed by zstd",
    rb"7z\xbc\xaf\x27\x1c": "a 7z archive",
    rb"Rar!\x1a\x07": "a rar archive",
    rb"PAR1\x15": "a Parquet file",
}
# gzip.open is as strict by itself.
_DECODERS = {".xz": lzma.LZMADecompressor, ".bz2": bz2.BZ2Decompressor}
_CHUNK = 1 << 16


class Folder:
    """Files of a directory, or of a zip archive as downloaded, plain or packed; or one file.

    Hidden files and those that macOS adds to archives (`.DS_Store`, `__MACOSX/`) are not there.

    Attributes:
      path: of the directory or the archive.
      names: from the name of each file, unpacked, to the paths of the files of that name here.

    Raises:
      InputError: there is nothing at `path` (`expected` says what should be), or it is unreadable.
    """

    def __init__(self, path: Path, expected: str):
        self.path = path
        self._expected = expected
        self._is_archive = path.is_file() and zipfile.is_zipfile(path)
        self._subdirectories: list[str] = []
        with _readable(path):
            if path.is_dir():
                entries = [entry for entry in path.iterdir() if _is_data(entry.name)]
                members = [entry.name for entry in entries if entry.is_file()]
                self._subdirectories = [f"{entry.name}/" for entry in entries if entry.is_dir()]
            elif not path.is_file():
                raise InputError(f"{path} does not exist. {expected}")
            elif self._is_archive:
                with zipfile.ZipFile(path) as archive:
                    members = _members(archive)
            else:
                self.path, members = path.parent, [path.name]
        self.names: dict[str, list[str]] = {}
        for member in sorted(members):
            self.names.setdefault(_SUFFIX.sub("", _base(member)), []).append(member)

    def where(self, name: str) -> str:
        """Returns the path of a file by its unpacked name, for messages and for opening.

        Raises:
          InputError: several files have that name once unpacked.
        """
        members = self.names[name]
        if len(members) > 1:
            raise InputError(
                f"{self.path} holds {' and '.join(members)}, which are both {name}. Expected one "
                f"of them: remove the others."
            )
        return f"{self.path}/{members[0]}"

    def nothing(self) -> InputError:
        """Returns the error that what is here is not what was expected."""
        names = [*sorted(self.names), *sorted(self._subdirectories)]
        listed = ", ".join(names[:8]) or "nothing"
        return InputError(f"{self.path} holds {listed}. {self._expected}")

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Opens a file by its unpacked name, unpacked.

        Raises:
          InputError: several files of that name, a `.zip` that does not hold exactly one file, or,
            here and while the block reads, bytes that are damaged or not what the suffix says.
        """
        where = self.where(name)
        with _readable(where), contextlib.ExitStack() as stack:
            if self._is_archive:
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                packed = stack.enter_context(archive.open(self.names[name][0]))
            else:
                packed = stack.enter_context(Path(where).open("rb"))
            yield stack.enter_context(_unpacked(packed, where))

    def lines(self, name: str, *encodings: str) -> list[str]:
        """Returns the lines of a text file, without line ends and empty lines.

        Args:
          name: of the file, unpacked.
          *encodings: tried in this order where the text has no byte-order mark.

        Raises:
          InputError: see `open`; other encodings, one endless line, or nothing in it.
        """
        where = self.where(name)
        with self.open(name) as file:
            head = read_head(file, where)
            data = head + file.read()
        text = _decoded(data, encodings, where)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            raise InputError(f"{where} is empty.")
        return lines


@contextlib.contextmanager
def _readable(where: str | Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{where} cannot be read ({reason}): it is damaged, cut off, locked by a password or "
            f"not what its suffix says. Download it again, or unpack it yourself."
        ) from error


def _decoded(data: bytes, encodings: Sequence[str], where: str) -> str:
    mark = byte_order_mark(data)
    for encoding in [mark] if mark else encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            problem = error
    raise not_utf_8(where, str(problem))


def _base(member: str) -> str:
    """Returns the name of a member without its folders, which Windows' archivers end otherwise."""
    return PurePosixPath(member.replace("\\", "/")).name


def _is_data(member: str) -> bool:
    parts = PurePosixPath(member.replace("\\", "/")).parts
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _members(archive: zipfile.ZipFile) -> list[str]:
    return [
        member
        for member in archive.namelist()
        if not member.endswith(("/", "\\")) and _is_data(member)
    ]


@contextlib.contextmanager
def _unpacked(packed: IO[bytes], where: str) -> Iterator[IO[bytes]]:
    suffix = Path(where).suffix
    if suffix == ".zip":
        with zipfile.ZipFile(packed) as archive:
            members = _members(archive)
            if len(members) != 1:
                raise InputError(
                    f"{where} holds {len(members)} files. Expected exactly one: unpack it."
                )
            with archive.open(members[0]) as file:
                yield file
    elif suffix == ".gz":
        with gzip.open(packed) as inflated:
            yield cast(IO[bytes], inflated)
    elif suffix in _DECODERS:
        raw = _Inflated(packed, _DECODERS[suffix])
        yield cast(IO[bytes], io.BufferedReader(raw, _CHUNK))
    else:
        yield packed


class _Inflated(io.RawIOBase):
    """Unpacks one stream after another, to the last byte.

    The readers of the standard library take what follows the first stream for padding where they
    cannot read it: one wrong byte, and the rest of a file packed in parts is lost in silence.
    """

    def __init__(self, packed: IO[bytes], decoder: Callable[[], Any]):
        self._packed, self._new_decoder = packed, decoder
        self._decoder = decoder()
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self._decoder.eof:  # zeros may pad a stream
                data = self._decoder.unused_data.lstrip(b"\0")
                while not data and (chunk := self._packed.read(_CHUNK)):
                    data = chunk.lstrip(b"\0")
                if not data:
                    return 0
                self._decoder = self._new_decoder()
            elif self._decoder.needs_input:
                data = self._packed.read(_CHUNK)
                if not data:
                    raise EOFError("it ends in the middle of a stream")
            unpacked = self._decoder.decompress(data, len(buffer))
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)


def read_head(file: IO[bytes], where: str) -> bytes:
    """Reads the first MiB of a text file, which holds its first line.

    Raises:
      InputError: it is no text, or that line does not end.
    """
    head = file.read(_HEAD_BYTES)
    for signature, what in _SIGNATURES.items():
        if re.match(signature, head):
            raise InputError(
                f"{where} is {what}, which its name does not say: rename or unpack it."
            )
    if b"\0" in head and not byte_order_mark(head):
        raise InputError(
            f"{where} is no text: it holds zero bytes. Expected UTF-8, or UTF-16 that begins with "
            f"a byte-order mark; if it is an archive, unpack it."
        )
    if len(head) == _HEAD_BYTES and not re.search(rb"[\r\n]", head):
        raise InputError(
            f"{where}: its first line is longer than {_HEAD_BYTES:,} bytes. Expected one row a "
            f"line."
        )
    return head


def byte_order_mark(head: bytes) -> str | None:
    """Returns the encoding that a byte-order mark at the start of a file stands for."""
    marks = (encoding for mark, encoding in _MARKS.items() if head.startswith(mark))
    return next(marks, None)


def not_utf_8(where: str, detail: str) -> InputError:
    """Returns the error for text of another encoding."""
    return InputError(
        f"{where} is not UTF-8 text ({detail}). Convert it first, for example by `iconv -f "
        f"WINDOWS-1252 -t UTF-8`."
    )


def refuse_repeats(names: Sequence[str], where: str) -> None:
    """Raises InputError if two columns have one name, or names that differ in capitals only."""
    first: dict[str, str] = {}
    for name in names:
        twin = first.setdefault(name.lower(), name)
        if twin is not name:
            raise InputError(
                f"{where}: columns {twin!r} and {name!r} have one name, capitals aside. Expected "
                f"each name once: rename or drop one."
            )
