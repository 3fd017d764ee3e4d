"""The handmade log and its examples, made once a file; a file that needs others has its own."""

import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from tests.log.handmade_log import data_config, make_tables, write_log


@pytest.fixture(scope="module")
def tables():
    return make_tables()


@pytest.fixture(scope="module")
def log(tables, tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "log", tables)


@pytest.fixture(scope="module")
def examples(log, tmp_path_factory):
    out = tmp_path_factory.mktemp("examples") / "examples"
    prepare(data_config(), log, out)
    return Examples(out)
