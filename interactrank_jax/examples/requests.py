"""The requests of a log in one order, numbered: what everything else is joined by.

The order is that of their times and then of their ids; of ids alone where time is not looked at. It
does not depend on how the log's files are cut.
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.log.read import Log
from interactrank_jax.log.values import as_values
from interactrank_jax.state import engines
from interactrank_jax.state.days import SECONDS_PER_DAY

ROWS_AT_ONCE = 1 << 19
COUNT = "impressions:count"  # no column of a log has a colon in its name


@dataclasses.dataclass(frozen=True)
class Requests:
    """The requests of a log: a request is known by its row.

    Attributes:
      path: directory of Parquet files with the R rows, in order.
      user, query: `[R]` position of the id in `users`, `queries`.
      users, queries: distinct ids.
      timestamp: `[R]` UTC seconds; zeros where time is not looked at.
      impressions: `[R]` how many were logged.
    """

    path: Path
    user: np.ndarray
    query: np.ndarray
    users: pa.Array
    queries: pa.Array
    timestamp: np.ndarray
    impressions: np.ndarray

    def __len__(self) -> int:
        return len(self.timestamp)

    @functools.cached_property
    def day(self) -> np.ndarray:
        """`[R]` UTC day number, int32."""
        return (self.timestamp // SECONDS_PER_DAY).astype(np.int32)

    def batches(self) -> Iterator[tuple[int, pa.Table]]:
        """Yields the row of the first request and the columns of some, in order."""
        first = 0
        for path in sorted(self.path.glob("*.parquet")):
            for batch in pq.ParquetFile(path).iter_batches(ROWS_AT_ONCE):
                table = pa.Table.from_batches([batch]).drop_columns(COUNT)
                yield first, table
                first += len(table)

    def column(self, name: str) -> pa.Array:
        """Returns one column of all requests, as `values.as_values` has it."""
        return as_values(read_column(self.path, name))


def read_column(directory: Path, name: str) -> pa.ChunkedArray:
    """Returns a column of the Parquet files in a directory, in their order."""
    # Absolute: Arrow takes a colon in a relative path for the end of a URL's scheme.
    paths = sorted(directory.absolute().glob("*.parquet"))
    return pa.concat_tables([pq.read_table(path, columns=[name]) for path in paths])[name]


def read_requests(log: Log, timeless: bool, backend: ibis.BaseBackend, scratch: Path) -> Requests:
    """Puts the requests of a validated log in order.

    Args:
      log: the log.
      timeless: whether their time is not looked at.
      backend: that reads it.
      scratch: a new directory for them.
    """
    requests, impressions = log.table("requests", backend), log.table("impressions", backend)
    counts = impressions.group_by("request_id").aggregate(**{COUNT: impressions.count()})
    rows = requests.left_join(counts, "request_id").drop("request_id_right")
    rows = rows.mutate(**{COUNT: rows[COUNT].fill_null(0)})
    order = ["request_id"] if timeless else ["timestamp", "request_id"]
    engines.write_parquet(backend, rows.order_by(order), scratch)
    user, query = (_encode(read_column(scratch, name)) for name in ("user_id", "query_id"))
    impression_counts = read_column(scratch, COUNT).to_numpy()
    if timeless:
        timestamp = np.zeros(len(impression_counts), np.int64)
    else:
        timestamp = read_column(scratch, "timestamp").to_numpy().astype(np.int64)
    return Requests(scratch, user[0], query[0], user[1], query[1], timestamp, impression_counts)


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Returns codes `[R]` and distinct values."""
    encoded = pc.dictionary_encode(as_values(column))
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return codes.astype(np.int32, copy=False), encoded.dictionary
