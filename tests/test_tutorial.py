"""docs/tutorial.md runs as it is written, and is short."""

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
MOST_LINES = 60


def code() -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL))


def test_it_is_short():
    lines = [line for line in code().splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES


@pytest.mark.long  # two trainings and two exports: most of a minute of CPU time
def test_it_runs_and_ranks_what_was_asked_for_first(tmp_path):
    shows = """
top = ranker.rank([asked], candidates, k=5)["item_id"].to_pylist()
print("TOP", sum(int(name[1:]) % 4 == 0 for name in top))
print("AUC", trainer.evaluate("test").result["metrics"]["roc_auc"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code() + shows],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values = dict(line.split() for line in done.stdout.splitlines() if line[:3] in ("TOP", "AUC"))
    assert int(values["TOP"]) >= 4  # of five, those that are red shoes
    assert float(values["AUC"]) > 0.7
