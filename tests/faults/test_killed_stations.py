"""Indexing and exporting that are killed while arrays are written: run again, they end as ever."""

import subprocess
import sys

import pytest

from interactrank_jax import cli
from interactrank_jax.io import files
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.thorough  # processes of their own

# Ends, as the system would end it, when rows are written for the nth time.
KILLED = """
import os, signal, sys
from interactrank_jax import cli
from interactrank_jax.io.files import ArrayWriter
calls, write = int(sys.argv[1]), ArrayWriter.write
def counting(writer, rows):
    global calls
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    write(writer, rows)
ArrayWriter.write = counting
cli.main(sys.argv[2:])
"""


def end_at(call: int, command: list[str]) -> int:
    code = [sys.executable, "-c", KILLED, str(call), *command]
    return subprocess.run(code, cwd=REPOSITORY, capture_output=True, check=False).returncode


def test_index(examples_path, trained_run, tmp_path):
    command = ["index", f"--examples={examples_path}", f"--workdir={trained_run}"]
    assert end_at(1, [*command, f"--out={tmp_path / 'out'}"]) == -9
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()), "it was killed before it wrote"
    for name in ("out", "whole"):
        assert cli.main([*command, f"--out={tmp_path / name}"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    assert files.file_digests(tmp_path / "out") == files.file_digests(tmp_path / "whole")


@pytest.mark.parametrize("call", [2, 9])  # of the item store, of the index
def test_export(call, served, tmp_path):
    command = ["export", f"--workdir={served.run}", f"--state={served.state}", "--onnx=0"]
    assert end_at(call, [*command, f"--out={tmp_path / 'out'}"]) == -9
    assert not (tmp_path / "out").exists()
    assert cli.main([*command, f"--out={tmp_path / 'out'}"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for folder in ("items", "index", "cross", "users", "golden"):
        digests = [files.file_digests(root / folder) for root in (tmp_path / "out", served.bundle)]
        assert digests[0] == digests[1], folder
