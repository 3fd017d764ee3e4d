"""From raw requests and what users did since to the arrays that a model takes.

The arrays are those that `prepare` makes of the same requests: the same vocabularies, tokens,
histories and counts, by the same functions.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.examples.format import REQUEST_ENTITIES
from interactrank_jax.examples.rates import rate_features
from interactrank_jax.examples.vocabulary import stable_hash
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.schema import IMPLICIT_ACTION
from interactrank_jax.log.values import index_in
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.features import RawFeatures
from interactrank_jax.serving.keys import KeyIndex
from interactrank_jax.serving.past import FORM, FreshEvents, normalized_query
from interactrank_jax.serving.tables import (
    as_table,
    check_columns,
    column,
    refuse_nulls,
    refuse_other_units,
    refuse_repeated,
)
from interactrank_jax.state.days import SECONDS_PER_DAY, date, day_number
from interactrank_jax.state.histories import IMPRESSION, Timelines

logger = logging.getLogger(__name__)
STALE_DAYS = 7  # a bundle of so many days before a request is worth a warning


@dataclasses.dataclass(frozen=True)
class EncodedRequests:
    """R requests as arrays.

    Attributes:
      ids: `[R]` as they came.
      arrays: `[R, ...]` by the names that blocks of examples have.
      groups: by the keys of each table of cross features, `[R, 2]`, see `CrossFeatures.groups`.
    """

    ids: pa.Array
    arrays: dict[str, np.ndarray]
    groups: dict[tuple[str, ...], np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, requests: slice) -> "EncodedRequests":
        """Returns some of them."""
        return EncodedRequests(
            self.ids[requests],
            {name: values[requests] for name, values in self.arrays.items()},
            {keys: group[requests] for keys, group in self.groups.items()},
        )


class RequestEncoder:
    """Encodes requests by a bundle."""

    def __init__(self, bundle: Bundle):
        self._bundle, self._encoder = bundle, bundle.encoder
        of_requests = [f for f in bundle.features if f.entity in REQUEST_ENTITIES]
        self._features = RawFeatures(of_requests, bundle.encoder)
        day = bundle["as_of"]
        self._day = None if day is None else day_number(day)
        self._warned: set[str] = set()

    def check(self, requests: Any) -> pa.Table:
        """Returns raw requests as a table, once its columns are what they must be.

        Needed are request_id, user_id, query_id, timestamp (UTC seconds; not of a model of
        timeless data) and the user and request features of the log; other columns are ignored.
        user_id, query_id, categories and texts may be null: nothing is known of them then.

        Raises:
          InputError: a column is missing or mistyped, a value that is needed is absent, or two
            requests have one id.
        """
        table, what, key = as_table(requests, "requests"), "requests", "request_id"
        kinds = {key: "id", "user_id": "id", "query_id": "id"}
        kinds |= {} if self._day is None else {"timestamp": "integer"}
        types = {"user_id": self._type("user"), "query_id": self._type("query")}
        self._features.check(table, kinds, types, what, key)
        refuse_nulls(table, [key, *(["timestamp"] if self._day is not None else [])], what, key)
        refuse_repeated(column(table, key), key, what)
        if self._day is not None and len(table):
            self._check_times(column(table, "timestamp").to_numpy(), self._day)
        return table

    def _type(self, vocabulary: str) -> pa.DataType:
        return self._encoder.vocabularies[vocabulary].values.type

    def encode(self, table: pa.Table, fresh: FreshEvents | None = None) -> EncodedRequests:
        """Encodes requests that were checked.

        Args:
          table: of `check`.
          fresh: what users did after the bundle's STATE ends, see `FreshEventReader`.
        """
        vocabularies = self._encoder.vocabularies
        user = column(table, "user_id", self._type("user"))
        query = column(table, "query_id", self._type("query"))
        encoded = self._features.encode(table)
        arrays = {
            "user": vocabularies["user"].rows(user),
            "query": vocabularies["query"].rows(query),
        }
        arrays |= {f"request/{name}": values for name, values in encoded.columns.items()}
        timestamp = np.zeros(len(table), np.int64)
        if self._day is not None:
            timestamp = column(table, "timestamp").to_numpy().astype(np.int64)
            # Counts are as of the day: so a request from before it is one of the day's first.
            timestamp = np.maximum(timestamp, self._day * SECONDS_PER_DAY)
        arrays |= self._past(user, query, timestamp, fresh)
        numeric = [encoded.numeric, *self._rates(user, timestamp, fresh)]
        arrays["request_numeric"] = np.concatenate(numeric, 1).astype(np.float32, copy=False)
        groups = self._bundle.cross.groups(self._keys(table, query))
        return EncodedRequests(column(table, "request_id"), arrays, groups)

    def _check_times(self, timestamp: np.ndarray, day: int) -> None:
        """Refuses times that are no seconds; warns of a bundle that is not of the requests' day."""
        refuse_other_units(timestamp, day, "timestamp", "requests")
        days = timestamp // SECONDS_PER_DAY - day
        if early := int((days < 0).sum()):
            self._warn_once(
                f"the bundle is of {date(day)}, requests are from up to {-int(days.min())} days "
                f"before it ({early:,} of {len(days):,}, the first of {date(int(days.min()) + day)}"
                f"): they are ranked as if they came when that day began",
                key="early",
            )
        last = int(days.max())
        if last >= STALE_DAYS:
            self._warn_once(
                f"the bundle is of {date(day)}, {last} days before the last of these requests "
                f"({date(last + day)}): its counts lack what happened since. Export one of a later "
                f"day",
                key=f"late {last}",
            )

    def _warn_once(self, message: str, key: str) -> None:
        """Logs a warning, unless one like it was given: a service ranks one request at a time."""
        if key not in self._warned:
            self._warned.add(key)
            logger.warning("%s", message)

    def _past(
        self, user: pa.Array, query: pa.Array, timestamp: np.ndarray, fresh: FreshEvents | None
    ) -> dict[str, np.ndarray]:
        length, count = self._encoder.history_length, len(user)
        arrays = {
            "history_item": np.zeros((count, length), np.int32),
            "history_action": np.zeros((count, length), np.int32),
            "history_age": np.zeros((count, length), np.float32),
            "query_history_item": np.zeros((count, self._encoder.query_history_length), np.int32),
        }
        users, queries = self._bundle.users, self._bundle.queries
        if users is not None:
            last = users.last(user, timestamp, fresh)
            arrays |= {
                "history_item": last.item,
                "history_action": last.action,
                "history_age": last.age,
            }
        if queries is not None:
            arrays["query_history_item"] = queries.top(query)
        return arrays

    def _rates(
        self, user: pa.Array, timestamp: np.ndarray, fresh: FreshEvents | None
    ) -> Sequence[np.ndarray]:
        rates, actions = self._bundle["rates"], self._bundle["actions"]
        if not rates:
            return []
        assert self._bundle.users is not None
        counts = self._bundle.users.counts(user, timestamp, (*rates, IMPRESSION), fresh)
        means = [self._encoder.mean_rates[f"{actions[rate]} per impression"] for rate in rates]
        return [rate_features(counts[:, :-1], counts[:, -1], means)]

    def _keys(self, table: pa.Table, query: pa.Array) -> dict[str, pa.Array]:
        """Returns what tables of cross features are asked with."""
        keys = {"query": query}
        for name in self._bundle["key_types"]:
            if name not in ("query", "user", "item", FORM) and name in table.column_names:
                keys[name] = column(table, name, self._bundle.key_type(name))
        if self._bundle["form_of"]:
            keys[FORM] = self._forms(table, query)
        return keys

    def _forms(self, table: pa.Table, query: pa.Array) -> pa.Array:
        """Returns the normalized query of each request; of a new query, that of its own text."""
        ids, forms = self._bundle.forms
        position = ids.find(query)
        is_new = position < 0
        texts = column(table, self._bundle["form_of"]).filter(pa.array(is_new))
        new = [normalized_query(text or "") or None for text in texts.to_pylist()]
        choices = pa.concat_arrays([forms, pa.array(new, pa.large_string())])
        position[is_new] = len(forms) + np.arange(len(new))
        return choices.take(pa.array(position))


class FreshEventReader:
    """Reads what users did after a bundle's STATE ends.

    Events of the days that STATE has are in it: they are left out, and counted.
    """

    def __init__(self, bundle: Bundle):
        self._bundle = bundle

    def read(self, events: Any) -> tuple[FreshEvents, dict[str, int]]:
        """Reads events: user_id, item_id, action, event_time and, where it is later, arrival_time.

        An `event_id` tells copies, of which the first to arrive counts. The action 'impression'
        says that a user saw an item; only rates of users look at it.

        Returns:
          (the events, how many were left out and why).

        Raises:
          InputError: a column is missing or mistyped, a value is absent, an action is unknown, or
            an event arrived before it happened, or the data is timeless.
        """
        if self._bundle["as_of"] is None:
            raise InputError(
                "events: the bundle is of timeless data, where nothing happens after anything. "
                "Leave them out."
            )
        day = day_number(self._bundle["as_of"])
        table = self._check(as_table(events, "events"), day)
        is_new = column(table, "arrival_time").to_numpy() >= day * SECONDS_PER_DAY
        left_out = {"arrived before the bundle's day": int((~is_new).sum())}
        table = table.filter(pa.array(is_new))
        if "event_id" in table.column_names:
            before = len(table)
            table = self._first_copies(table)
            left_out["copies"] = before - len(table)
        row = self._bundle.rows_of(column(table, "item_id", self._bundle.items.ids.type))
        left_out["unknown items"] = int((row == 0).sum())
        table = table.append_column("row", pa.array(row)).filter(pa.array(row > 0))
        return self._ordered(table), {name: count for name, count in left_out.items() if count}

    def _check(self, table: pa.Table, day: int) -> pa.Table:
        what = "events"
        if "arrival_time" not in table.column_names and "event_time" in table.column_names:
            table = table.append_column("arrival_time", table["event_time"])
        kinds = {"user_id": "id", "item_id": "id", "action": "string"}
        kinds |= {"event_time": "integer", "arrival_time": "integer"}
        kinds |= {"event_id": "id"} if "event_id" in table.column_names else {}
        vocabulary = self._bundle.encoder.vocabularies["user"]
        types = {"user_id": vocabulary.values.type, "item_id": self._bundle.items.ids.type}
        check_columns(table, kinds, types, what)
        refuse_nulls(table, [name for name in kinds if name != "event_id"], what, "item_id")
        actions = (*self._bundle["actions"], IMPLICIT_ACTION)
        for action in pc.unique(column(table, "action", pa.large_string())).to_pylist():
            if action not in actions:
                raise InputError(f"{what}: action '{action}'." + did_you_mean(action, actions))
        for name in ("event_time", "arrival_time"):
            refuse_other_units(column(table, name).to_numpy(), day, name, what)
        happened, arrived = (column(table, n).to_numpy() for n in ("event_time", "arrival_time"))
        if early := int((arrived < happened).sum()):
            raise InputError(
                f"{what}: {early:,} events arrived before they happened. Are "
                f"event_time and arrival_time swapped?"
            )
        return table

    def _first_copies(self, table: pa.Table) -> pa.Table:
        """Returns each event once, as `rules.first_copies` chooses among copies.

        Rows without an id, impressions say, are no copies of each other.
        """
        ids = column(table, "event_id")
        has_id = ids.is_valid()
        nameless, table, ids = (
            table.filter(pc.invert(has_id)),
            table.filter(has_id),
            ids.drop_null(),
        )
        hashes = stable_hash(ids)
        seen = self._bundle.seen
        at = np.searchsorted(seen, hashes)
        is_old = np.zeros(len(ids), bool)
        inside = at < len(seen)
        is_old[inside] = seen[at[inside]] == hashes[inside]
        table = table.filter(pa.array(~is_old))
        order = ["arrival_time", "event_time", "item_id", "action"]
        order += [name for name in ("query_id", "user_id") if name in table.column_names]
        table = _sorted(table, ["event_id", *order])
        ids = column(table, "event_id")
        first = np.ones(len(ids), bool)
        first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
        return pa.concat_tables([table.filter(pa.array(first)), nameless])

    def _ordered(self, table: pa.Table) -> FreshEvents:
        users, user = _distinct(column(table, "user_id"))
        names = pa.array([*self._bundle["actions"], IMPLICIT_ACTION], pa.large_string())
        code = index_in(column(table, "action", pa.large_string()), names).astype(np.int8)
        code[code == len(names) - 1] = IMPRESSION
        table = table.append_column("user", pa.array(user))
        table = table.append_column("code", pa.array(code))
        ties = ("event_id", "request_id", "position")
        order = ["user", "arrival_time", "event_time"]
        order += [*(name for name in ties if name in table.column_names), "item_id", "code"]
        table = _sorted(table, order)

        def array(name: str, kind: Any) -> np.ndarray:
            return table[name].to_numpy().astype(kind)

        arrays = {
            "user": array("user", np.int64),
            "item": array("row", np.int32),
            "action": array("code", np.int8),
            "time": array("arrival_time", np.int64),
            "event_time": array("event_time", np.int64),
        }
        history = None
        if self._bundle.users is not None:
            history = self._bundle.users.history(Timelines(arrays, len(users)))
        return FreshEvents(users, history)


def _sorted(table: pa.Table, by: Sequence[str]) -> pa.Table:
    """Returns the rows in order of some columns; a null goes before any value."""
    keys = {}
    for name in by:
        values = column(table, name)
        if values.null_count:
            keys[f"{name}:present"] = values.is_valid().cast(pa.int8())
        keys[name] = values
    return table.take(pc.sort_indices(pa.table(keys), [(name, "ascending") for name in keys]))


def _distinct(values: pa.Array) -> tuple[KeyIndex, np.ndarray]:
    encoded = values.dictionary_encode()
    return KeyIndex.build(encoded.dictionary), encoded.indices.to_numpy(zero_copy_only=False)
