"""The example of docs/ranking.md that ranks in Ray Data gives what one process does."""

import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.serving.making import assert_scores, requests
from tests.test_readme import blocks, section


@pytest.mark.thorough  # Ray starts, and its worker compiles
def test_the_example_ranks_as_one_process_does(served, ranker, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    (code,) = blocks(section("docs/ranking.md", "On Spark and Ray"), "python")
    lists = [[f"i{(7 * n + m) % 25}" for m in range(6)] for n in range(40)]
    asked = requests(40, candidates=pa.array(lists))
    pq.write_table(asked, tmp_path / "requests.parquet")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "bundle").symlink_to(served.bundle)
    (tmp_path / "example.py").write_text(code)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "example.py"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert_scores(pq.read_table(tmp_path / "runs" / "ranked"), ranker.rank(asked, k=500))
