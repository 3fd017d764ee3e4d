"""Scores are those of one device, whichever of several it is, and of all together."""

import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.devices.device_worker import DEVICES, FLAG
from tests.serving.making import assert_scores, candidates, events, requests

COUNT = 20
SCRIPT = """
import pathlib, sys
import jax
import pyarrow.parquet as pq
from interactrank_jax.ranking.ranker import Ranker

bundle, root = sys.argv[1], pathlib.Path(sys.argv[2])
asked, listed, happened = (pq.read_table(root / f"{name}.parquet") for name in ("r", "c", "e"))
for number in (0, len(jax.devices()) - 1):
    device = jax.devices()[number]
    ranker = Ranker(bundle, devices=[device])
    pq.write_table(ranker.rank(asked, listed, happened), root / f"listed-{number}.parquet")
    pq.write_table(ranker.rank(asked, None, happened, k=9), root / f"corpus-{number}.parquet")
    placed = ranker.ranking.graphs._placed
    assert placed
    assert all(array.devices() == {device} for array in placed.values())

ranker = Ranker(bundle, devices=jax.devices())
pq.write_table(ranker.rank(asked, listed, happened), root / "listed-all.parquet")
pq.write_table(ranker.rank(asked, None, happened, k=9), root / "corpus-all.parquet")
assert not any(name.startswith("index/") for name in ranker.ranking.graphs._placed)
"""


@pytest.mark.thorough  # a process with four devices
@pytest.mark.devices
def test_any_of_several_devices(served, ranker, tmp_path):
    tables = {"r": requests(COUNT), "c": candidates(COUNT, 9), "e": events()}
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {FLAG}",
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-c", SCRIPT, str(served.bundle), str(tmp_path)]
    subprocess.run(command, check=True, env=environment, timeout=300)
    listed = ranker.rank(*tables.values())
    corpus = ranker.rank(tables["r"], None, tables["e"], k=9)
    for number in (0, DEVICES - 1, "all"):
        assert_scores(pq.read_table(tmp_path / f"listed-{number}.parquet"), listed)
        assert_scores(pq.read_table(tmp_path / f"corpus-{number}.parquet"), corpus)
