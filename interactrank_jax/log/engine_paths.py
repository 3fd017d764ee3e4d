"""Where a path meets an engine, which would take it for a pattern: DuckDB, or Spark.

A path is one file or directory and no other, whatever characters are in it. Everything that hands a
path to an engine asks here for the text that means it.
"""

import codecs
import locale
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError

SPARK = "pyspark"  # the backend's name


def to_read(backend: ibis.BaseBackend, path: files.PathLike) -> str:
    """Returns what an engine reads as this one path.

    Raises:
      InputError: the engine cannot be told of it.
    """
    if backend.name == SPARK:
        text = _absolute(path, is_spark=True)
        if text.rpartition("/")[2].startswith((".", "_")):
            raise InputError(
                f"{path}: Spark skips files whose name begins with a dot or an underscore. Rename "
                f"it, or use --engine=duckdb."
            )
        return re.sub(r"([*?\[\]{}\\])", r"\\\1", text)  # as Hadoop's file systems unescape it
    return duckdb_to_read(path)


def duckdb_to_read(path: files.PathLike) -> str:
    """Returns what DuckDB reads as this one path.

    Raises:
      InputError: DuckDB cannot be told of it.
    """
    text = _absolute(path, is_spark=False)
    if "\\" in text:
        raise InputError(
            f"{path}: DuckDB cannot read a path with a backslash. Rename the file or directory."
        )
    return re.sub(r"([*?\[])", r"[\1]", text)  # a class of one character


def to_write(backend: ibis.BaseBackend, path: files.PathLike) -> str:
    """Returns what an engine writes to as this one path.

    Raises:
      InputError: the engine cannot be told of it.
    """
    text = _absolute(path, is_spark=backend.name == SPARK)
    # Ibis puts the path as Python would write it into DuckDB's statement.
    if backend.name != SPARK and repr(text)[1:-1] != text:
        raise InputError(
            f"{path}: DuckDB cannot write to a path with a backslash, a control character, an "
            f"unprintable one, or both kinds of quotes. Choose another directory."
        )
    return text


def _absolute(path: files.PathLike, is_spark: bool) -> str:
    absolute = Path(path).absolute()
    # Hadoop would drop `a/..` by the text, which is wrong where `a` is a link.
    text = str(absolute.resolve() if ".." in absolute.parts else absolute)
    encoding = "utf-8"
    if is_spark and codecs.lookup(locale.getencoding()).name != encoding:
        encoding = locale.getencoding()  # Java's, for names of files
    try:
        text.encode(encoding)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{text!r} has characters that {encoding}, in which the engine names files, has not: "
            f"rename the file or directory, or set the environment variable LC_ALL to C.UTF-8."
        ) from error
    return text


def read_parquet(
    backend: ibis.BaseBackend,
    paths: Sequence[Path],
    types: Mapping[str, pa.DataType] | None = None,
) -> ir.Table:
    """Returns the rows of some Parquet files that all have the same columns.

    Args:
      backend: that reads them.
      paths: of the files, at least one.
      types: the columns to read and their Arrow types; None for all.

    Raises:
      InputError: a path or a type that the engine cannot read.
    """
    texts = [to_read(backend, path) for path in paths]
    if backend.name != SPARK:
        # A directory may be called country=de: the path is no column.
        table = backend.read_parquet(texts, hive_partitioning=False)
        return table if types is None else table.select(list(types))
    from pyspark.sql import SparkSession

    # A session is active in the thread that began it, and the default one in all others.
    session = SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()
    reader = session.read
    if types is not None:
        # Spark refuses a file whole if it cannot read a single column, asked for or not.
        typed = (f"`{name}` {_spark_type(kind, name, paths[0])}" for name, kind in types.items())
        reader = reader.schema(", ".join(typed))
    view = f"interactrank_{uuid.uuid4().hex}"  # ibis reads one path only
    reader.parquet(*texts).createOrReplaceTempView(view)
    return backend.table(view)


_SPARK_TYPES = {
    **{pa.bool_(): "boolean", pa.string(): "string", pa.large_string(): "string"},
    **{pa.int8(): "tinyint", pa.int16(): "smallint", pa.int32(): "int", pa.int64(): "bigint"},
    **{pa.uint8(): "smallint", pa.uint16(): "int", pa.uint32(): "bigint"},
    **{pa.uint64(): "decimal(20, 0)", pa.float32(): "float", pa.float64(): "double"},
}


def _spark_type(kind: pa.DataType, name: str, path: Path) -> str:
    """Returns the type that Spark reads a column of a Parquet file as."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"array<{_spark_type(kind.value_type, name, path)}>"
    if kind not in _SPARK_TYPES:
        raise InputError(
            f"{path}: column '{name}' has type {kind}, which Spark cannot read. Convert it, for "
            f"example to float, or use --engine=duckdb."
        )
    return _SPARK_TYPES[kind]
