"""The scoring station for new requests: a bundle, requests and candidates in, SCORES out.

    OUT/scores.parquet           request_id, item_id, rank (from 1), score, probability_HEAD
    OUT/left_out.parquet         request_id, item_id of candidates that the bundle does not know
    OUT/features/                on request: what scores were made of, named as in examples
    OUT/metadata.json            the bundle, and how many of what

Requests and candidates are cut into parts by a hash of request_id, so that memory holds one part
and the fresh events, however many there are.
"""

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from interactrank_jax.examples.vocabulary import stable_hash
from interactrank_jax.io import files, interrupts, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.values import as_values, concat_tables
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.lists import CANDIDATES
from interactrank_jax.serving.ranking import Ranked

REQUESTS_IN_PART, ROWS_IN_PART = 100_000, 4_000_000
ROWS_AT_ONCE = 1 << 17
MOST_PARTS = 256  # each is a file that is open while they are cut
_NAMES = {"history_item", "query_history_item"}  # rows of items, written as ids


def score_requests(
    bundle: files.PathLike,
    requests: files.PathLike,
    out: files.PathLike,
    *,
    candidates: files.PathLike = "",
    events: files.PathLike = "",
    k: int = 500,
    log_features: bool = False,
    verify: bool = False,
    open_ranker: Callable[..., Any] = Ranker,
) -> dict[str, Any]:
    """Ranks the requests of Parquet files.

    Args:
      bundle: what `export` wrote.
      requests: a Parquet file or a directory of some: raw requests.
      out: a new directory.
      candidates: the same of candidates, request_id and item_id; '': the requests' list column
        `candidates`, or else the whole corpus.
      events: the same of what users did since the bundle's day began; ''.
      k: items kept of each request.
      log_features: whether features are written too.
      verify: whether every file of the bundle is compared with its digest, and its golden requests
        are ranked, before any work.
      open_ranker: opens a bundle.

    Returns:
      How many requests, rows, candidates left out and repeated, events left out by reason, and the
      protocol of the model's training in words.

    Raises:
      InputError: files that are no Parquet, or do not fit the bundle.
    """
    if k < 1:
        raise InputError(f"--k={k}. Expected at least 1 item per request.")
    if log_features and not candidates and CANDIDATES not in _columns(requests, "--requests"):
        raise InputError("--log_features needs candidates: those of the whole corpus are too many.")
    sources = [path for path in (bundle, requests, candidates, events) if path]
    outputs.output_directory(out, *sources)
    ranker = open_ranker(bundle, verify=verify)
    fresh, left_out = None, {}
    if events:
        fresh, left_out = ranker.ranking.read_events(_read(parquet_files(events, "--events")))
    counts: dict[str, Any] = {"requests": 0, "rows": 0, "left out": 0, "repeated": 0}
    with interrupts.deferred(), outputs.new_directory(out) as directory:
        parts = _parts(requests, candidates, directory / "scratch")
        total = _rows(parquet_files(requests, "--requests"))
        bar = tqdm(total=total, unit=" requests", desc="score", disable=None)
        with contextlib.closing(_Writers(directory, ranker.bundle, log_features)) as writers, bar:
            for asked, listed in parts:
                ranked_parts = ranker.ranking.rank_in_parts(asked, listed, fresh, k, log_features)
                for ranked in ranked_parts:
                    interrupts.check()
                    writers.write(ranked)
                    counts["requests"] += len(ranked.requests)
                    counts["rows"] += len(ranked.table)
                    counts["left out"] += len(ranked.left_out)
                    counts["repeated"] += ranked.repeated
                    bar.update(len(ranked.requests))
        counts |= {f"events left out: {reason}": count for reason, count in left_out.items()}
        counts["protocol"] = ranker.bundle["protocol"]
        record = {"bundle": str(ranker.bundle["fingerprint"]), "as_of": ranker.bundle["as_of"]}
        files.write_json(directory / "metadata.json", {**record, "k": k, **counts})
    return counts


class _Writers:
    """The Parquet files of SCORES, each begun with its first rows."""

    def __init__(self, directory: Path, bundle: Bundle, with_features: bool):
        self._directory, self._bundle, self._with_features = directory, bundle, with_features
        self._writers: dict[str, pq.ParquetWriter] = {}

    def write(self, ranked: Ranked) -> None:
        """Writes what some requests became."""
        self._write("scores", ranked.table)
        self._write("left_out", ranked.left_out)
        if self._with_features and ranked.candidates is not None:
            self._write("features/requests", self._requests(ranked))
            self._write("features/candidates", self._candidates(ranked))

    def _write(self, name: str, table: pa.Table) -> None:
        if name not in self._writers:
            path = self._directory / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True)
            self._writers[name] = pq.ParquetWriter(path, table.schema)
        self._writers[name].write_table(table)

    def _requests(self, ranked: Ranked) -> pa.Table:
        columns: dict[str, Any] = {"request_id": ranked.requests.ids}
        for name, values in ranked.requests.arrays.items():
            if name in _NAMES:
                ids = self._bundle.ids_of(values.reshape(-1))
                columns[name] = pa.FixedSizeListArray.from_arrays(ids, values.shape[1])
            elif values.ndim == 1:
                columns[name] = values
            else:
                flat = pa.array(values.reshape(-1))
                columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        return pa.table({name: values for name, values in columns.items() if _has_width(values)})

    def _candidates(self, ranked: Ranked) -> pa.Table:
        assert ranked.candidates is not None
        request, row = ranked.candidates["request"], ranked.candidates["row"]
        cross = ranked.candidates["cross"]
        return pa.table(
            {
                "request_id": ranked.requests.ids.take(pa.array(request)),
                "item_id": self._bundle.ids_of(row),
                **dict(zip(self._bundle.cross.names, cross.T, strict=True)),
            }
        )

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()


def _has_width(values: Any) -> bool:
    return not (isinstance(values, pa.FixedSizeListArray) and values.type.list_size == 0)


def _parts(
    requests: files.PathLike, candidates: files.PathLike, scratch: Path
) -> Iterator[tuple[pa.Table, pa.Table | None]]:
    """Yields requests with their candidates, so many that they fit into memory."""
    paths = {"requests": parquet_files(requests, "--requests")}
    if candidates:
        paths["candidates"] = parquet_files(candidates, "--candidates")
    sizes = {name: _rows(listed) for name, listed in paths.items()}
    parts = max(
        -(-sizes["requests"] // REQUESTS_IN_PART), -(-sizes.get("candidates", 0) // ROWS_IN_PART), 1
    )
    if parts == 1:
        tables = {name: _read(listed) for name, listed in paths.items()}
        yield tables["requests"], tables.get("candidates")
        return
    parts = min(parts, MOST_PARTS)
    for name, listed in paths.items():
        for number, path in enumerate(listed):
            _cut(path, parts, scratch / name / f"{number:06}", f"--{name}")
    for part in range(parts):
        files_of = {name: sorted((scratch / name).glob(f"*/{part}.parquet")) for name in paths}
        tables = {name: _read(listed) for name, listed in files_of.items()}
        yield tables["requests"], tables.get("candidates")
    shutil.rmtree(scratch)


def _cut(path: Path, parts: int, directory: Path, flag: str) -> None:
    """Writes the rows of a file as DIRECTORY/PART.parquet, by a hash of request_id."""
    directory.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(contextlib.closing(pq.ParquetFile(path)))
        if "request_id" not in file.schema_arrow.names:
            raise InputError(f"{flag} ({path}): column 'request_id' is missing.")
        writers = [
            stack.enter_context(
                pq.ParquetWriter(directory / f"{number}.parquet", file.schema_arrow)
            )
            for number in range(parts)
        ]
        for batch in file.iter_batches(ROWS_AT_ONCE):
            interrupts.check()
            ids = as_values(batch["request_id"])
            if ids.null_count:
                raise InputError(f"{flag} ({path}): column 'request_id' has rows without one.")
            part = (stable_hash(ids) % np.uint64(parts)).astype(np.int64)
            order, bounds = np.argsort(part, kind="stable"), np.arange(parts + 1)
            table = pa.Table.from_batches([batch]).take(pa.array(order))
            ends = np.searchsorted(part[order], bounds)
            for writer, (first, end) in zip(writers, itertools.pairwise(ends), strict=True):
                writer.write_table(table.slice(first, end - first))


def parquet_files(path: files.PathLike, flag: str) -> list[Path]:
    """Returns a Parquet file, or those of a directory in the order of their names.

    Raises:
      InputError: there is none.
    """
    root = Path(path).absolute()
    listed = sorted(root.glob("*.parquet")) if root.is_dir() else [root]
    if not listed or not all(file.is_file() for file in listed):
        raise InputError(f"{flag}={path}: expected a Parquet file, or a directory of some.")
    for file in listed:
        try:
            pq.read_metadata(file)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{flag}: {file} is no readable Parquet file ({error}).") from error
    return listed


def _columns(path: files.PathLike, flag: str) -> list[str]:
    return pq.read_schema(parquet_files(path, flag)[0]).names


def _rows(listed: list[Path]) -> int:
    return sum(pq.read_metadata(path).num_rows for path in listed)


def _read(listed: list[Path]) -> pa.Table:
    try:
        return concat_tables([pq.ParquetFile(path).read() for path in listed])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{listed[0]} cannot be read ({error}): write it again.") from error
