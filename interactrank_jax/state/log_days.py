"""The days of a log: how many requests and events each has, and the rows of some of them."""

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax.log.read import Log
from interactrank_jax.state.days import SECONDS_PER_DAY, day


def requests_per_day(log: Log, backend: ibis.BaseBackend) -> tuple[np.ndarray, np.ndarray]:
    """Returns the days with requests, ascending, and how many each has."""
    requests = log.table("requests", backend)
    asked = requests.select(day=day(requests.timestamp))
    counts = asked.group_by("day").aggregate(requests=asked.count()).order_by("day")
    table = backend.to_pyarrow(counts)
    return table["day"].to_numpy(), table["requests"].to_numpy()


def rows_per_day(
    log: Log,
    backend: ibis.BaseBackend,
    since: int | None = None,
    until: int | None = None,
    with_events: bool = True,
) -> dict[int, tuple[int, int]]:
    """Returns by day how many requests were made and how many events arrived, copies too.

    Args:
      log: the log, with time.
      backend: where it is read.
      since, until: days.
      with_events: whether events are counted; otherwise there are 0.
    """
    result: dict[int, tuple[int, int]] = {}
    tables = [("requests", "timestamp")]
    if log.has_events and with_events:
        tables.append(("events", "arrival_time"))
    for place, (name, column) in enumerate(tables):
        rows = between(log.table(name, backend), column, since, until)
        days = rows.select(day=day(rows[column]))
        table = backend.to_pyarrow(days.group_by("day").aggregate(rows=days.count()))
        for number, count in zip(table["day"].to_pylist(), table["rows"].to_pylist(), strict=True):
            counts = list(result.get(number, (0, 0)))
            counts[place] = count
            result[number] = (counts[0], counts[1])
    return result


def between(table: ir.Table, column: str, since: int | None, until: int | None) -> ir.Table:
    """Returns the rows of some days; bounds in seconds, which Parquet's statistics know."""
    if since is not None:
        table = table.filter(table[column] >= since * SECONDS_PER_DAY)
    if until is not None:
        table = table.filter(table[column] < (until + 1) * SECONDS_PER_DAY)
    return table
