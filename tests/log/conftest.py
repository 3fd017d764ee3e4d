"""A DuckDB to read logs with."""

import pytest

from interactrank_jax.state import engines


@pytest.fixture
def backend(tmp_path_factory):
    with engines.connect("duckdb", tmp_path_factory.mktemp("duckdb") / "scratch") as backend:
        yield backend
