"""Tables of public data sets: Parquet, or text with a separator, read as it is written.

The columns of a text file are strings here, whatever they hold: `007` is not yet 7. What their
readers make of them is theirs to decide, and to say (`kinds.py`).
"""

import dataclasses
import io
import re
from collections.abc import Collection, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.adapters.raw_files import (
    Folder,
    byte_order_mark,
    not_utf_8,
    read_head,
    refuse_repeats,
)
from interactrank_jax.log.adapters.raw_values import is_text, numbers, parsed, shown
from interactrank_jax.log.values import as_values

SEPARATORS = "\t,;|"
# A row must fit into a block: the first does for most files and needs the least memory.
_BLOCKS = (1 << 20, 1 << 23, 1 << 26)
# How pandas writes down the numbers of its rows: in Parquet; as the first columns of text; and what
# it calls those when it reads and writes them again.
_ROW_NUMBERS = re.compile(r"__index_level_\d+__|Unnamed: \d+(\.\d+)*|")
WRITE_TIMES = "write UTC seconds, or dates and times as in ISO 8601"
_ISO_8601 = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?$"


@dataclasses.dataclass(frozen=True)
class RawTable:
    """A table as read.

    Attributes:
      where: its file, for messages.
      rows: its columns, but for those left out.
      first_row: number that users know the first row by.
      is_text: whether it was text with a separator, and all columns are strings.
      row_numbers: names of columns left out because pandas wrote its row numbers there.
    """

    where: str
    rows: pa.Table
    first_row: int
    is_text: bool
    row_numbers: tuple[str, ...] = ()

    def column(self, name: str) -> pa.Array:
        """Returns a column in one array, dictionaries unwrapped."""
        if name not in self.rows.column_names:
            raise InputError(
                f"{self.where} has no column '{name}'." + did_you_mean(name, self.rows.column_names)
            )
        values = pa.concat_arrays(self.rows[name].chunks)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_string_view(values.type):  # few functions take it
            values = values.cast(pa.large_string())
        try:
            values.validate(full=True)
        except pa.ArrowInvalid as error:
            raise not_utf_8(f"{self.where}: column '{name}'", str(error)) from error
        return values

    def choice(self, name: str, kind: str) -> str:
        """Returns how a user says that a column is of a kind, for messages."""
        return "make it numeric by --schema" if kind == "numeric" else f"--{kind}={name}"

    def ids(self, name: str, optional: bool = False) -> pa.Array:
        """Returns a column of ids: strings as written, or integers where the file has numbers.

        Raises:
          InputError: some are no ids; or, unless `optional`, some are missing.
        """
        values = self.column(name)
        if pa.types.is_floating(values.type):  # as pandas makes of integers if any is missing
            exact = pc.and_(
                pc.equal(values, pc.floor(values)), pc.less_equal(pc.abs(values), 2**53)
            )
            inexact = pc.invert(pc.fill_null(exact, True)).to_numpy(zero_copy_only=False)
            self.refuse(inexact, name, values, "is no id", "write ids as integers or strings")
            values = values.cast(pa.int64())
        try:
            ids = as_values(values)
            written = pc.fill_null(ids.cast(pa.large_string()), "")
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"{self.where}: column '{name}' holds {values.type}. Expected ids that are "
                f"integers or strings."
            ) from error
        empty = pc.equal(written, "").to_numpy(zero_copy_only=False)
        if not optional:
            self.refuse(empty, name, ids, "is empty", "fill it in")
        broken = pc.match_substring_regex(written, "[\r\n]").to_numpy(zero_copy_only=False)
        remedy = "a stray quote before it may have swallowed the rows in between"
        self.refuse(broken, name, ids, "holds a line break", remedy)
        return ids

    def numbers(self, name: str) -> np.ndarray:
        """Returns a column of numbers as float64."""
        return numbers(self.column(name), self.where, f"column '{name}'", first_row=self.first_row)

    def seconds(self, name: str) -> np.ndarray:
        """Returns a column of times as UTC seconds, float64; one without a zone is taken for UTC.

        Times are dates, timestamps, ISO 8601 or UTC seconds.
        """
        values = self.column(name)
        kind = values.type
        if is_text(kind) and parsed(values).null_count:
            values = self._timestamps(name, pc.utf8_trim_whitespace(pc.fill_null(values, "")))
            kind = values.type
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            return np.floor(self.numbers(name))
        zone = getattr(kind, "tz", None)
        seconds = values.cast(pa.timestamp("s", zone), safe=False).cast(pa.int64())
        self.refuse(seconds.is_null().to_numpy(False), name, values, "is empty", "fill it in")
        return seconds.to_numpy().astype(np.float64)

    def _timestamps(self, name: str, text: pa.Array) -> pa.Array:
        iso = pc.match_substring_regex(text, _ISO_8601).to_numpy(zero_copy_only=False)
        if not iso.all():  # then at least one of the rows without a number is at fault
            wrong = parsed(text).is_null().to_numpy(False) & ~iso
            self.refuse(wrong if wrong.any() else ~iso, name, text, "is no time", WRITE_TIMES)
        for zone in (None, "UTC"):
            try:
                return text.cast(pa.timestamp("us", zone))
            except pa.ArrowInvalid as error:
                problem = error
        raise InputError(
            f"{self.where}: column '{name}' holds times that cannot be read together ({problem}). "
            f"Expected a zone in all rows or in none: {WRITE_TIMES}."
        )

    def refuse(self, wrong: np.ndarray, name: str, values: Any, what: str, remedy: str) -> None:
        """Raises InputError if any row is `wrong`."""
        if wrong.any():
            row = int(np.argmax(wrong))
            value = values[row].as_py() if isinstance(values, pa.Array) else values[row].item()
            raise InputError(
                f"{self.where}: column '{name}' {what} in {wrong.sum():,} of {len(wrong):,} rows, "
                f"for example {shown(value)} in row {row + self.first_row}: {remedy}."
            )


def read_table(
    folder: Folder,
    name: str,
    *,
    separator: str = "",
    columns: Sequence[str] = (),
    needed: Collection[str] = (),
) -> RawTable:
    """Reads a table.

    Args:
      folder: where it lies.
      name: of its file, unpacked; `.parquet`, or text by any other name.
      separator: of text, one character; '' to find it.
      columns: names of the columns of text without a header.
      needed: columns to keep even if they look like pandas' row numbers.

    Raises:
      InputError: a file that is damaged, of another encoding or has no rows; columns that repeat.
    """
    where = folder.where(name)
    is_text = not name.lower().endswith(".parquet")
    try:
        if is_text:
            refuse_repeats(columns, "--columns")
            rows = _read_text(folder, name, separator, columns)
        else:
            if columns:
                raise InputError(f"--columns names those of text, but {where} has names itself.")
            with folder.open(name) as file:
                whole = file if file.seekable() else io.BytesIO(file.read())
                rows = pq.ParquetFile(whole, page_checksum_verification=True).read()
    except (pa.ArrowException, UnicodeError) as error:
        if isinstance(error, UnicodeError):
            raise not_utf_8(where, str(error)) from error
        raise InputError(f"{where} cannot be read: {error}") from error
    if not len(rows):
        raise InputError(f"{where} has no rows.")
    rows, left_out = without_row_numbers(rows, where, needed)
    refuse_repeats(rows.column_names, where)
    return RawTable(where, rows, 2 if is_text and not columns else 1, is_text, left_out)


def _read_text(folder: Folder, name: str, separator: str, columns: Sequence[str]) -> pa.Table:
    where = folder.where(name)
    with folder.open(name) as file:
        head = read_head(file, where)
    if not head.strip():
        raise InputError(f"{where} is empty.")
    encoding = byte_order_mark(head) or "utf-8"
    first_line = re.split("[\r\n]", head.decode(encoding, "replace"), maxsplit=1)[0]
    if "\ufffd" in first_line:
        raise not_utf_8(where, "in its first line")
    parse = pa_csv.ParseOptions(
        delimiter=separator or _separator(first_line, len(columns), where), newlines_in_values=True
    )
    for block in _BLOCKS:
        # In one thread, so that errors know their row.
        read = pa_csv.ReadOptions(
            column_names=list(columns) or None,
            use_threads=False,
            block_size=block,
            encoding=encoding,
        )
        try:
            with folder.open(name) as file:
                names = pa_csv.open_csv(file, read, parse).schema.names
            with folder.open(name) as file:
                ended = _Ended(file)
                # UTF-8 is checked where a column is used.
                convert = pa_csv.ConvertOptions(
                    check_utf8=False, column_types=dict.fromkeys(names, pa.large_string())
                )
                rows = pa_csv.read_csv(ended, read, parse, convert)
        except pa.ArrowInvalid as error:
            if "straddl" not in str(error):
                raise
        else:
            ended.refuse_open_quote(rows, where)
            return rows
    raise InputError(
        f"{where} has a row longer than {_BLOCKS[-1]:,} bytes. Is a quotation mark not closed, or "
        f"is a line break missing?"
    )


class _Ended:
    """A file that knows how it ended."""

    closed = False

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._end = b""

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._end = data[-64:] or self._end
        return data

    def refuse_open_quote(self, rows: pa.Table, where: str) -> None:
        """Raises InputError if the last value swallowed lines for want of a closing quote."""
        value = rows.column(rows.num_columns - 1)[-1].as_buffer() if len(rows) else b""
        last = bytes(value).decode("utf-8", "replace")
        if re.search("[\r\n]", last) and not self._end.rstrip(b"\0\r\n\t ").endswith(b'"'):
            lines = last.count("\n") + 1
            raise InputError(
                f"{where}: the last value goes over {lines:,} lines to the end of the file, "
                f"{shown(last)}. A quotation mark is not closed: close or remove it."
            )


def _separator(line: str, columns: int, where: str) -> str:
    unquoted = re.sub(r'"[^"]*"', "", line)
    # Without a header, a decimal comma in the first row is as frequent as what separates.
    fits = [mark for mark in SEPARATORS if columns > 1 and unquoted.count(mark) == columns - 1]
    separator = fits[0] if len(fits) == 1 else max(SEPARATORS, key=unquoted.count)
    if separator not in unquoted:
        raise InputError(
            f"{where}: no separator in its first line, {shown(line.strip())}. Expected a tab, "
            f"comma, semicolon or bar: name another with --separator."
        )
    return separator


def without_row_numbers(
    rows: pa.Table, where: str, needed: Collection[str]
) -> tuple[pa.Table, tuple[str, ...]]:
    """Leaves out pandas' row numbers, and nameless columns without any value."""
    kept: list[int] = []
    left_out: list[str] = []
    for index, name in enumerate(rows.column_names):
        is_leading = not kept
        if name in needed or not _ROW_NUMBERS.fullmatch(name):
            kept.append(index)
        elif name.startswith("__") or (is_leading and _are_counted(rows.column(index))):
            left_out.append(name)
        elif name:
            kept.append(index)
        elif not _is_empty(rows.column(index)):
            raise InputError(
                f"{where}: column {index + 1} has no name. Expected one in its header, or its "
                f"values removed."
            )
    return rows.select(kept), tuple(left_out)


def _are_counted(values: pa.ChunkedArray) -> bool:
    if is_text(values.type):
        return bool(pc.all(pc.match_substring_regex(values, r"^\d+$")).as_py())
    return pa.types.is_integer(values.type)


def _is_empty(values: pa.ChunkedArray) -> bool:
    if is_text(values.type):
        return not pc.any(pc.greater(pc.binary_length(values), 0)).as_py()
    return values.null_count == len(values)
