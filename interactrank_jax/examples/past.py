"""Opens STATE, or builds it, and looks up the histories of users and queries."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.format import STATE
from interactrank_jax.examples.ordered import OrderedLog
from interactrank_jax.examples.plan import Plan
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import Log
from interactrank_jax.state import engines
from interactrank_jax.state.as_of import check_counted
from interactrank_jax.state.build import build_for, build_out_of_fold
from interactrank_jax.state.checks import check_log
from interactrank_jax.state.histories import NO_FOLD, UserHistory
from interactrank_jax.state.query_history import QueryHistory
from interactrank_jax.state.source import Source
from interactrank_jax.state.store import KIND, Store, open_store
from interactrank_jax.state.timelines import all_rows, read_timelines


@dataclasses.dataclass(frozen=True)
class Past:
    """STATE and what reads it; nothing where no feature depends on history.

    Attributes:
      store: STATE.
      source: of the log, for the impressions of the examples.
    """

    store: Store | None
    source: Source


def open_past(
    plan: Plan,
    ordered: OrderedLog,
    given: Store | None,
    directory: Path,
    progress: Callable[[str], None],
) -> Past:
    """Takes the STATE that is given, or builds one.

    Args:
      plan: what is asked for.
      ordered: the log.
      given: of `open_given`; None to build one.
      directory: of the examples, where it is built.
      progress: called with each run of days as it begins.

    Raises:
      InputError: the STATE given is of another log or another recipe, or lacks days.
    """
    log, backend, rows = ordered.log, ordered.backend, ordered.rows.table
    source = Source(log, plan.cross, backend, rows=rows)
    if not plan.needs_state:
        return Past(None, dataclasses.replace(source, forms=None))
    last_day = int(ordered.requests.day[ordered.rows.asked].max())
    if given is not None:
        store = given
        if store.chunks:
            _check_types(store, source)
        check_log(store, log, backend)
        check_counted(store, last_day, log)
    elif plan.timeless:
        counted = dataclasses.replace(source, rows=rows.filter(rows.time >= 0))
        store = build_out_of_fold(plan.state, counted, directory / STATE)
    else:
        state = directory / STATE
        store = build_for(plan.state, log, state, backend, last_day - 1, progress)
    forms = store.all_forms(source) if plan.cross.query_form else None
    return Past(store, dataclasses.replace(source, forms=forms))


def open_given(path: files.PathLike, plan: Plan, log: Log) -> Store:
    """Opens a STATE for examples; what a build adds to it later is not looked at.

    Raises:
      InputError: none there, damaged, being built, of another recipe, or of another kind of log.
    """
    if plan.timeless:
        raise InputError(
            f"--state={path}: under protocol '{plan.protocol}' the split decides what STATE "
            f"counts, so that it is made with the examples. Leave --state out."
        )
    outputs.refuse_locked(path)
    store = open_store(path, log)
    difference = store.description.difference(plan.state)
    if difference is not None:
        raise InputError(
            f"--state={path} was built with {difference}. Prepare with the --config that it was "
            f"built with, or build another: `interactrank state build`."
        )
    return store


def _check_types(store: Store, source: Source) -> None:
    """Refuses a log whose ids have become numbers, or text, since STATE was built."""
    timelines, asked = store.timelines(source.backend).schema(), source.asked().schema()
    items = source.items().schema()
    for name, before, now in (
        ("user_id", timelines["user"], asked["user"]),
        ("item_id", timelines["item"], items["item"]),
        ("query_id", store.query_items(source.backend).schema()["query"], asked["query"]),
    ):
        if before.is_string() != now.is_string():
            raise InputError(
                f"{store.path}: '{name}' was {before} when it was built, it is {now} in "
                f"{source.log.path}: this is another log. Name the STATE of this one, or build it "
                f"by `interactrank {KIND.command}`."
            )


@dataclasses.dataclass(frozen=True)
class Lookups:
    """Histories of the users and queries that ask; None where no feature needs them."""

    user_history: UserHistory | None
    query_history: QueryHistory | None


def look_up(plan: Plan, ordered: OrderedLog, past: Past) -> Lookups:
    """Reads from STATE what the requests ask for, into arrays that are mapped into memory."""
    return Lookups(_user_history(plan, ordered, past), _query_history(plan, ordered, past))


def _user_history(plan: Plan, ordered: OrderedLog, past: Past) -> UserHistory | None:
    """Reads the timelines of the users who ask."""
    if past.store is None or not (plan.history_actions or plan.rates):
        return None
    requests, scratch = ordered.requests, ordered.scratch / "users"
    codes = np.arange(len(requests.users), dtype=np.int32)
    users = engines.write_arrow(
        ordered.backend, pa.table({"user_id": requests.users, "user": codes}), scratch / "codes"
    )
    # What users did, not the rows of the examples alone.
    source = dataclasses.replace(past.source, rows=None)
    rows, actions = all_rows(source, past.store), past.store.description.actions
    timelines = read_timelines(
        ordered.backend, rows, actions, users, ordered.item_rows, len(codes), scratch / "arrays"
    )
    return UserHistory(
        timelines,
        actions=plan.history_actions,
        length=plan.history_length,
        delay_s=plan.delay_s,
        folds=plan.folds,
    )


def _query_history(plan: Plan, ordered: OrderedLog, past: Past) -> QueryHistory | None:
    """Ranks the items of the queries that are asked, for each day or fold."""
    if past.store is None or not plan.query_history_actions:
        return None
    requests, scratch = ordered.requests, ordered.scratch / "queries"
    codes = np.arange(len(requests.queries), dtype=np.int32)
    queries = engines.write_arrow(
        ordered.backend,
        pa.table({"query_id": requests.queries, "query": codes}),
        scratch / "codes",
    )
    history = QueryHistory.read(
        past.store,
        ordered.backend,
        queries,
        ordered.item_rows,
        ordered.rank,
        plan.query_history_length,
        scratch / "arrays",
    )
    if plan.timeless:
        folds = np.arange(NO_FOLD, plan.folds)
        query, period = np.repeat(codes, len(folds)), np.tile(folds, len(codes))
    else:
        asked = requests.impressions > 0
        query, period = requests.query[asked], requests.day[asked]
    history.ask(query, period, scratch / "ranked.npy")
    return history
