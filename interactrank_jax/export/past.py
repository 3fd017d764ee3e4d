"""Writes what history knows as of a day into a bundle: `serving/past.py` says how it lies there.

All values come from the code that prepares examples: snapshots of counts, query histories and user
timelines of STATE.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.examples.encoder import Encoder
from interactrank_jax.examples.rates import item_means
from interactrank_jax.examples.vocabulary import stable_hash
from interactrank_jax.io import files
from interactrank_jax.log.values import as_values, index_in
from interactrank_jax.serving.keys import KeyIndex, save_columns
from interactrank_jax.serving.past import SHIFT
from interactrank_jax.state import engines, snapshot
from interactrank_jax.state.days import SECONDS_PER_DAY, day
from interactrank_jax.state.histories import IMPRESSION, Timelines
from interactrank_jax.state.query_history import QueryHistory
from interactrank_jax.state.rules import is_fresh
from interactrank_jax.state.spec import ITEM_ROW
from interactrank_jax.state.store import Store
from interactrank_jax.state.timelines import read_timelines


@dataclasses.dataclass(frozen=True)
class PastExport:
    """What an export of the past reads, and where it writes.

    Attributes:
      store: STATE.
      backend: where it is read.
      number: day that the bundle is for; 0 where there are no days.
      encoder: of the run.
      items: ids of the items, in the order of their rows, without padding.
      directory: of the bundle.
      scratch: for what does not fit into memory.
    """

    store: Store
    backend: ibis.BaseBackend
    number: int
    encoder: Encoder
    items: pa.Array
    directory: Path
    scratch: Path

    @property
    def day_start(self) -> int | None:
        """The second from which on events are not in the bundle; None where there are no days."""
        if self.store.recipe.lag_days is None:
            return None
        return self.number * SECONDS_PER_DAY

    def write(self, history_actions: Sequence[int], rates: Sequence[int]) -> dict[str, Any]:
        """Writes all of it; returns the fields of `bundle.json` that say what is there.

        Args:
          history_actions: codes of the actions that user histories are made of.
          rates: codes of the actions whose rates are features of users.
        """
        rows = np.arange(1, len(self.items) + 1, dtype=np.int32)
        items = pa.table({"item_id": self.items, ITEM_ROW: rows})
        item_rows = engines.write_arrow(self.backend, items, self.scratch / "items")
        recipe = self.store.recipe
        record = self._cross() if recipe.specs else {"cross": [], "chains": {}, "key_types": {}}
        record["has_queries"] = bool(self.store.description.query_actions)
        if record["has_queries"]:
            self._queries(item_rows)
        record["form_of"] = recipe.query_form
        if recipe.query_form:
            self._forms()
        record["has_users"] = bool(history_actions or rates)
        record["has_seen"] = False
        if record["has_users"]:
            record["has_seen"] = self._users(item_rows, history_actions, bool(rates))
        return record

    def _read(self, rows: Any, name: str) -> pa.Table:
        """Returns rows of the engine, through the disk."""
        engines.write_parquet(self.backend, rows, self.scratch / name)
        return pq.read_table((self.scratch / name).absolute())

    def _distinct(self, rows: Any, name: str) -> pa.Array:
        """Returns the distinct values of a column in order: bundles of one STATE are alike."""
        return as_values(self._read(rows.select(name).distinct().order_by(name), name)[name])

    # Cross features.

    def _cross(self) -> dict[str, Any]:
        recipe, catalogue = self.store.recipe, self.store.catalogue(self.backend)
        created = None
        if recipe.has_fresh:
            created = catalogue.select(item=catalogue.item_id, created=day(catalogue.created_at))
            self._fresh(created)
        means = item_means(self.encoder.mean_rates)
        listed, key_types = [], {}
        tables = snapshot.tables(self.store, self.backend, self.number, means, created)
        for number, (keys, rows) in enumerate(tables.items()):
            folder = f"cross/{number}"
            table = self._read(rows, f"cross-{number}")
            names = [name for name in table.column_names if name not in (*keys, "item")]
            for key in keys:
                key_types[key] = str(as_values(table[key]).type)
            self._cross_table(self.directory / folder, table, keys, names)
            listed.append({"folder": folder, "keys": list(keys), "names": names})
        chains = {
            spec.name: [list(level.keys) for level in recipe.levels(spec)] for spec in recipe.specs
        }
        return {"cross": listed, "chains": chains, "key_types": key_types}

    def _cross_table(
        self, directory: Path, table: pa.Table, keys: Sequence[str], names: Sequence[str]
    ) -> None:
        directory.mkdir(parents=True)
        group = np.zeros(len(table), np.int64)
        if keys:
            columns = [as_values(table[key]) for key in keys]
            named = pa.table(dict(zip(keys, columns, strict=True)))
            distinct = named.group_by(list(keys)).aggregate([])
            index = KeyIndex.build(*(as_values(distinct[key]) for key in keys))
            index.save(directory / "groups")
            group = index.find(*columns)
        item = index_in(as_values(table["item"]), self.items).astype(np.int64) + 1
        kept = (item > 0) & (group >= 0)
        pair = (group << SHIFT | item)[kept]
        order = np.argsort(pair, kind="stable")
        value = np.stack([table[name].to_numpy()[kept] for name in names], 1).astype(np.float32)
        files.save_array(directory / "pair.npy", pair[order])
        files.save_array(directory / "value.npy", value[order])

    def _fresh(self, created: Any) -> None:
        fresh = is_fresh(ibis.literal(self.number), created.created, self.store.recipe.fresh_days)
        table = self.backend.to_pyarrow(created.select("item", flag=fresh))
        row = index_in(self.items, as_values(table["item"]))
        flag = np.append(table["flag"].to_numpy().astype(np.int8), np.int8(0))  # row -1
        flags = np.append(np.int8(0), flag[row])
        (self.directory / "cross").mkdir(exist_ok=True)
        files.save_array(self.directory / "cross" / "fresh.npy", flags)

    # Queries.

    def _queries(self, item_rows: Any) -> None:
        rows = self.store.query_items(self.backend)
        ids = self._distinct(rows, "query")
        codes = np.arange(len(ids), dtype=np.int32)
        table = pa.table({"query_id": ids, "query": codes})
        queries = engines.write_arrow(self.backend, table, self.scratch / "queries")
        rank = np.arange(len(self.items) + 1)  # rows are in the order of ids
        length = self.encoder.query_history_length
        history = QueryHistory.read(
            self.store, self.backend, queries, item_rows, rank, length, self.scratch / "counts"
        )
        period = np.full(len(codes), self.number if self.day_start is not None else -1)
        history.ask(codes, period, self.scratch / "ranked.npy")
        top = history.top(codes, period)
        asked = top.any(1)
        KeyIndex.build(ids.filter(pa.array(asked))).save(self.directory / "queries" / "ids")
        files.save_array(self.directory / "queries" / "item.npy", top[asked])

    def _forms(self) -> None:
        forms = self.store.forms(self.backend)
        forms = forms.filter(forms.period <= self.number).select("query", "query_form")
        table = self._read(forms, "forms")
        (self.directory / "forms").mkdir()
        KeyIndex.build(as_values(table["query"])).save(self.directory / "forms" / "ids")
        form = as_values(table["query_form"]).cast(pa.large_string())
        save_columns(self.directory / "forms" / "form.arrow", [form])

    # Users.

    def _users(self, item_rows: Any, history_actions: Sequence[int], has_counts: bool) -> bool:
        """Writes timelines and counts; returns whether events have ids, whose hashes it writes."""
        rows = self.store.timelines(self.backend)
        if self.day_start is not None:
            rows = rows.filter(rows.time < self.day_start)
        ids = self._distinct(rows, "user")
        codes = np.arange(len(ids), dtype=np.int32)
        table = pa.table({"user_id": ids, "user": codes})
        users = engines.write_arrow(self.backend, table, self.scratch / "users")
        actions = self.store.description.actions
        timelines = read_timelines(
            self.backend, rows, actions, users, item_rows, len(ids), self.scratch / "timelines"
        )
        directory = self.directory / "users"
        KeyIndex.build(ids).save(directory / "ids")
        delay = self.encoder.meaning.get("history.delay_s", 0)
        bound = np.iinfo(np.int64).max if self.day_start is None else self.day_start - int(delay)
        is_late = timelines.time > bound
        chosen = np.isin(timelines.action, np.asarray(history_actions, np.int8))
        last = _last_of_each(timelines, len(ids), chosen & ~is_late, self.encoder.history_length)
        _save_timelines(directory, timelines, len(ids), last | (chosen & is_late))
        if has_counts:
            _save_timelines(directory / "recent", timelines, len(ids), is_late)
            codes_counted = [*range(len(actions)), IMPRESSION]
            counts = _counts(timelines, len(ids), ~is_late, codes_counted)
            files.save_array(directory / "count.npy", counts)
        if "event_id" not in rows.columns:
            return False
        seen = self._read(rows.select("event_id"), "seen")["event_id"]
        hashes = np.sort(stable_hash(as_values(seen)))
        files.save_array(directory / "seen.npy", hashes)
        return True


def _last_of_each(timelines: Timelines, users: int, chosen: np.ndarray, length: int) -> np.ndarray:
    """Returns which of the chosen rows are among the last so many of their user, `[E]`."""
    user = timelines.users()
    after = np.cumsum(chosen[::-1])[::-1]  # chosen rows from each one on
    ends = np.searchsorted(user, np.arange(users), side="right")
    beyond = np.append(after, 0)[ends]
    return chosen & (after - beyond[user] <= length)


def _save_timelines(directory: Path, timelines: Timelines, users: int, chosen: np.ndarray) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    start = np.searchsorted(timelines.users()[chosen], np.arange(users + 1))
    files.save_array(directory / "start.npy", start.astype(np.int64))
    for name in ("item", "action", "time", "event_time"):
        files.save_array(directory / f"{name}.npy", np.asarray(getattr(timelines, name)[chosen]))


def _counts(
    timelines: Timelines, users: int, chosen: np.ndarray, actions: Sequence[int]
) -> np.ndarray:
    user, action = timelines.users()[chosen], timelines.action[chosen]
    columns = [np.bincount(user[action == code], minlength=users) for code in actions]
    return np.stack(columns, 1).astype(np.int64)
