"""A platform that jax cannot start is named by every station that needs one, before any work."""

import os
import socket
import subprocess
import sys

import pytest

from interactrank_jax.devices import cuda
from tests.conftest import REPOSITORY

_SCRIPT = """
import sys
from interactrank_jax import cli
for line in sys.stdin.read().splitlines():
    print(cli.main(line.split()), flush=True)
"""


@pytest.mark.parametrize("platforms", ["nonsense", "cuda"])
def test_a_platform_that_cannot_be_started_is_named(platforms, tmp_path):
    if platforms == "cuda" and cuda.plugin_versions():
        pytest.skip("jax has a plugin for CUDA here")
    config = f"--config={REPOSITORY}/configs/interactrank.py"
    stations = [
        "evaluate --workdir=run --examples=x",
        f"evaluate --baseline=bm25 {config} --examples=x",
        "index --workdir=run --examples=x --out=out",
        "score --workdir=run --index=index --examples=x --out=out",
        "explain --workdir=run --examples=x --request=r",
    ]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input="\n".join(stations),
        env={**os.environ, "JAX_PLATFORMS": platforms, "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2"] * len(stations)
    assert done.stderr.count(f"interactrank: JAX_PLATFORMS={platforms}: ") == len(stations)
    assert done.stderr.count("such as cpu, or unset it") == len(stations)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "status"),
    [([], 2), (["--coordinator=localhost:0", "--processes=1", "--process=0"], 4)],
    ids=["alone", "as one of several"],
)
def test_training_names_it_too(flags, status, tmp_path, examples_path):
    config = f"--config={REPOSITORY}/tests/faults/configs.py:tiny"
    argv = ["train", config, f"--examples={examples_path}", f"--workdir={tmp_path / 'run'}"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        flags = [flag.replace(":0", f":{free.getsockname()[1]}") for flag in flags]
    done = subprocess.run(
        [sys.executable, "-m", "interactrank_jax", *argv, *flags],
        env={**os.environ, "JAX_PLATFORMS": "nonsense"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert "JAX_PLATFORMS=nonsense: " in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
