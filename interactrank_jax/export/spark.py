"""The scoring station on Spark: each of its workers opens the bundle once, and ranks some requests.

    OUT/scores.parquet/part-*.parquet     the rows of `ranking/requests.py`, a request's together
    OUT/left_out.parquet, metadata.json   as `ranking/requests.py` has them

Requests are spread by a hash of request_id, each with its candidates as a list. All workers must
see the bundle, the requests and OUT.
"""

import functools
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.io import files, interrupts, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.columns import is_string
from interactrank_jax.log.values import concat_tables
from interactrank_jax.ranking.formats import FLOAT32
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.ranking.requests import parquet_files
from interactrank_jax.serving.lists import CANDIDATES
from interactrank_jax.serving.ranking import REQUESTS_AT_ONCE, Ranked
from interactrank_jax.serving.tables import check_columns

REQUESTS_IN_TASK = 10_000
MEMORY = "4GB"
_KIND, _SCORES, _LEFT_OUT, _REPEATED = "kind", "scores", "left_out", "repeated"


class Opened(NamedTuple):
    """What each worker opens: the bundle, how it is scanned, and files of events."""

    bundle: str
    scan: str
    recall: float
    events: tuple[str, ...]


def score_requests(
    bundle: files.PathLike,
    requests: files.PathLike,
    out: files.PathLike,
    *,
    candidates: files.PathLike = "",
    events: files.PathLike = "",
    k: int = 500,
    verify: bool = False,
    scan: str = FLOAT32,
    recall: float = 1.0,
    memory: str = MEMORY,
    master: str = "",
) -> dict[str, Any]:
    """Ranks the requests of Parquet files as `requests.score_requests` does, on Spark.

    Args:
      bundle, requests, out, candidates, events, k, verify: see `requests.score_requests`.
      scan, recall: see `Ranker`.
      memory: of Spark's driver, such as '4GB'.
      master: URL of a cluster; '' for what SPARK_REMOTE names, or else this machine.

    Returns:
      See `requests.score_requests`.

    Raises:
      InputError: files that are no Parquet, or do not fit the bundle; no Spark or Java.
    """
    from interactrank_jax.state import engines

    if k < 1:
        raise InputError(f"--k={k}. Expected at least 1 item per request.")
    outputs.output_directory(
        out, *(path for path in (bundle, requests, candidates, events) if path)
    )
    engines.check_flags("spark", memory, master)
    ranker = Ranker(bundle, verify=verify, scan=scan, recall=recall)
    listed, empty = _checked(ranker, requests, candidates)
    schema = _rows(ranker.rank_fully(empty)).schema
    paths = tuple(map(str, parquet_files(events, "--events"))) if events else ()
    left_out = ranker.ranking.read_events(_read(paths))[1] if events else {}
    # Its directory, links followed: all workers open the same one, whatever a link names by then.
    opened = Opened(str(ranker.bundle.path), scan, recall, paths)
    rank = functools.partial(_rank_batches, opened=opened, k=k)
    with interrupts.deferred(), outputs.new_directory(out) as directory:
        with engines.connect("spark", directory / "scratch", memory, master) as backend:
            try:
                count = _rank_on_spark(backend, listed, rank, schema, directory / "ranked")
            except engines.errors(backend) as error:
                message = re.search(r"InputError: (.*)", str(error))
                if message is None:
                    raise
                raise InputError(message[1]) from error
        counts: dict[str, Any] = {"requests": count} | _collect(directory, schema)
        counts |= {f"events left out: {reason}": number for reason, number in left_out.items()}
        counts["protocol"] = ranker.bundle["protocol"]
        record = {"bundle": str(ranker.bundle["fingerprint"]), "as_of": ranker.bundle["as_of"]}
        files.write_json(directory / "metadata.json", {**record, "k": k, **counts})
    return counts


def _checked(
    ranker: Ranker, requests: files.PathLike, candidates: files.PathLike
) -> tuple[dict[str, list[Path]], pa.Table]:
    """Returns the files of requests and candidates, whose columns are right, and no requests."""
    listed = {"requests": parquet_files(requests, "--requests")}
    if candidates:
        listed["candidates"] = parquet_files(candidates, "--candidates")
    schemas = {}
    for name, paths in listed.items():
        schemas[name] = pq.read_schema(paths[0]).remove_metadata()
        for path in paths[1:]:
            if pq.read_schema(path).remove_metadata() != schemas[name]:
                raise InputError(
                    f"--{name}: {path} has other columns than {paths[0]}, or of other types. Spark "
                    f"would read it as that: write them alike."
                )
    empty = schemas["requests"].empty_table()
    ranker.ranking.encoder.check(empty)
    if candidates:
        kind = schemas["requests"].field("request_id").type
        types = {"request_id": kind, "item_id": ranker.bundle.items.type}
        table = schemas["candidates"].empty_table()
        check_columns(table, {"request_id": "id", "item_id": "id"}, types, "candidates")
    return listed, empty


def _rank_on_spark(
    backend: Any, listed: dict[str, list[Path]], rank: Any, schema: pa.Schema, directory: Path
) -> int:
    """Ranks, and writes what the workers give below DIRECTORY/kind=KIND; returns the requests."""
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()
    at_once = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = session.conf.get(at_once) or "10000"  # Spark's own
    session.conf.set(at_once, str(REQUESTS_AT_ONCE))
    try:
        return _rank_in_session(session, backend, listed, rank, schema, directory)
    finally:
        session.conf.set(at_once, before)


def _rank_in_session(
    session: Any,
    backend: Any,
    listed: dict[str, list[Path]],
    rank: Any,
    schema: pa.Schema,
    directory: Path,
) -> int:
    """Does what `_rank_on_spark` says in a session."""
    from pyspark.sql.pandas.types import from_arrow_schema

    from interactrank_jax.log import engine_paths

    tables = {
        name: session.read.parquet(*(engine_paths.to_read(backend, path) for path in paths))
        for name, paths in listed.items()
    }
    requests = tables["requests"]
    count = requests.count()
    if requests.select("request_id").distinct().count() != count:
        raise InputError(
            "requests: values of 'request_id' are there more than once, or absent. Expected each "
            "once."
        )
    if "candidates" in tables:
        requests = _with_lists(requests, tables["candidates"])
    parts = max(-(-count // REQUESTS_IN_TASK), session.sparkContext.defaultParallelism)
    ranked = requests.repartition(parts, "request_id").mapInArrow(rank, from_arrow_schema(schema))
    # In this order Spark need not sort by the kind again, which could mix a request's rows.
    ordered = ranked.sortWithinPartitions(_KIND, "request_id", "rank")
    target = engine_paths.to_write(backend, directory)
    ordered.write.partitionBy(_KIND).parquet(target)
    return count


def _with_lists(requests: Any, candidates: Any) -> Any:
    """Returns requests with their candidates in a list column."""
    from pyspark.sql import functions

    candidates = candidates.select("request_id", "item_id")
    if absent := candidates.where("request_id IS NULL OR item_id IS NULL").count():
        raise InputError(
            f"candidates: column 'request_id' or 'item_id' has no value in {absent:,} rows. "
            f"Expected a value in every row: fill them in."
        )
    strangers = candidates.join(requests, "request_id", "left_anti")
    if first := strangers.head():
        raise InputError(
            f"candidates: {strangers.count():,} rows are of requests that are not there, for "
            f"example {first['request_id']!r}. Expected request_ids of the requests."
        )
    items = functions.collect_list("item_id").alias(CANDIDATES)
    listed = candidates.groupBy("request_id").agg(items)
    return requests.drop(CANDIDATES).join(listed, "request_id", "left")


def _rank_batches(
    batches: Iterable[pa.RecordBatch], opened: Opened, k: int
) -> Iterator[pa.RecordBatch]:
    """Ranks the requests that a worker is handed."""
    ranker, fresh = _opened(opened)
    for batch in batches:
        requests = pa.Table.from_batches([batch])
        for ranked in ranker.ranking.rank_in_parts(requests, None, fresh, k):
            yield from _rows(ranked).to_batches()


@functools.lru_cache(maxsize=1)  # of a worker's process, which ranks part after part
def _opened(opened: Opened) -> tuple[Ranker, Any]:
    ranker = Ranker(opened.bundle, scan=opened.scan, recall=opened.recall)
    fresh = ranker.ranking.read_events(_read(opened.events))[0] if opened.events else None
    return ranker, fresh


def _read(paths: Iterable[str]) -> pa.Table:
    return concat_tables([pq.ParquetFile(path).read() for path in paths])


def _rows(ranked: Ranked) -> pa.Table:
    """Returns all that some requests became as one table.

    Its column `kind` tells scores, candidates that were left out, which have no rank, and one row
    without a request, whose rank is how many candidates came again.
    """
    repeated = pa.table({"rank": pa.array([ranked.repeated], pa.int32())})
    parts = [
        table.append_column(_KIND, pa.array([kind] * len(table), pa.string()))
        for kind, table in (
            (_SCORES, ranked.table),
            (_LEFT_OUT, ranked.left_out),
            (_REPEATED, repeated),
        )
    ]
    whole = pa.concat_tables(parts, promote_options="default")
    plain = [
        pa.field(field.name, pa.string() if is_string(field.type) else field.type)
        for field in whole.schema
    ]
    return whole.cast(pa.schema(plain))


def _collect(directory: Path, schema: pa.Schema) -> dict[str, int]:
    """Moves what the workers wrote to its places; returns how many rows there are of what."""
    ranked = directory / "ranked"
    columns = schema.remove(schema.get_field_index(_KIND))
    parts = {
        kind: sorted((ranked / f"{_KIND}={kind}").glob("*.parquet"))
        for kind in (_SCORES, _LEFT_OUT, _REPEATED)
    }
    counts = {"rows": 0, "left out": 0, "repeated": 0}
    (directory / "scores.parquet").mkdir()
    for number, path in enumerate(parts[_SCORES]):
        counts["rows"] += pq.read_metadata(path).num_rows
        path.replace(directory / "scores.parquet" / f"part-{number:05}.parquet")
    if not parts[_SCORES]:
        pq.write_table(columns.empty_table(), directory / "scores.parquet" / "part-00000.parquet")
    names = ["request_id", "item_id"]
    with pq.ParquetWriter(
        directory / "left_out.parquet", pa.schema([columns.field(name) for name in names])
    ) as writer:
        for path in parts[_LEFT_OUT]:
            table = pq.ParquetFile(path).read(columns=names)
            writer.write_table(table.cast(writer.schema))
            counts["left out"] += len(table)
    for path in parts[_REPEATED]:
        counts["repeated"] += int(np.sum(pq.ParquetFile(path).read(columns=["rank"])["rank"]))
    shutil.rmtree(ranked)
    return counts
