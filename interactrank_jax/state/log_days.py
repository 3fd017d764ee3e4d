"""The days of a log: how many requests each has, and the rows of some of them."""

import ibis
import ibis.expr.types as ir
import numpy as np

from interactrank_jax.log.read import Log
from interactrank_jax.state.days import SECONDS_PER_DAY, day


def requests_per_day(
    log: Log, backend: ibis.BaseBackend, since: int | None = None, until: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the days with requests, ascending, and how many each has."""
    requests = between(log.table("requests", backend), "timestamp", since, until)
    asked = requests.select(day=day(requests.timestamp))
    counts = asked.group_by("day").aggregate(requests=asked.count()).order_by("day")
    table = backend.to_pyarrow(counts)
    return table["day"].to_numpy(), table["requests"].to_numpy()


def between(table: ir.Table, column: str, since: int | None, until: int | None) -> ir.Table:
    """Returns the rows of some days; bounds in seconds, which Parquet's statistics know."""
    if since is not None:
        table = table.filter(table[column] >= since * SECONDS_PER_DAY)
    if until is not None:
        table = table.filter(table[column] < (until + 1) * SECONDS_PER_DAY)
    return table
