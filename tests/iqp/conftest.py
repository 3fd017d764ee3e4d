"""A handmade log, its counts, and a DuckDB to read them with."""

import pytest

from interactrank_jax.data.schema import open_log
from interactrank_jax.iqp import engines, store
from tests.data.handmade_log import data_config, make_tables, write_log

FEATURES = (
    "share:click:7",
    "share:click:30:country",
    "item_share:save:9",
    "rate:click:14",
    "item_rate:save:30:country",
)


def iqp_config(**overrides):
    return data_config(**{"cross.features": FEATURES, **overrides})


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    return open_log(write_log(tmp_path_factory.mktemp("iqp") / "log", make_tables()))


@pytest.fixture
def backend(tmp_path):
    with engines.connect("duckdb", tmp_path / "scratch") as backend:
        yield backend


@pytest.fixture(scope="session")
def whole(log, tmp_path_factory):
    """All days but the last, counted at once; read only."""
    out = tmp_path_factory.mktemp("iqp") / "counts"
    with engines.connect("duckdb", out.parent / "scratch") as backend:
        return store.build(iqp_config(), log, out, backend)
