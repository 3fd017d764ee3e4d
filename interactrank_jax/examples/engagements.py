"""Engagements in memory with dense ids: who did what when, and what of it counts."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.frames import Impressions, Requests, day, read_table
from interactrank_jax.log.schema import Log
from interactrank_jax.log.values import as_values, group_ids, index_in, ranks
from interactrank_jax.state.source import check_event_columns

IMPRESSION = -1  # the code of 'impression' among those of the actions, 0, 1, ...


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


def from_events(log: Log, requests: Requests, item_ids: pa.Array, cap: int = 0) -> Engagements:
    """Reads the events, each event_id once: the copy that arrived first.

    Args:
      log: the log, validated.
      requests: its requests.
      item_ids: see `dense.read_impressions`.
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
    rank = ranks(identity)
    order = np.lexsort((_order_of_copies(table, rank, segments), rank, event_time, time))
    _, first = np.unique(rank[order], return_index=True)
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
            ranks(as_values(kept[name])) for name in ("user_id", "query_id", "item_id")
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


def _order_of_copies(table: pa.Table, event: np.ndarray, segments: Sequence[str]) -> np.ndarray:
    """Returns what puts copies of one event in order that came at one time: see `rows`.

    Args:
      table: the events.
      event: `[E]` number of each one's event_id.
      segments: columns of the events.
    """
    repeated = np.flatnonzero(np.bincount(event)[event] > 1)
    copies = table.take(pa.array(repeated))
    columns = ("item_id", "action", "query_id", "user_id", *sorted(segments))
    keys = [ranks(as_values(copies[name])) for name in columns]
    order = np.zeros(len(event), np.int64)
    order[repeated[np.lexsort(keys[::-1])]] = np.arange(len(repeated))
    return order


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


def from_impressions(
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
      item_ids: see `dense.read_impressions`.
      cap: see `from_events`.
    """
    where, action = np.nonzero(impressions.actions[rows])
    ones = np.ones(len(where))
    return _at_requests(
        impressions, requests, fold, rows[where], action.astype(np.int8), ones, item_ids, cap
    )


def impressions_shown(
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
      impressions, requests, fold, rows, item_ids, cap: see `from_impressions`.
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
        places = ranks(item_ids)[item], ranks(requests.queries)[query]
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
