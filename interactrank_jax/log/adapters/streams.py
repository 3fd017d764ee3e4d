"""Published logs of many GB: read by DuckDB in streams, never held whole in memory.

DuckDB reads text and JSON itself; Feather (Arrow IPC) files reach it as record batches. What does
not fit into memory is spilled to scratch space beside the log that is being written.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pa_dataset

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.adapters.raw_values import shown
from interactrank_jax.log.engine_paths import duckdb_to_read
from interactrank_jax.log.validate import EARLIEST, LATEST

MEMORY = "4GB"  # of DuckDB, which spills beyond it
_SCRATCH = "scratch"
_LONGEST_LINE = 1 << 24  # bytes of one JSON object


@dataclasses.dataclass(frozen=True)
class Check:
    """Rows of a file that are wrong.

    Attributes:
      column: as its owner calls it.
      bad: SQL, true where a row is wrong.
      what: what is wrong, after the column's name.
      remedy: what the user can do.
    """

    column: str
    bad: str
    what: str
    remedy: str


def present(column: str) -> Check:
    """Returns the check that a column has a value in every row."""
    return Check(
        column,
        f"{quoted(column)} IS NULL",
        "is empty or no number",
        "drop these rows, or download the file again",
    )


def binary(column: str) -> Check:
    """Returns the check that a column is 0 or 1 wherever it has a value."""
    name = quoted(column)
    return Check(
        column, f"{name} NOT IN (0, 1)", "is neither 0 nor 1", "expected a label of 0 or 1"
    )


def quoted(name: str) -> str:
    """Returns a column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Returns a string in SQL."""
    return "'" + text.replace("'", "''") + "'"


def in_time(seconds: str) -> str:
    """Returns SQL that is true where `seconds` are UTC seconds that a log can hold."""
    return f"({seconds} BETWEEN {EARLIEST} AND {LATEST})"


@dataclasses.dataclass(frozen=True)
class Stream:
    """An embedded DuckDB that writes a log.

    Attributes:
      connection: to it.
      out: the log's directory.
    """

    connection: duckdb.DuckDBPyConnection
    out: Path

    def run(self, statement: str, where: str) -> None:
        """Executes a statement.

        Args:
          statement: SQL.
          where: the file it reads, for messages.

        Raises:
          InputError: the file cannot be read.
        """
        with _readable(where):
            self.connection.execute(statement)

    def row(self, query: str, where: str) -> dict[str, Any]:
        """Returns the only row of a query by the names of its columns; arguments as for `run`."""
        with _readable(where):
            result = self.connection.execute(query)
            names = [column[0] for column in result.description]
            (values,) = result.fetchall()
        return dict(zip(names, values, strict=True))

    def check(self, table: str, where: str, checks: Sequence[Check]) -> int:
        """Returns the number of rows; reads them once.

        Args:
          table: name of a table or view.
          where: its file, for messages.
          checks: what no row may be.

        Raises:
          InputError: there are no rows, or some are wrong.
        """
        parts = ["count(*) AS total"]
        for k, check in enumerate(checks):
            parts.append(f"count(*) FILTER (WHERE {check.bad}) AS wrong_{k}")
            value = f"CAST({quoted(check.column)} AS VARCHAR)"
            parts.append(f"any_value({value}) FILTER (WHERE {check.bad}) AS example_{k}")
        values = self.row(f"SELECT {', '.join(parts)} FROM {table}", where)
        total = int(values["total"])
        if not total:
            raise InputError(f"{where} has no rows.")
        for k, check in enumerate(checks):
            if values[f"wrong_{k}"]:
                raise wrong_rows(where, check, values[f"wrong_{k}"], total, values[f"example_{k}"])
        return total

    def write(self, query: str, table: str, where: str, part: str = "part-000000") -> int:
        """Writes the rows of a query as one part of a table of the log; returns how many.

        Args:
          query: SQL.
          table: of the log.
          where: the file it reads, for messages.
          part: name of the part, without suffix.
        """
        directory = self.out / table
        directory.mkdir(exist_ok=True)
        path = literal(str(directory.absolute() / f"{part}.parquet"))
        with _readable(where):
            copied = self.connection.execute(f"COPY ({query}) TO {path} (FORMAT parquet)")
            ((count,),) = copied.fetchall()
        return int(count)

    def refuse_unknown(self, query: str, where: str, column: str, expected: str) -> None:
        """Raises InputError if a query returns any `id`: each is of a row that refers to nothing.

        Args:
          query: SQL whose column `id` holds ids that are not there, as often as they are named.
          where: the file that names them.
          column: in that file.
          expected: where they should be.
        """
        values = self.row(f"SELECT count(*) AS rows, min(id) AS example FROM ({query})", where)
        if values["rows"]:
            raise InputError(
                f"{where}: column '{column}' names {values['rows']:,} ids that are not in "
                f"{expected}, for example {shown(values['example'])}: were files of two releases "
                f"mixed?"
            )


def wrong_rows(where: str, check: Check, wrong: int, total: int, example: Any) -> InputError:
    """Returns the error for rows that fail a check."""
    named = "" if example is None else f", for example {shown(example)}"
    return InputError(
        f"{where}: column '{check.column}' {check.what} in {wrong:,} of {total:,} rows{named}: "
        f"{check.remedy}."
    )


@contextlib.contextmanager
def open_stream(out: Path, keeps_order: bool = False) -> Iterator[Stream]:
    """Yields a DuckDB for the block, with scratch space in the directory `out`.

    Args:
      out: of the log, not yet renamed to its final name.
      keeps_order: whether rows come out in the order of the files.
    """
    scratch = out / _SCRATCH
    scratch.mkdir()
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY,
        "temp_directory": str(scratch),
        "preserve_insertion_order": str(keeps_order).lower(),
    }
    connection = duckdb.connect(str(scratch / "tables.duckdb"), config=config)
    try:
        connection.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        yield Stream(connection, out)
    finally:
        connection.close()
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        if "space" in str(error):  # of the disk: `io/outputs.py` says what to do
            raise OSError(28, str(error)) from error
        raise InputError(f"{where} cannot be read: {_first_line(error)}") from error
    except (duckdb.Error, pa.ArrowException, UnicodeError) as error:
        raise InputError(
            f"{where} cannot be read: {_first_line(error)} Expected the file as its owner "
            f"publishes it: download it again."
        ) from error


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "").strip()
    return line if line.endswith(".") else f"{line}."


def feather_files(files: Sequence[Path], needed: Sequence[str]) -> pa_dataset.Dataset:
    """Opens Feather files (version 2) without reading rows.

    Raises:
      InputError: one is damaged or of version 1, or lacks a needed column.
    """
    for file in files:
        try:
            names = pa_dataset.dataset([str(file)], format="feather").schema.names
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{file} is no Feather file of version 2 ({_first_line(error)}). Expected it as "
                f"pandas' to_feather writes it: download it again, or convert it."
            ) from error
        refuse_missing(str(file), names, needed)
    return pa_dataset.dataset([str(file) for file in files], format="feather")


def refuse_missing(where: str, names: Sequence[str], needed: Sequence[str]) -> None:
    """Raises InputError if a needed column is not among the names."""
    for name in needed:
        if name not in names:
            raise InputError(f"{where} has no column '{name}'." + did_you_mean(name, names))


def json_keys(file: Path) -> list[str]:
    """Returns the keys of the first object of a file with one JSON object a line.

    Raises:
      InputError: it does not begin with one.
    """
    with file.open("rb") as opened:
        line = opened.readline(_LONGEST_LINE)
    if not line.strip():
        raise InputError(f"{file} is empty.")
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"{file}, line 1: {error}. Expected one JSON object a line.") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}, line 1: {shown(value)}. Expected one JSON object a line.")
    return list(value)


def json_rows(files: Sequence[Path], types: Mapping[str, str]) -> str:
    """Returns SQL for the rows of files with one JSON object a line.

    Args:
      files: of one table.
      types: from each key to read to its type in DuckDB; a key that a row lacks is null.
    """
    paths = ", ".join(literal(duckdb_to_read(file)) for file in files)
    columns = ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in types.items())
    return f"read_ndjson([{paths}], columns = {{{columns}}}, maximum_object_size = {_LONGEST_LINE})"
