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
from interactrank_jax.iqp.forms import forms

SECONDS_PER_DAY = 86_400
IMPRESSION = -1  # the code of 'impression' among those of the actions, 0, 1, ...
_LONG_AGO = -(2**40)  # days
OPTIONAL_COLUMNS = ("propensity", "stage", "teacher_score")


@dataclasses.dataclass(frozen=True)
class Requests:
    """The requests table, in time order (in file order where there is no time).

    Attributes:
      table: the R rows as they came.
      user, query: `[R]` position in `users`, `queries`.
      timestamp: `[R]` UTC seconds; zeros where the preparation is timeless.
      segments: `[R]` codes of each categorical feature that a cross feature is segmented by, and of
        the query's form where there is one, as 'query_form'.
      users, queries: distinct original ids.
      categories: distinct values of each such feature.
      query_form, query_day: `[Q]` code of each query's form, -1 of one without words, and the day
        when it was first asked; None where queries have no forms.
    """

    table: pa.Table
    user: np.ndarray
    query: np.ndarray
    timestamp: np.ndarray
    segments: dict[str, np.ndarray]
    users: pa.Array
    queries: pa.Array
    categories: dict[str, pa.Array]
    query_form: np.ndarray | None = None
    query_day: np.ndarray | None = None


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
      weight: `[E]` float64, what an impression counts; 1 for what is none.
      is_counted: `[E]` bool, whether it counts in cross features: within its user's cap.
    """

    user: np.ndarray
    query: np.ndarray
    item: np.ndarray
    action: np.ndarray
    time: np.ndarray
    event_time: np.ndarray
    fold: np.ndarray
    segments: dict[str, np.ndarray]
    weight: np.ndarray
    is_counted: np.ndarray

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


def read_requests(
    log: schema_lib.Log, segments: Sequence[str], timeless: bool, query_form: str = ""
) -> Requests:
    """Reads the requests.

    Args:
      log: the log, validated.
      segments: names of the categorical features to encode.
      timeless: whether their time is not looked at.
      query_form: column whose words are the query's form; '': none.
    """
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
    query = codes.pop("query_id")
    of_query, first_day = None, None
    if query_form:
        text = as_values(table[query_form]).cast(pa.string()).fill_null("")
        of_query, first_day = _query_forms(query, day(timestamp), text)
        codes["query_form"] = of_query[query]
    return Requests(
        table=table,
        user=codes.pop("user_id"),
        query=query,
        timestamp=timestamp,
        segments=codes,
        users=distinct.pop("user_id"),
        queries=distinct.pop("query_id"),
        categories=distinct,
        query_form=of_query,
        query_day=first_day,
    )


def _query_forms(
    query: np.ndarray, period: np.ndarray, text: pa.Array
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the form of each query and its first day: see `rows.Source.query_forms`."""
    order = np.lexsort((_ranks(text), period, query))
    _, first = np.unique(query[order], return_index=True)
    chosen = order[first]
    found = forms(text.take(pa.array(chosen)))
    codes = pc.if_else(pc.equal(found, ""), None, found).dictionary_encode().indices
    codes = codes.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int32), period[chosen]


def _ranks(values: pa.Array) -> np.ndarray:
    """Returns the place of each value in the order of the distinct ones; -1 for null."""
    encoded = values.dictionary_encode()
    rank = np.empty(len(encoded.dictionary), np.int64)
    rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.append(rank, -1)[codes]


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


def check_event_columns(log: schema_lib.Log, segments: Sequence[str]) -> None:
    """Raises InputError where the events lack a column that a cross feature is segmented by."""
    for name in segments:
        if name not in log.columns("events"):
            raise InputError(
                f"config.data.cross.features: '{name}' is a segment, but the events have no column "
                f"'{name}'. Add it to the events (its value as of the event), or leave that "
                f"cross feature out."
            )


def engagements_from_events(
    log: schema_lib.Log, requests: Requests, item_ids: pa.Array, cap: int = 0
) -> Engagements:
    """Reads the events, each event_id once: the copy that arrived first.

    Args:
      log: the log, validated.
      requests: its requests.
      item_ids: see `read_impressions`.
      cap: of one user's events of one action on one day so many are counted; 0: all.

    Raises:
      InputError: the events lack a column that a cross feature is segmented by.
    """
    segments = list(requests.categories)
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
    time = time[order].astype(np.int64)
    query = index_in(as_values(kept["query_id"]), requests.queries)
    action = index_in(as_values(kept["action"]), as_values(pa.array(log.schema.actions)))
    codes = {name: index_in(as_values(kept[name]), requests.categories[name]) for name in segments}
    if requests.query_form is not None and requests.query_day is not None:
        is_known = (query >= 0) & (requests.query_day[query] <= day(time))
        codes["query_form"] = np.where(is_known, requests.query_form[query], np.int32(-1))
    is_counted = np.ones(len(order), bool)
    if cap:
        users, queries, items = (
            _ranks(as_values(kept[name])) for name in ("user_id", "query_id", "item_id")
        )
        is_counted = _within_cap(cap, users, action, time, items, queries, np.ones(len(order)))
    return Engagements(
        user=index_in(as_values(kept["user_id"]), requests.users),
        query=query,
        item=index_in(as_values(kept["item_id"]), item_ids),
        action=action.astype(np.int8),
        time=time,
        event_time=event_time[order].astype(np.int64),
        fold=np.zeros(len(order), np.int8),
        segments=codes,
        weight=np.ones(len(order)),
        is_counted=is_counted,
    )


def _within_cap(
    cap: int,
    user: np.ndarray,
    action: np.ndarray,
    time: np.ndarray,
    item: np.ndarray,
    query: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """Returns which rows are among the first of their user, action and day: see `rows`.

    Args:
      cap: how many.
      user, action: `[E]` codes.
      time: `[E]` seconds.
      item, query: `[E]` places in the order of ids.
      weight: `[E]`.
    """
    group, _ = group_ids((user, action, day(time)))
    order = np.lexsort((weight, query, item, time, group))
    start = np.flatnonzero(np.diff(group[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(start, np.diff(np.append(start, len(order))))
    result = np.empty(len(order), bool)
    result[order] = place < cap
    return result


def engagements_from_impressions(
    impressions: Impressions,
    requests: Requests,
    fold: np.ndarray,
    rows: np.ndarray,
    item_ids: pa.Array,
    cap: int = 0,
) -> Engagements:
    """Derives engagements from impressions, at their request's time: one per action that happened.

    Args:
      impressions: the impressions.
      requests: the requests.
      fold: `[M]` fold of each impression.
      rows: positions of the impressions to use; the result keeps their order.
      item_ids: see `read_impressions`.
      cap: see `engagements_from_events`.
    """
    where, action = np.nonzero(impressions.actions[rows])
    ones = np.ones(len(where))
    return _at_requests(
        impressions, requests, fold, rows[where], action.astype(np.int8), ones, item_ids, cap
    )


def impressions_as_engagements(
    impressions: Impressions,
    requests: Requests,
    fold: np.ndarray,
    rows: np.ndarray,
    weight: np.ndarray,
    item_ids: pa.Array,
    cap: int = 0,
) -> Engagements:
    """Returns the impressions that users saw, as rows with the action code `IMPRESSION`.

    Args:
      impressions, requests, fold, rows, item_ids, cap: see `engagements_from_impressions`.
      weight: `[M]` what each impression counts.
    """
    rows = rows[impressions.shown[rows]]
    action = np.full(len(rows), IMPRESSION, np.int8)
    return _at_requests(impressions, requests, fold, rows, action, weight[rows], item_ids, cap)


def _at_requests(
    impressions: Impressions,
    requests: Requests,
    fold: np.ndarray,
    rows: np.ndarray,
    action: np.ndarray,
    weight: np.ndarray,
    item_ids: pa.Array,
    cap: int,
) -> Engagements:
    request = impressions.request[rows]
    time, user = requests.timestamp[request], requests.user[request]
    query, item = requests.query[request], impressions.item[rows]
    is_counted = np.ones(len(rows), bool)
    if cap:
        places = _ranks(item_ids)[item], _ranks(requests.queries)[query]
        is_counted = _within_cap(cap, user, action, time, *places, weight)
    return Engagements(
        user=user,
        query=query,
        item=item,
        action=action,
        time=time,
        event_time=time,
        fold=fold[rows],
        segments={name: codes[request] for name, codes in requests.segments.items()},
        weight=weight,
        is_counted=is_counted,
    )


def created_days(log: schema_lib.Log, item_ids: pa.Array) -> np.ndarray:
    """Returns the day when each item came to be, int64 `[I]`; far in the past where unknown."""
    table = read_table(log, "items", ["item_id", "created_at"])
    seconds = table["created_at"].cast(pa.int64())
    days = seconds.fill_null(0).to_numpy() // SECONDS_PER_DAY
    days = np.where(seconds.is_null().to_numpy(), _LONG_AGO, days)
    return np.append(days, _LONG_AGO)[index_in(item_ids, as_values(table["item_id"]))]


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
