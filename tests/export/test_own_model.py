"""A model of a user's own file trains, exports, and ranks where nobody has that file."""

import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.examples.format import STATE
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.models.registry import MODELS
from interactrank_jax.ranking.ranker import Ranker
from tests.conftest import REPOSITORY
from tests.log.handmade_log import make_tables, write_log
from tests.serving.making import assert_scores, make_config, requests

pytestmark = pytest.mark.thorough  # a run of its own, and a process of its own

FILE = '''
import interactrank_jax as ir
from interactrank_jax.models.two_tower import TwoTower
from tests.serving.making import make_config


@ir.models.register("halved")
class Halved(TwoTower):
    """Two towers whose queries are half as long."""

    def encode_query(self, request, *, train=False):
        query = super().encode_query(request, train=train)
        return query._replace(vectors=0.5 * query.vectors)


def get_config():
    config = make_config("two_tower")
    config.model.name = "halved"
    return config
'''


def test_a_model_that_a_file_registers(tmp_path, registries, capsys):
    file = tmp_path / "mine.py"
    file.write_text(FILE)
    write_log(tmp_path / "log", make_tables(80))
    prepare(make_config("two_tower").data, tmp_path / "log", tmp_path / "examples")
    train = [f"--examples={tmp_path}/examples", f"--workdir={tmp_path}/run"]
    assert cli.main(["train", f"--config={file}", *train]) == 0
    state = tmp_path / "examples" / STATE
    flags = [f"--workdir={tmp_path}/run", f"--state={state}", f"--out={tmp_path}/bundle"]
    del MODELS["halved"]
    assert cli.main(["export", *flags]) == 2
    assert "halved" in capsys.readouterr().err
    assert cli.main(["export", f"--config={file}", *flags]) == 0
    expected = Ranker(tmp_path / "bundle", verify=True).rank(requests(20), k=9)

    pq.write_table(requests(20), tmp_path / "requests.parquet")
    file.unlink()
    command = (
        "import sys, pyarrow.parquet as pq\n"
        "from interactrank_jax.ranking.ranker import Ranker\n"
        "table = Ranker(sys.argv[1], verify=True).rank(pq.read_table(sys.argv[2]), k=9)\n"
        "pq.write_table(table, sys.argv[3])\n"
        "assert 'flax' not in sys.modules\n"
    )
    arguments = [tmp_path / name for name in ("bundle", "requests.parquet", "ranked.parquet")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", command, *arguments], check=True, env=environment)
    assert_scores(pq.read_table(tmp_path / "ranked.parquet"), expected)
