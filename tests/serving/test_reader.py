"""A process without jax, or any engine, ranks as the Ranker does."""

import os
import pickle
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.serving.making import assert_scores, candidates, events, requests

ABSENT = (
    *("jax", "jaxlib", "flax", "grain", "orbax", "ibis", "duckdb", "optax", "ml_collections"),
    *("pandas", "absl", "array_record", "tqdm", "jax2onnx", "onnx"),
)
SCRIPT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Absent())
import pyarrow.parquet as pq
from interactrank_jax.serving.reader import Reader

reader = Reader({bundle!r}, verify=True, threads=1)
asked, listed, happened = (pq.read_table(f"{place}/{{n}}.parquet") for n in ("r", "c", "e"))
pq.write_table(reader.rank(asked, listed, happened), "{place}/listed.parquet")
pq.write_table(reader.rank(asked, None, happened, k=10), "{place}/corpus.parquet")
pq.write_table(reader.explain(asked.slice(0, 1), ["i1", "i2"]), "{place}/parts.parquet")
assert not set({absent!r}) & {{name.partition(".")[0] for name in sys.modules}}
"""


def test_a_process_without_jax(served, ranker, tmp_path):
    pytest.importorskip("onnxruntime")
    tables = {"r": requests(30), "c": candidates(30, 12), "e": events()}
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    code = SCRIPT.format(absent=ABSENT, bundle=str(served.bundle), place=tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    read = {name: pq.read_table(tmp_path / f"{name}.parquet") for name in ("listed", "corpus")}
    assert_scores(read["listed"], ranker.rank(*tables.values()))
    assert_scores(read["corpus"], ranker.rank(tables["r"], None, tables["e"], k=10))
    parts = pq.read_table(tmp_path / "parts.parquet")
    expected = ranker.explain(tables["r"].slice(0, 1), ["i1", "i2"])
    assert parts["item_id"].equals(expected["item_id"])
    for name in parts.column_names[2:]:
        assert parts[name].to_numpy() == pytest.approx(expected[name].to_numpy(), abs=1e-5)


@pytest.mark.parametrize("kind", ["ranker", "reader"])
def test_another_process_ranks_by_a_pickle(kind, request, tmp_path):
    """As Spark and Ray send it."""
    opened = request.getfixturevalue(kind)
    (tmp_path / "pickle").write_bytes(pickle.dumps(opened))
    pq.write_table(requests(), tmp_path / "requests.parquet")
    code = (
        "import pickle, pathlib, sys, pyarrow.parquet as pq\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "opened = pickle.loads((root / 'pickle').read_bytes())\n"
        "table = opened.rank(pq.read_table(root / 'requests.parquet'), k=7)\n"
        "pq.write_table(table, root / 'ranked.parquet')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    assert_scores(pq.read_table(tmp_path / "ranked.parquet"), opened.rank(requests(), k=7))
