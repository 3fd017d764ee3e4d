"""Where expressions run: the embedded DuckDB, or Spark on this machine or a cluster."""

import concurrent.futures
import contextlib
import functools
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.io import artifact, files
from interactrank_jax.io.artifact import Artifact
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log import engine_paths, validate
from interactrank_jax.log.read import Log
from interactrank_jax.state.spec import PART

ENGINES = ("duckdb", "spark")
MEMORY = "8GB"


def check_flags(engine: str, memory: str, master: str) -> None:
    """Raises InputError where `connect` would not take what a user named."""
    if engine not in ENGINES:
        raise InputError(f"--engine={engine}." + did_you_mean(engine, ENGINES))
    if master and engine != "spark":
        raise InputError(f"--master={master} is for --engine=spark: leave it out.")
    if not re.fullmatch(r"[1-9][0-9]{0,5}[MGT]B", memory):
        raise InputError(f"--memory={memory}. Expected a number with MB, GB or TB, as 8GB.")


@contextlib.contextmanager
def connect(
    engine: str, scratch: files.PathLike, memory: str = MEMORY, master: str = ""
) -> Iterator[ibis.BaseBackend]:
    """Connects to an engine for the block.

    Args:
      engine: one of ENGINES.
      scratch: directory for what does not fit into memory; made, and removed after the block.
      memory: what the engine may hold there, such as '8GB': of DuckDB, or of Spark's driver on this
        machine. A process is somewhat larger than that.
      master: URL of a Spark cluster, such as 'spark://host:7077'. Without it the environment
        variable SPARK_REMOTE names a Spark Connect server, or else Spark runs in this process.

    Raises:
      InputError: an unknown engine, or Spark or Java is not installed.
    """
    check_flags(engine, memory, master)
    scratch = Path(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        if engine == "duckdb":
            # Without the optimizer: see `read.Log`. Order kept would be rows held in memory.
            backend = ibis.duckdb.connect(
                memory_limit=memory,
                temp_directory=str(scratch),
                disabled_optimizers="statistics_propagation",
                preserve_insertion_order=False,
            )
            with contextlib.closing(backend.con):
                backend.raw_sql("SET enable_progress_bar = false")
                yield backend
        else:
            with _spark(scratch, memory, master) as backend:
                yield backend
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _spark(scratch: Path, memory: str, master: str) -> Iterator[ibis.BaseBackend]:
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise InputError(
            "--engine=spark needs pyspark: pip install -c constraints.txt -e '.[spark]'."
        ) from error
    builder = SparkSession.builder.appName("interactrank").config(
        "spark.sql.session.timeZone", "UTC"
    )
    is_remote = bool(os.environ.get("SPARK_REMOTE")) and not master
    if not is_remote:
        if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
            raise InputError(
                "--engine=spark on this machine needs Java 17 or newer, and there is no `java`. "
                "Install it (Debian: openjdk-17-jre-headless), or name a cluster by --master or "
                "SPARK_REMOTE."
            )
        builder = builder.master(master or "local[*]")
        if not master or master.startswith("local"):
            # The workers' Python is this one, not whichever `python3` is found first.
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        for name, value in {
            "spark.driver.memory": memory.removesuffix("B"),
            "spark.local.dir": str(scratch),
            "spark.sql.warehouse.dir": str(scratch / "warehouse"),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.log.level": "ERROR",
        }.items():
            builder = builder.config(name, value)
        if not master:
            # A task per core, not the 200 of a cluster.
            builder = builder.config("spark.sql.shuffle.partitions", str(2 * (os.cpu_count() or 1)))
    session = builder.getOrCreate()
    try:
        yield ibis.pyspark.connect(session)
    finally:
        session.stop()


def errors(backend: ibis.BaseBackend) -> tuple[type[Exception], ...]:
    """Returns what an engine raises."""
    if backend.name != engine_paths.SPARK:
        return (duckdb.Error,)
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    return PySparkException, Py4JError


def readable(backend: ibis.BaseBackend, log: Log) -> contextlib.AbstractContextManager[None]:
    """Names the file of a log whose bytes the block could not read, if that is what failed.

    Args:
      backend: that reads.
      log: that it reads.

    Raises:
      InputError: a file is damaged.
    """
    return validate.readable(log, errors(backend))


def read_parquet(backend: ibis.BaseBackend, directories: Sequence[Path]) -> ir.Table:
    """Returns the rows of all Parquet files in directories that this process wrote.

    Raises:
      InputError: this machine sees no file in one of them.
    """
    paths: list[Path] = []
    for directory in directories:
        written = sorted(directory.glob("*.parquet"))
        if not written:
            raise InputError(
                f"{directory} holds no Parquet file. Name an --out on a file system that this "
                f"machine and the engine's share, and run it again."
            )
        paths += written
    return engine_paths.read_parquet(backend, paths)


def read_artifact(backend: ibis.BaseBackend, folders: Sequence[tuple[Artifact, str]]) -> ir.Table:
    """Returns the rows of the Parquet files of some folders, which must be as they were written.

    Args:
      backend: that reads them.
      folders: pairs of an artifact and the path of a folder below its root.

    Raises:
      InputError: a file is missing, damaged, one too many, or has other columns than the others.
    """
    pairs = [(opened, name) for opened, folder in folders for name in opened.names(folder)]
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
        list(pool.map(lambda pair: pair[0].check(pair[1]), pairs))
    paths = [opened.root / name for opened, name in pairs if name.endswith(".parquet")]
    if not paths:
        opened, folder = folders[0]
        raise InputError(
            f"{opened.file} names no Parquet file of {folder}: it was made from another kind of "
            f"log. Make it again, by `interactrank {opened.kind.command}` with a new --out."
        )
    columns = [_columns(artifact.file_identity(path.absolute())) for path in paths]
    for path, others in zip(paths, columns, strict=True):
        if others != columns[0]:
            # An engine would read all files as it reads the first.
            root, command = folders[0][0].root, folders[0][0].kind.command
            raise InputError(
                f"{path} has the columns {dict(others)}, {paths[0]} has {dict(columns[0])}: ids or "
                f"segments of the log became of another kind. Make {root} again, by `interactrank "
                f"{command}` with a new --out."
            )
    return engine_paths.read_parquet(backend, paths)


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


def write_parquet(backend: ibis.BaseBackend, rows: ir.Table, directory: Path) -> None:
    """Writes rows as Parquet files into a directory, which must be new."""
    if backend.name == engine_paths.SPARK:
        backend.to_parquet_dir(rows, engine_paths.to_write(backend, directory))
    else:
        directory.mkdir(parents=True)
        backend.to_parquet(rows, engine_paths.to_write(backend, directory / "part.parquet"))


def write_arrow(backend: ibis.BaseBackend, table: pa.Table, directory: Path) -> ir.Table:
    """Hands a table to an engine by a new directory: a cluster sees no memory of this process."""
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, directory / "part.parquet")
    return read_parquet(backend, [directory])


def write_partitioned(
    backend: ibis.BaseBackend, rows: ir.Table, column: str, directory: Path
) -> None:
    """Writes rows into a new directory, those of each value of a column below COLUMN=VALUE/."""
    target = engine_paths.to_write(backend, directory)
    if backend.name == engine_paths.SPARK:
        backend.to_parquet(rows, target, partitionBy=column)
    else:
        directory.parent.mkdir(parents=True, exist_ok=True)
        backend.to_parquet(rows, target, partition_by=column)


def split(
    backend: ibis.BaseBackend, rows: ir.Table, column: str, parts: int, directory: Path
) -> list[ir.Table]:
    """Writes rows into a new directory, in parts that are each read without the others.

    Args:
      backend: where the rows are read.
      rows: to write; for one part they are left where they are.
      column: rows that are alike in it are in one part, in that of the same number as those of
        another table whose column has the same type.
      parts: how many; some may be empty.
      directory: new.

    Returns:
      The rows of each part.

    Raises:
      InputError: not all rows are found again, on a cluster without a common file system.
    """
    if parts == 1:
        return [rows]
    # A hash may be negative.
    number = (rows[column].hash() % parts + parts) % parts
    numbered = rows.mutate(**{PART: number.cast("int32")})
    write_partitioned(backend, numbered, PART, directory)
    places = [directory / f"{PART}={part}" for part in range(parts)]
    found = [read_parquet(backend, [place]) if place.is_dir() else None for place in places]
    sizes = (backend.to_pyarrow(part.count()).as_py() for part in found if part is not None)
    held, written = sum(sizes), backend.to_pyarrow(rows.count()).as_py()
    if held != written:
        raise InputError(
            f"{directory} has {held:,} of the {written:,} rows that were written there. Name an "
            f"--out on a file system that this machine and the engine's share, and run it again."
        )
    # As it was written: what an engine writes may be wider than the expression says.
    empty = next((part for part in found if part is not None), rows).limit(0)
    return [empty if part is None else part for part in found]
