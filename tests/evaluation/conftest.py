from types import SimpleNamespace

import pytest

from interactrank_jax.examples.prepare import prepare
from tests.log import handmade_log
from tests.synthetic import tiny_config


@pytest.fixture(scope="package")
def handmade(tmp_path_factory):
    """The handmade log: its tables, a config that fits it, and its examples; read only."""
    root = tmp_path_factory.mktemp("handmade")
    tables = handmade_log.make_tables()
    log = handmade_log.write_log(root / "log", tables)
    config = tiny_config("interactrank")
    config.data = handmade_log.data_config()
    prepare(config.data, log, root / "examples")
    return SimpleNamespace(root=root, log=log, tables=tables, config=config)
