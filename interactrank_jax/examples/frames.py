"""The log in memory with dense ids: who asked, and what they were shown.

Strings stop here: users and queries become positions among those of the requests, items become
rows of the item store, categories used as segments become small codes. -1 is none of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.log import schema as schema_lib
from interactrank_jax.log.contract import OPTIONAL_COLUMNS, STAGES
from interactrank_jax.log.values import as_values, concat_tables, index_in, ranks
from interactrank_jax.state.days import SECONDS_PER_DAY
from interactrank_jax.state.normalized_query import forms

_LONG_AGO = -(2**40)  # days


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


def read_table(log: schema_lib.Log, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a table's parts, in order, into one table.

    Args:
      log: the log.
      name: of the table.
      columns: to read; None for all that `Log.columns` names.

    Raises:
      InputError: see `Log.columns`.
    """
    types = log.columns(name)
    columns = list(types) if columns is None else list(columns)
    parts = []
    for part in log.parts(name):
        table = pq.read_table(part.path, columns=columns)
        for index, column in enumerate(columns):
            if part.types[column] != types[column]:
                # Not checked: integers beyond 2^53 lose digits where another part has floats.
                values = _plain(table[column]).cast(types[column], safe=False)
                table = table.set_column(index, column, values)
        parts.append(table.select(columns))
    return concat_tables(parts)


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns a column without a dictionary."""
    kind = values.type
    return values.cast(kind.value_type) if pa.types.is_dictionary(kind) else values


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
    """Returns the form of each query and its first day: see `source.Source.query_forms`."""
    order = np.lexsort((ranks(text), period, query))
    _, first = np.unique(query[order], return_index=True)
    chosen = order[first]
    found = forms(text.take(pa.array(chosen)))
    codes = pc.if_else(pc.equal(found, ""), None, found).dictionary_encode().indices
    codes = codes.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int32), period[chosen]


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
