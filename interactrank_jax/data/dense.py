"""The log in memory with dense ids: who was shown what, and who did what when.

Strings stop here: users and queries become positions among those of the requests, items become
rows of the item store, categories used as segments become small codes. -1 is none of them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.data import schema as schema_lib
from interactrank_jax.data.examples import STAGES
from interactrank_jax.data.vocabulary import as_values, concat_tables, index_in
from interactrank_jax.errors import InputError
from interactrank_jax.iqp.spec import check_event_columns

SECONDS_PER_DAY = 86_400
IMPRESSION = -1  # the code of 'impression' among those of the actions, 0, 1, ...
OPTIONAL_COLUMNS = ("propensity", "stage", "teacher_score")


@dataclasses.dataclass(frozen=True)
class Requests:
    """The requests table, in time order (in file order where there is no time).

    Attributes:
      table: the R rows as they came.
      user, query: `[R]` position in `users`, `queries`.
      timestamp: `[R]` UTC seconds; zeros where the preparation is timeless.
      segments: `[R]` codes of each categorical feature that a cross feature is segmented by.
      users, queries: distinct original ids.
      categories: distinct values of each such feature.
    """

    table: pa.Table
    user: np.ndarray
    query: np.ndarray
    timestamp: np.ndarray
    segments: dict[str, np.ndarray]
    users: pa.Array
    queries: pa.Array
    categories: dict[str, pa.Array]


@dataclasses.dataclass(frozen=True)
class Impressions:
    """The impressions table, by request, then position.

    Attributes:
      row: `[M]` position in the table as it came.
      request: `[M]` row of `Requests`, ascending.
      item: `[M]` row of the item store.
      position: `[M]`.
      actions: `[M, A]` uint8.
      optional: those of `OPTIONAL_COLUMNS` that the log has, `[M]`; stages as 1, 2, 3.
    """

    row: np.ndarray
    request: np.ndarray
    item: np.ndarray
    position: np.ndarray
    actions: np.ndarray
    optional: dict[str, np.ndarray]

    @property
    def shown(self) -> np.ndarray:
        """`[M]` bool: rows that users saw; all of them where the log knows no stages."""
        stage = self.optional.get("stage")
        return np.ones(len(self.item), bool) if stage is None else stage == 1


@dataclasses.dataclass(frozen=True)
class Engagements:
    """Actions, one row each, in order of arrival (then of event time, then of event id).

    Attributes:
      user, query: `[E]` positions as in `Requests`; -1 for one that no request has, or no query.
      item: `[E]` row of the item store.
      action: `[E]` index into the actions, or `IMPRESSION`.
      time: `[E]` seconds when it became known; it may be used from then on.
      event_time: `[E]` seconds when it happened.
      fold: `[E]` fold of the impression it comes from; only timeless, else zeros.
      segments: `[E]` codes as in `Requests`.
    """

    user: np.ndarray
    query: np.ndarray
    item: np.ndarray
    action: np.ndarray
    time: np.ndarray
    event_time: np.ndarray
    fold: np.ndarray
    segments: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: np.ndarray) -> "Engagements":
        """Returns some rows (a mask or positions)."""
        arrays = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if field.name != "segments"
        }
        segments = {name: codes[rows] for name, codes in self.segments.items()}
        return Engagements(**arrays, segments=segments)


def concatenate(first: Engagements, second: Engagements) -> Engagements:
    """Returns the rows of both; the order of arrival is lost."""
    arrays = {
        field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)])
        for field in dataclasses.fields(Engagements)
        if field.name != "segments"
    }
    segments = {
        name: np.concatenate([codes, second.segments[name]])
        for name, codes in first.segments.items()
    }
    return Engagements(**arrays, segments=segments)


def read_table(log: schema_lib.Log, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a table's parts, in order, into one table.

    Raises:
      InputError: a column's types in two parts do not go together.
    """
    parts = [pq.read_table(file, columns=columns) for file in log.files(name)]
    try:
        return concat_tables(parts)
    except InputError as error:
        raise InputError(f"{name} ({log.path}): {error}") from error


def read_requests(log: schema_lib.Log, segments: Sequence[str], timeless: bool) -> Requests:
    """Reads the requests; `segments` names the categorical features to encode."""
    table = read_table(log, "requests")
    if timeless:
        timestamp = np.zeros(len(table), np.int64)
    else:
        timestamp = table["timestamp"].to_numpy().astype(np.int64)
        order = np.argsort(timestamp, kind="stable")
        table, timestamp = table.take(pa.array(order)), timestamp[order]
    codes, distinct = {}, {}
    for name in ("user_id", "query_id", *segments):
        encoded = as_values(table[name]).dictionary_encode()
        codes[name] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        distinct[name] = encoded.dictionary
    return Requests(
        table=table,
        user=codes.pop("user_id"),
        query=codes.pop("query_id"),
        timestamp=timestamp,
        segments=codes,
        users=distinct.pop("user_id"),
        queries=distinct.pop("query_id"),
        categories=distinct,
    )


def read_impressions(log: schema_lib.Log, requests: Requests, item_ids: pa.Array) -> Impressions:
    """Reads the impressions.

    Args:
      log: the log, validated.
      requests: its requests.
      item_ids: `[I]` original id of each row of the item store, null for row 0.
    """
    present = log.columns("impressions")
    optional = [name for name in OPTIONAL_COLUMNS if name in present]
    actions = log.schema.actions
    table = read_table(
        log, "impressions", ["request_id", "item_id", "position", *actions, *optional]
    )
    request = index_in(as_values(table["request_id"]), as_values(requests.table["request_id"]))
    position = table["position"].to_numpy().astype(np.int32)
    order = np.lexsort((position, request))

    def column(name: str) -> np.ndarray:
        return table[name].to_numpy()[order]

    values: dict[str, Any] = {}
    for name in optional:
        if name == "stage":
            stage = index_in(as_values(table["stage"]), as_values(pa.array(STAGES)))
            values[name] = 1 + stage[order]
        else:
            values[name] = column(name).astype(np.float32)
    return Impressions(
        row=order,
        request=request[order],
        item=index_in(as_values(table["item_id"]), item_ids)[order],
        position=position[order],
        actions=np.stack([column(action).astype(np.uint8) for action in actions], axis=1),
        optional=values,
    )


def engagements_from_events(
    log: schema_lib.Log, requests: Requests, item_ids: pa.Array
) -> Engagements:
    """Reads the events, each event_id once: the copy that arrived first.

    Raises:
      InputError: the events lack a column that a cross feature is segmented by.
    """
    segments = list(requests.segments)
    check_event_columns(log, segments)
    table = read_table(
        log,
        "events",
        [
            *("event_id", "user_id", "query_id", "item_id"),
            *("action", "event_time", "arrival_time", *segments),
        ],
    )
    identity = as_values(table["event_id"])
    event_time, time = table["event_time"].to_numpy(), table["arrival_time"].to_numpy()
    # Sorting by the id itself makes the order independent of the order of the file's rows.
    rank = np.empty(len(identity), np.int64)
    rank[pc.sort_indices(identity).to_numpy()] = np.arange(len(identity))
    order = np.lexsort((rank, event_time, time))
    codes = identity.dictionary_encode().indices.to_numpy()[order]
    _, first = np.unique(codes, return_index=True)
    order = order[np.sort(first)]
    kept = table.take(pa.array(order))
    return Engagements(
        user=index_in(as_values(kept["user_id"]), requests.users),
        query=index_in(as_values(kept["query_id"]), requests.queries),
        item=index_in(as_values(kept["item_id"]), item_ids),
        action=index_in(as_values(kept["action"]), as_values(pa.array(log.schema.actions))).astype(
            np.int8
        ),
        time=time[order].astype(np.int64),
        event_time=event_time[order].astype(np.int64),
        fold=np.zeros(len(order), np.int8),
        segments={
            name: index_in(as_values(kept[name]), requests.categories[name]) for name in segments
        },
    )


def engagements_from_impressions(
    impressions: Impressions, requests: Requests, fold: np.ndarray, rows: np.ndarray
) -> Engagements:
    """Derives engagements from impressions, at their request's time: one per action that happened.

    Args:
      impressions: the impressions.
      requests: the requests.
      fold: `[M]` fold of each impression.
      rows: positions of the impressions to use; the result keeps their order.
    """
    where, action = np.nonzero(impressions.actions[rows])
    return _at_requests(impressions, requests, fold, rows[where], action.astype(np.int8))


def impressions_as_engagements(
    impressions: Impressions, requests: Requests, fold: np.ndarray, rows: np.ndarray
) -> Engagements:
    """Returns the impressions that users saw, as rows with the action code `IMPRESSION`."""
    rows = rows[impressions.shown[rows]]
    return _at_requests(impressions, requests, fold, rows, np.full(len(rows), IMPRESSION, np.int8))


def _at_requests(
    impressions: Impressions,
    requests: Requests,
    fold: np.ndarray,
    rows: np.ndarray,
    action: np.ndarray,
) -> Engagements:
    request = impressions.request[rows]
    time = requests.timestamp[request]
    return Engagements(
        user=requests.user[request],
        query=requests.query[request],
        item=impressions.item[rows],
        action=action,
        time=time,
        event_time=time,
        fold=fold[rows],
        segments={name: codes[request] for name, codes in requests.segments.items()},
    )


def day(seconds: np.ndarray) -> np.ndarray:
    """Returns the UTC day number of times in seconds, as int32."""
    return (seconds // SECONDS_PER_DAY).astype(np.int32)


def group_ids(columns: Mapping[str, np.ndarray] | Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Numbers the distinct rows of some integer columns `[N]` in lexicographic order.

    Returns:
      (group of each row int64 `[N]`, first row of each group `[G]`).
    """
    arrays = list(columns.values()) if isinstance(columns, Mapping) else list(columns)
    packed, span = np.zeros(len(arrays[0]), np.int64), 1
    for array in arrays:
        low = int(array.min(initial=0))
        width = int(array.max(initial=0)) - low + 1
        if span * width >= 2**63:  # renumber what is packed so far, which makes it dense again
            _, packed = np.unique(packed, return_inverse=True)
            span = int(packed.max(initial=0)) + 1
        packed = packed * width + (array.astype(np.int64) - low)
        span *= width
    _, first, group = np.unique(packed, return_index=True, return_inverse=True)
    return group, first
