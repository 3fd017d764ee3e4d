"""From ratings to a log, for every reader of ratings.

- An impression is a rating that is not neutral: `like` if it is a success, `dislike` if not.
- With time, a request is all that one user rated within one clock hour (UTC), at the start of that
  hour, so that no feature can know what happened inside it; positions follow the order of rating.
  Events are the ratings at their own second, neutral ones too, so that histories are exact.
- Without time, a request is all that one user ever rated, in the order given, and there are no
  events.

Of several ratings of one item in one request the last counts: a neutral one leaves no impression.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.io import files, outputs
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.log.values import group_ids

HOUR = 3_600
LIKE, DISLIKE, NEUTRAL = 1, -1, 0
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
) -> dict[str, int]:
    """Writes the log.

    Args:
      out: a new or empty directory.
      features: of users and items.
      items: `item_id` and the features of items.
      users: `user_id`, `query_id` and the features of users.
      ratings: who rated what.
      has_neutral: whether `neutral` is an action of the log; without time it never is.

    Returns:
      Rows per table: `items`, `requests`, `impressions`, `events`.
    """
    timeless = ratings.time is None
    if ratings.time is not None:  # ratings of one second stay in the order given
        ratings = ratings.take(np.argsort(ratings.time, kind="stable"))
    actions = ("like", "dislike", *(("neutral",) if has_neutral and not timeless else ()))
    tables = {"items": items, **_requests_and_impressions(items, users, ratings, actions)}
    if not timeless:
        segments = [
            spec.name for spec in features if (spec.entity, spec.kind) == ("user", "categorical")
        ]
        tables["events"] = _events(items, users, ratings, segments)
    with outputs.new_directory(out) as path:
        Schema(tuple(features), actions, timeless).save(path)
        for name, table in tables.items():
            pq.write_table(table, path / f"{name}.parquet", store_schema=False)
    return {"events": 0} | {name: len(table) for name, table in tables.items()}


def _requests_and_impressions(
    items: pa.Table, users: pa.Table, ratings: Ratings, actions: Sequence[str]
) -> dict[str, pa.Table]:
    hour = np.zeros(len(ratings.user), np.int64)
    if ratings.time is not None:
        hour = ratings.time // HOUR
    # The last of each (hour, user, item), which comes first when read backwards; then, a neutral
    # one that replaced another included, what is no impression goes.
    _, last = group_ids((hour[::-1], ratings.user[::-1], ratings.item[::-1]))
    kept = np.sort(len(hour) - 1 - last)
    kept = kept[ratings.verdict[kept] != NEUTRAL]
    hour, ratings = hour[kept], ratings.take(kept)

    request, first = group_ids((hour, ratings.user))
    requests = users.take(pa.array(ratings.user[first]))
    ids = pc.cast(requests["user_id"], pa.string())
    if ratings.time is not None:
        # Hours are digits, so that no dash of a user can be taken for the one before the hour.
        ids = pc.binary_join_element_wise(ids, pa.array(hour[first]).cast(pa.string()), "-")
        requests = requests.add_column(0, "timestamp", pa.array(hour[first] * HOUR))
    requests = requests.add_column(0, "request_id", ids)

    order = np.argsort(request, kind="stable")
    request, ratings = request[order], ratings.take(order)
    start = np.searchsorted(request, request)
    impressions = {
        "request_id": ids.take(pa.array(request)),
        "item_id": items["item_id"].take(pa.array(ratings.item)),
        "position": (np.arange(len(request)) - start).astype(np.int32),
    }
    impressions |= {name: ratings.verdict == _VERDICTS[name] for name in actions}
    return {"requests": requests, "impressions": pa.table(impressions)}


def _events(
    items: pa.Table, users: pa.Table, ratings: Ratings, segments: Sequence[str]
) -> pa.Table:
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
