"""Which impression is in which split, fold and bucket.

A bucket is some of a split's requests whose candidates fit into memory together, about
`BUCKET_CANDIDATES`. Evaluation splits are in the order of requests. The requests of training are
permuted, then cut into buckets, and the examples of a bucket are permuted: so what a training batch
holds does not depend on the order of the log, nor on the memory of a machine.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from interactrank_jax.examples.plan import SPLITS, Plan
from interactrank_jax.examples.requests import Requests, read_column
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import Log
from interactrank_jax.state import engines
from interactrank_jax.state.days import date
from interactrank_jax.state.histories import NO_FOLD
from interactrank_jax.state.spec import BUCKET, QUERY_ROW, REQUEST_ROW

BUCKET_CANDIDATES = 1_000_000
# Streams of random numbers, beside `config.data.seed`; `corpus.py` has another.
_COUNTED_ORDER, _SPLIT, _FOLD, _TRAINING_ORDER = 1, 2, 3, 4


@dataclasses.dataclass(frozen=True)
class Days:
    """Days whose requests become examples, by their numbers.

    Attributes:
      since, until: the first and the last.
      split_since: the requests from this day on are split by time at the plan's fractions, those
        before it are for training. None: nothing is for training, all are the split 'test'.
    """

    since: int
    until: int
    split_since: int | None = None

    def __str__(self) -> str:
        days = f"{date(self.since)} to {date(self.until)}"
        return days if self.split_since is None else f"{days}, split from {date(self.split_since)}"

    def of(self, requests: Requests) -> np.ndarray:
        """Returns which requests are of these days, bool `[R]`."""
        return (requests.day >= self.since) & (requests.day <= self.until)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Some requests of a split.

    Attributes:
      number: among all buckets.
      split: name.
    """

    number: int
    split: str


@dataclasses.dataclass(frozen=True)
class Rows:
    """The impressions that examples are made of.

    Attributes:
      table: columns request_id, `REQUEST_ROW`, `QUERY_ROW` and `BUCKET`; where impressions are
        split at random also item_id, period (the fold, `NO_FOLD` in evaluation) and time (place in
        a shuffled order of those that count).
      buckets: in order.
      requests: by split, the rows of its requests, ascending.
      examples: `[R]` training examples of each request.
      impressions: how many there are.
    """

    table: ir.Table
    buckets: tuple[Bucket, ...]
    requests: dict[str, np.ndarray]
    examples: np.ndarray
    impressions: int

    def __len__(self) -> int:
        return self.impressions

    @property
    def asked(self) -> np.ndarray:
        """Rows of the requests in any split."""
        return np.unique(np.concatenate(list(self.requests.values())))


def split(
    plan: Plan,
    log: Log,
    requests: Requests,
    days: Days | None,
    backend: ibis.BaseBackend,
    scratch: Path,
) -> Rows:
    """Splits the impressions of a log as its protocol says, or takes those of some days.

    Raises:
      InputError: a split is empty.
    """
    if plan.timeless:
        return split_at_random(plan, log, requests, backend, scratch)
    if days is not None and days.split_since is None:
        return split_off_days(plan, requests, days, backend, scratch)
    return split_by_time(plan, requests, days, backend, scratch)


def split_by_time(
    plan: Plan, requests: Requests, days: Days | None, backend: ibis.BaseBackend, scratch: Path
) -> Rows:
    """Splits in order of the requests' time, fractions being of impressions.

    Requests of one second stay together.

    Raises:
      InputError: a split is empty, or no request with impressions is of those days.
    """
    is_taken = is_cut = np.full(len(requests), True)
    if days is not None:
        assert days.split_since is not None
        cut = Days(days.split_since, days.until)
        is_taken, is_cut = days.of(requests), cut.of(requests)
        if not requests.impressions[is_cut].any():
            raise _no_requests(cut)
    sizes = np.where(is_cut, requests.impressions, 0)
    total = int(sizes.sum())
    bounds = np.cumsum(plan.fractions)[:2]
    first = np.minimum(np.round(bounds * total).astype(int), total - 1)
    # The time of the impression at each bound, in the order of time.
    times = requests.timestamp[np.searchsorted(np.cumsum(sizes), first, side="right")]
    # What lies before all that is cut is before the first bound: for training.
    split = np.where(is_taken, np.searchsorted(times, requests.timestamp, side="right"), -1)
    sizes = np.where(is_taken, requests.impressions, 0)
    by_split = np.bincount(split[is_taken], sizes[is_taken], 3)
    _check_sizes(plan, by_split, int((sizes > 0).sum()))
    return _whole_requests(plan, requests, split, SPLITS, backend, scratch)


def split_off_days(
    plan: Plan, requests: Requests, days: Days, backend: ibis.BaseBackend, scratch: Path
) -> Rows:
    """Makes the requests of some days the split 'test', and nothing of all others.

    Raises:
      InputError: no request with impressions is of those days.
    """
    is_asked = days.of(requests)
    if not requests.impressions[is_asked].any():
        raise _no_requests(days)
    split = np.where(is_asked, SPLITS.index("test"), -1)
    return _whole_requests(plan, requests, split, ("test",), backend, scratch)


def _no_requests(days: Days) -> InputError:
    return InputError(
        f"no request with impressions is of {days}: name other days by --since and --until."
    )


def _whole_requests(
    plan: Plan,
    requests: Requests,
    split: np.ndarray,
    names: Sequence[str],
    backend: ibis.BaseBackend,
    scratch: Path,
) -> Rows:
    """Returns the impressions of requests that are each in one split, `[R]`, or in none (-1)."""
    sizes = np.where(split >= 0, requests.impressions, 0)
    split_sizes = np.where(split == np.arange(3)[:, None], sizes, 0)
    buckets, bucket = _cut(split_sizes, plan.seed)
    table = {
        "request_id": requests.column("request_id"),
        REQUEST_ROW: np.arange(len(requests), dtype=np.int32),
        QUERY_ROW: requests.query,
        BUCKET: bucket.max(axis=0),
    }
    asked = sizes > 0
    return Rows(
        engines.write_arrow(backend, pa.table(table).filter(pa.array(asked)), scratch),
        buckets,
        {name: np.flatnonzero(split_sizes[SPLITS.index(name)]) for name in names},
        np.where(split == 0, -(-sizes // plan.slate), 0),
        int(sizes.sum()),
    )


def split_at_random(
    plan: Plan, log: Log, requests: Requests, backend: ibis.BaseBackend, scratch: Path
) -> Rows:
    """Splits impressions at random, seeded, and training into folds of equal size.

    What counts are the training rows, in an order that is shuffled before labels are looked at:
    made from engagements alone, the order itself would tell of labels.

    Raises:
      InputError: a split is empty.
    """
    numbers = pa.table(
        {
            "request_id": requests.column("request_id"),
            REQUEST_ROW: np.arange(len(requests), dtype=np.int32),
        }
    )
    impressions = log.table("impressions", backend).select("request_id", "item_id", "position")
    rows = impressions.inner_join(
        engines.write_arrow(backend, numbers, scratch / "numbers"), "request_id"
    )
    rows = rows.order_by([REQUEST_ROW, "position", "item_id"]).drop("position")
    engines.write_parquet(backend, rows, scratch / "impressions")
    request = read_column(scratch / "impressions", REQUEST_ROW).to_numpy()
    total, seed = len(request), plan.seed
    rank = np.random.default_rng([seed, _SPLIT]).permutation(total)
    bounds = np.round(np.cumsum(plan.fractions)[:2] * total)
    split = np.searchsorted(bounds, rank, side="right").astype(np.int8)
    _check_sizes(plan, np.bincount(split, minlength=3), len(np.unique(request)))
    train = np.flatnonzero(split == 0)
    fold = np.full(total, NO_FOLD, np.int32)
    shuffled = np.random.default_rng([seed, _FOLD]).permutation(len(train))
    fold[train] = shuffled % plan.folds
    time = np.full(total, -1, np.int64)
    time[np.random.default_rng([seed, _COUNTED_ORDER]).permutation(train)] = np.arange(len(train))

    sizes = np.stack(
        [np.bincount(request[split == index], minlength=len(requests)) for index in range(3)]
    )
    buckets, bucket = _cut(sizes, seed)
    table = pa.table(
        {
            "request_id": read_column(scratch / "impressions", "request_id"),
            "item_id": read_column(scratch / "impressions", "item_id"),
            REQUEST_ROW: request,
            QUERY_ROW: requests.query[request],
            BUCKET: bucket[split, request],
            "period": fold,
            "time": time,
        }
    )
    by_fold = np.bincount(
        request[train] * plan.folds + fold[train], minlength=len(requests) * plan.folds
    )
    return Rows(
        engines.write_arrow(backend, table, scratch / "rows"),
        buckets,
        {name: np.flatnonzero(sizes[index]) for index, name in enumerate(SPLITS)},
        (-(-by_fold // plan.slate)).reshape(len(requests), plan.folds).sum(axis=1),
        total,
    )


def _check_sizes(plan: Plan, sizes: np.ndarray, requests: int) -> None:
    if not sizes.all():
        raise InputError(
            f"the {SPLITS[int(np.argmin(sizes))]} split is empty: {int(sizes.sum()):,} impressions "
            f"of {requests:,} requests were split by {'chance' if plan.timeless else 'time'} at "
            f"fractions {plan.fractions}. Use a larger log or other config.data.split.fractions."
        )


def _cut(sizes: np.ndarray, seed: int) -> tuple[tuple[Bucket, ...], np.ndarray]:
    """Cuts the requests of each split into buckets.

    Args:
      sizes: `[splits, R]` impressions of each request in each split.
      seed: of the order of training.

    Returns:
      (the buckets, `[splits, R]` the bucket of each request, -1 for none).
    """
    buckets: list[Bucket] = []
    bucket = np.full(sizes.shape, -1, np.int32)
    for index, name in enumerate(SPLITS):
        requests = np.flatnonzero(sizes[index])
        if name == "train":
            order = np.random.default_rng([seed, _TRAINING_ORDER]).permutation(len(requests))
            requests = requests[order]
        before = np.cumsum(sizes[index, requests]) - sizes[index, requests]
        cut = before // BUCKET_CANDIDATES
        _, number = np.unique(cut, return_inverse=True)  # a large request may skip a cut
        bucket[index, requests] = len(buckets) + number
        buckets += [Bucket(len(buckets) + k, name) for k in range(number.max(initial=-1) + 1)]
    return tuple(buckets), bucket


def example_order(bucket: Bucket, examples: int, seed: int) -> np.ndarray:
    """Returns the order in which the examples of a bucket are written, `[E]`."""
    if bucket.split != "train":
        return np.arange(examples)
    return np.random.default_rng([seed, _TRAINING_ORDER, bucket.number]).permutation(examples)
