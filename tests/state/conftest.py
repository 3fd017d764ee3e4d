"""A handmade log, its STATE, and a DuckDB to read them with."""

import dataclasses

import pyarrow as pa
import pytest

from interactrank_jax.examples.prepare import prepare
from interactrank_jax.log.read import open_log
from interactrank_jax.state import as_of, engines
from interactrank_jax.state.build import build_store
from interactrank_jax.state.source import Source
from interactrank_jax.state.store import SEEN, Store
from tests.log.handmade_log import data_config, make_tables, write_log

FEATURES = (
    "share:click:7",
    "share:click:30:country",
    "item_share:save:9",
    "rate:click:14",
    "item_rate:save:30:country",
)


# Mean rates in training, as an encoder has them.
MEANS = {"click": 0.21, "save": 0.08}
# Everything that can be switched on, at once.
FULL = {
    "cross.features": (
        "share:click:30:country",
        "item_share:save:9",
        "rate:click:14",
        "item_rate:save:30:fresh",
    ),
    "cross.backoff.strength": 3.0,
    "cross.backoff.query_form": "query_text",
    "cross.user_day_cap": 3,
    "cross.debias.name": "position",
    "cross.debias.position_weights": (1.0, 0.7, 0.5),
    "cross.fresh_days": 9,
}


# The same where impressions are split at random, which has no days.
RANDOM = {
    **{name: value for name, value in FULL.items() if "cap" not in name and "fresh" not in name},
    "cross.features": ("share:click:30:country", "item_share:save:9", "rate:click:14"),
    "history.rates": ("click", "save"),
    "protocol": "clean_random",
}


def everything(held: Store, backend) -> dict[str, pa.Table]:
    """All tables of STATE, rows in order."""
    tables = {"counts by " + "+".join(k): held.counts(k, backend) for k in held.counted_keys}
    tables |= {
        name: getattr(held, name)(backend) for name in ("query_items", "timelines", "catalogue")
    }
    if held.has_events:
        tables["seen"] = held._read(SEEN, backend)
    if held.recipe.query_form:
        tables["forms"] = held.forms(backend)
    return {name: in_order(backend.to_pyarrow(table)) for name, table in tables.items()}


def in_order(table: pa.Table) -> pa.Table:
    """Returns a table with its columns and its rows in order."""
    columns = sorted(table.column_names)
    return table.select(columns).sort_by([(name, "ascending") for name in columns])


def features_of(log, held: Store, backend, means, since=None, until=None) -> pa.Table:
    """Returns the features of a log's impressions as of the day of each, in no order."""
    source = Source(log, held.recipe, backend)
    if held.recipe.query_form:
        source = dataclasses.replace(source, forms=held.all_forms(source))
    (table,) = as_of.features_as_of(source, held, means, since, until)
    return backend.to_pyarrow(table)


def by_pair(table: pa.Table) -> pa.Table:
    return table.sort_by([("request_id", "ascending"), ("item_id", "ascending")])


def state_config(**overrides):
    return data_config(**{"cross.features": FEATURES, **overrides})


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    return open_log(write_log(tmp_path_factory.mktemp("state") / "log", make_tables()))


@pytest.fixture
def backend(tmp_path):
    with engines.connect("duckdb", tmp_path / "scratch") as backend:
        yield backend


def _count_all(config, log, place):
    with engines.connect("duckdb", place / "scratch") as backend:
        return build_store(config, log, place / "state", backend)


@pytest.fixture(scope="session")
def whole(log, tmp_path_factory):
    """All days but the last, counted at once; read only."""
    return _count_all(state_config(), log, tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def examples_with_rates(log, whole, tmp_path_factory):
    """Examples of the log from `whole`, whose encoder has the mean rates; read only."""
    path = tmp_path_factory.mktemp("state") / "examples"
    prepare(state_config(), log.path, path, state=whole.path)
    return path


@pytest.fixture(scope="session")
def full(log, tmp_path_factory):
    """The same with everything switched on."""
    return _count_all(state_config(**FULL), log, tmp_path_factory.mktemp("state"))
