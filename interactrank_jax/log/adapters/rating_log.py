"""From ratings to a log, for every reader of ratings.

- An impression is a rating that is not neutral: `like` if it is a success, `dislike` if not.
- With time, a request is all that one user rated within one clock hour (UTC), at the start of that
  hour, so that no feature can know what happened inside it; positions follow the order of rating.
  Events are the ratings at their own second, neutral ones too, so that histories are exact.
- Without time, a request is all that one user ever rated, in the order given, and there are no
  events.

Of several ratings of one item in one request the last counts: a neutral one leaves no impression.

Where negatives are drawn (`sampling.py`), they are further impressions, of stage `random`, without
any action, `dislike` included, and no events; ratings are of stage `shown`. A request's impressions
are then in random order, so that no order tells them apart. Ratings of an item that did not yet
exist at the request are events and no impressions: nobody could have ranked it. `created_at` of
items says from when they existed.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters import sampling
from interactrank_jax.log.contract import STAGES
from interactrank_jax.log.negatives import SampledNegatives
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.log.values import group_ids

HOUR = 3_600
ROWS_AT_ONCE = 1 << 20  # impressions written at once
OFTEN = 0.1  # share of rows that is worth a warning
LIKE, DISLIKE, NEUTRAL = 1, -1, 0
_SAMPLED = 2  # of an impression that is no rating
_VERDICTS = {"like": LIKE, "dislike": DISLIKE, "neutral": NEUTRAL}


@dataclasses.dataclass(frozen=True)
class Ratings:
    """N ratings, in any order.

    Attributes:
      user, item: `[N]` rows of the tables of users and items.
      verdict: `[N]` LIKE, DISLIKE or NEUTRAL.
      time: `[N]` UTC seconds; None where the data has no time.
    """

    user: np.ndarray
    item: np.ndarray
    verdict: np.ndarray
    time: np.ndarray | None

    def take(self, rows: np.ndarray) -> "Ratings":
        """Returns some rows (a mask or positions)."""
        time = None if self.time is None else self.time[rows]
        return Ratings(self.user[rows], self.item[rows], self.verdict[rows], time)


def write_log(
    out: files.PathLike,
    features: Sequence[FeatureSpec],
    items: pa.Table,
    users: pa.Table,
    ratings: Ratings,
    has_neutral: bool,
    negatives: SampledNegatives | None = None,
    created: np.ndarray | None = None,
) -> dict[str, int]:
    """Writes the log.

    Args:
      out: a new or empty directory.
      features: of users and items.
      items: `item_id` and the features of items.
      users: `user_id`, `query_id` and the features of users.
      ratings: who rated what.
      has_neutral: whether `neutral` is an action of the log; without time it never is.
      negatives: how negatives are drawn; None for none.
      created: `[items]` UTC seconds when each item came to be; None where that is unknown.

    Returns:
      Rows per table: `items`, `requests`, `impressions`, `events`; with `negatives` also the
      impressions `sampled`, those `lacking` because no more items were left, the ratings
      `too_early` for their item to exist, and the successes `repeated`, of an item that the user
      had before.

    Raises:
      InputError: every rating is too early.
    """
    timeless = ratings.time is None
    if ratings.time is not None:  # ratings of one second stay in the order given
        ratings = ratings.take(np.argsort(ratings.time, kind="stable"))
    actions = ("like", "dislike", *(("neutral",) if has_neutral and not timeless else ()))
    shown = _Impressions.of(ratings)
    counts: dict[str, int] = {}
    if negatives is not None:
        success = ratings.verdict == LIKE
        rows = sampling.Rows.from_columns(ratings.user, ratings.item, success, ratings.time)
        exists = sampling.existence(rows, len(items), created)
        shown, counts = _with_negatives(shown, rows, exists, negatives)
        created = None if timeless else exists
    if created is not None:
        never = created == sampling.NEVER
        items = items.append_column("created_at", pa.array(created, mask=never))
    requests = shown.requests(users)
    tables = {"items": items, "requests": requests}
    if not timeless:
        tables["events"] = _events(items, users, ratings, features)
    with outputs.new_directory(out) as path:
        Schema(tuple(features), actions, timeless, negatives).save(path)
        for name, table in tables.items():
            pq.write_table(table, path / f"{name}.parquet", store_schema=False)
        ids = requests["request_id"], items["item_id"]
        shown.write(path / "impressions.parquet", *ids, actions, has_stages=negatives is not None)
    sizes = {name: len(table) for name, table in tables.items()}
    return {"events": 0} | sizes | {"impressions": len(shown.item)} | counts


@dataclasses.dataclass(frozen=True)
class _Impressions:
    """N impressions of R requests.

    Attributes:
      request: `[N]` ascending.
      item, verdict: `[N]`; a verdict may be `_SAMPLED`.
      hour, user: `[R]`, requests in the order of both; hour is 0 without time.
      timeless: whether there is none.
    """

    request: np.ndarray
    item: np.ndarray
    verdict: np.ndarray
    hour: np.ndarray
    user: np.ndarray
    timeless: bool

    @classmethod
    def of(cls, ratings: Ratings) -> "_Impressions":
        """Makes impressions of ratings, which are in order of time."""
        hour = np.zeros(len(ratings.user), np.int64)
        if ratings.time is not None:
            hour = ratings.time // HOUR
        # The last of each (hour, user, item), which comes first when read backwards; then, a
        # neutral one that replaced another included, what is no impression goes.
        _, last = group_ids((hour[::-1], ratings.user[::-1], ratings.item[::-1]))
        kept = np.sort(len(hour) - 1 - last)
        kept = kept[ratings.verdict[kept] != NEUTRAL]
        rows = (hour[kept], ratings.user[kept], ratings.item[kept], ratings.verdict[kept])
        return cls._grouped(*rows, timeless=ratings.time is None)

    @classmethod
    def _grouped(
        cls,
        hour: np.ndarray,
        user: np.ndarray,
        item: np.ndarray,
        verdict: np.ndarray,
        timeless: bool,
    ) -> "_Impressions":
        request, first = group_ids((hour, user))
        order = np.argsort(request, kind="stable")
        return cls(request[order], item[order], verdict[order], hour[first], user[first], timeless)

    def take(self, rows: np.ndarray) -> "_Impressions":
        """Returns some impressions (a mask), and the requests that have any of them."""
        request = self.request[rows]
        columns = (self.hour[request], self.user[request], self.item[rows], self.verdict[rows])
        return self._grouped(*columns, timeless=self.timeless)

    def requests(self, users: pa.Table) -> pa.Table:
        """Returns the table of requests."""
        requests = users.take(pa.array(self.user))
        ids = pc.cast(requests["user_id"], pa.string())
        if not self.timeless:
            # Hours are digits, so that no dash of a user can be taken for the one before the hour.
            ids = pc.binary_join_element_wise(ids, pa.array(self.hour).cast(pa.string()), "-")
            requests = requests.add_column(0, "timestamp", pa.array(self.hour * HOUR))
        return requests.add_column(0, "request_id", ids)

    def write(
        self,
        file: Path,
        request_ids: pa.ChunkedArray,
        item_ids: pa.ChunkedArray,
        actions: Sequence[str],
        has_stages: bool,
    ) -> None:
        """Writes the impressions, some at a time: their ids need more memory than all else."""
        counts = np.bincount(self.request, minlength=len(self.user))
        start = (np.cumsum(counts) - counts).astype(np.int32)
        stages = np.array([STAGES.index("shown"), STAGES.index("random")])
        with contextlib.ExitStack() as stack:
            writer = None
            for first in range(0, len(self.request), ROWS_AT_ONCE):
                some = slice(first, first + ROWS_AT_ONCE)
                request, verdict = self.request[some], self.verdict[some]
                row = np.arange(first, first + len(request), dtype=np.int32)
                columns = {
                    "request_id": request_ids.take(pa.array(request)),
                    "item_id": item_ids.take(pa.array(self.item[some])),
                    "position": row - start[request],
                }
                columns |= {name: verdict == _VERDICTS[name] for name in actions}
                if has_stages:
                    stage = pa.array(stages[(verdict == _SAMPLED).astype(int)])
                    columns["stage"] = pa.array(STAGES).take(stage)
                table = pa.table(columns)
                if writer is None:
                    writer = stack.enter_context(
                        pq.ParquetWriter(file, table.schema, store_schema=False)
                    )
                writer.write_table(table)


def _with_negatives(
    shown: _Impressions, rows: sampling.Rows, exists: np.ndarray, negatives: SampledNegatives
) -> tuple[_Impressions, dict[str, int]]:
    """Adds negatives to impressions, and leaves out those of items that did not yet exist.

    Returns:
      The impressions, each request's in random order, and what `write_log` counts.
    """
    is_candidate = exists[shown.item] <= shown.hour[shown.request] * HOUR
    if not is_candidate.any():
        raise InputError(
            f"--negatives={negatives.method}:{negatives.per_positive}: every row is the first of "
            f"its item, so none is known to have existed before. Expected items that are taken in "
            f"several hours, or --created=COLUMN of items.*, the time when each came to be."
        )
    too_early = int((~is_candidate).sum())
    shown = shown.take(is_candidate)
    is_positive = shown.verdict == LIKE
    positives = np.bincount(shown.request[is_positive], minlength=len(shown.user))
    request, item = sampling.draw(
        negatives, rows, exists, time=shown.hour * HOUR, user=shown.user, positives=positives
    )
    taken, _ = group_ids((shown.user[shown.request[is_positive]], shown.item[is_positive]))
    counts = {
        "sampled": len(item),
        "lacking": negatives.per_positive * int(positives.sum()) - len(item),
        "too_early": too_early,
        "repeated": len(taken) - int(taken.max(initial=-1)) - 1,
    }
    request = np.concatenate([shown.request, request])
    rng = np.random.default_rng([negatives.seed, 1])
    # A sort by request and 32 random bits.
    keys = request.astype(np.int64) << 32
    keys |= rng.integers(0, 1 << 32, len(request), np.uint32)
    order = np.argsort(keys, kind="stable")
    verdict = np.concatenate([shown.verdict.astype(np.int8), np.full(len(item), _SAMPLED, np.int8)])
    return (
        dataclasses.replace(
            shown,
            request=request[order],
            item=np.concatenate([shown.item, item])[order],
            verdict=verdict[order],
        ),
        counts,
    )


def of_verdicts(ratings: Ratings, counts: Mapping[str, int]) -> dict[str, int]:
    """Returns the `successes`, the `neutral` and the `replaced`, by what `write_log` counted."""
    neutral = int((ratings.verdict == NEUTRAL).sum())
    shown = counts["impressions"] - counts.get("sampled", 0) + counts.get("too_early", 0)
    return {
        "successes": int((ratings.verdict == LIKE).sum()),
        "neutral": neutral,
        "replaced": len(ratings.verdict) - neutral - shown,
    }


def sampling_warnings(counts: Mapping[str, int], per_positive: int) -> list[str]:
    """Returns what users should know of sampled negatives, by what `write_log` counted."""
    asked = counts["sampled"] + counts["lacking"]
    positives = asked // per_positive
    shown = counts["impressions"] - counts["sampled"]
    too_early, lacking, repeated = (counts[k] for k in ("too_early", "lacking", "repeated"))
    remarks = (
        (
            too_early > OFTEN * (shown + too_early),
            f"{too_early:,} of {shown + too_early:,} rows are events but no impressions, for "
            f"nothing says that their item existed before that hour: name a column of items.* that "
            f"does by --created",
        ),
        (
            lacking > OFTEN * asked,
            f"{lacking:,} of {asked:,} negatives are lacking, for few items were left that existed "
            f"and that the user never took",
        ),
        (
            repeated > OFTEN * positives,
            f"{repeated:,} of {positives:,} successes are of an item that the user had before, as "
            f"no negative can be: the history gives them away. Trust recall and corpus_mrr of "
            f"`interactrank evaluate`",
        ),
    )
    return [f"warning: {remark}." for applies, remark in remarks if applies]


def _events(
    items: pa.Table, users: pa.Table, ratings: Ratings, features: Sequence[FeatureSpec]
) -> pa.Table:
    """Returns the events, with the columns that cross features may be segmented by."""
    segments = [
        spec.name for spec in features if (spec.entity, spec.kind) == ("user", "categorical")
    ]
    of_user = users.select(["user_id", "query_id", *segments]).take(pa.array(ratings.user))
    names = np.array(sorted(_VERDICTS, key=_VERDICTS.__getitem__))
    return pa.table(
        {
            "event_id": np.arange(len(ratings.user)),
            **dict(zip(of_user.column_names, of_user.columns, strict=True)),
            "item_id": items["item_id"].take(pa.array(ratings.item)),
            "action": names[ratings.verdict - DISLIKE],
            "event_time": ratings.time,
            "arrival_time": ratings.time,
        }
    )
