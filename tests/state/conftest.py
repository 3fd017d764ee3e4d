"""A handmade log, its counts, and a DuckDB to read them with."""

import pyarrow as pa
import pytest

from interactrank_jax.log.schema import open_log
from interactrank_jax.state import engines
from interactrank_jax.state.build import build_store
from interactrank_jax.state.store import Store
from tests.log.handmade_log import data_config, make_tables, write_log

FEATURES = (
    "share:click:7",
    "share:click:30:country",
    "item_share:save:9",
    "rate:click:14",
    "item_rate:save:30:country",
)


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


def everything(held: Store, backend) -> dict[str, pa.Table]:
    """All counts, sorted."""
    tables = {}
    for keys, actions in held.counted_keys.items():
        columns = [*keys, "period"]
        table = backend.to_pyarrow(held.counts(keys, backend)).select([*columns, *actions])
        tables["+".join(keys)] = table.sort_by([(name, "ascending") for name in columns])
    return tables


def by_pair(table: pa.Table) -> pa.Table:
    return table.sort_by([("request_id", "ascending"), ("item_id", "ascending")])


def iqp_config(**overrides):
    return data_config(**{"cross.features": FEATURES, **overrides})


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    return open_log(write_log(tmp_path_factory.mktemp("iqp") / "log", make_tables()))


@pytest.fixture
def backend(tmp_path):
    with engines.connect("duckdb", tmp_path / "scratch") as backend:
        yield backend


def _count_all(config, log, place):
    with engines.connect("duckdb", place / "scratch") as backend:
        return build_store(config, log, place / "counts", backend)


@pytest.fixture(scope="session")
def whole(log, tmp_path_factory):
    """All days but the last, counted at once; read only."""
    return _count_all(iqp_config(), log, tmp_path_factory.mktemp("iqp"))


@pytest.fixture(scope="session")
def full(log, tmp_path_factory):
    """The same with everything switched on."""
    return _count_all(iqp_config(**FULL), log, tmp_path_factory.mktemp("iqp"))
