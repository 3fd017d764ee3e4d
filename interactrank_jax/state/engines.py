"""Where expressions run: the embedded DuckDB, or Spark on this machine or a cluster."""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log import engine_paths, validate
from interactrank_jax.log.schema import Log
from interactrank_jax.state.spec import PART

ENGINES = ("duckdb", "spark")
MEMORY = "8GB"


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
    if engine not in ENGINES:
        raise InputError(f"--engine={engine}." + did_you_mean(engine, ENGINES))
    if master and engine != "spark":
        raise InputError(f"--master={master} is for --engine=spark: leave it out.")
    if not re.fullmatch(r"[1-9][0-9]{0,5}[MGT]B", memory):
        raise InputError(f"--memory={memory}. Expected a number with MB, GB or TB, as 8GB.")
    scratch = Path(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        if engine == "duckdb":
            # Without the optimizer: see `schema.Log`. Order kept would be rows held in memory.
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
        if not master:
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


def _errors(backend: ibis.BaseBackend) -> tuple[type[Exception], ...]:
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
    return validate.readable(log, _errors(backend))


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


def write_parquet(backend: ibis.BaseBackend, rows: ir.Table, directory: Path) -> None:
    """Writes rows as Parquet files into a directory, which must be new."""
    if backend.name == engine_paths.SPARK:
        backend.to_parquet_dir(rows, engine_paths.to_write(backend, directory))
    else:
        directory.mkdir(parents=True)
        backend.to_parquet(rows, engine_paths.to_write(backend, directory / "part.parquet"))


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
    target = engine_paths.to_write(backend, directory)
    if backend.name == engine_paths.SPARK:
        backend.to_parquet(numbered, target, partitionBy=PART)
    else:
        directory.parent.mkdir(parents=True, exist_ok=True)
        backend.to_parquet(numbered, target, partition_by=PART)
    places = [directory / f"{PART}={part}" for part in range(parts)]
    found = [read_parquet(backend, [place]) if place.is_dir() else None for place in places]
    sizes = (backend.to_pyarrow(part.count()).as_py() for part in found if part is not None)
    held, written = sum(sizes), backend.to_pyarrow(rows.count()).as_py()
    if held != written:
        raise InputError(
            f"{directory} has {held:,} of the {written:,} rows that were written there. Name an "
            f"--out on a file system that this machine and the engine's share, and run it again."
        )
    return [rows.limit(0) if part is None else part for part in found]
