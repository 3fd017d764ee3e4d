"""ItemQueryPerf on Spark that runs elsewhere: a Spark Connect server, and a cluster's master."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from interactrank_jax.cli import main
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow  # Spark starts twice or more in each, and runs on one core

BUILD = (
    f"--config={REPOSITORY}/configs/interactrank.py",
    "--config.data.cross.backoff.strength=3",
    "--config.data.cross.backoff.query_form=query_text",  # words are found by the workers' Python
)


@pytest.fixture(autouse=True)
def java():
    pytest.importorskip("pyspark")
    if not shutil.which("java"):
        pytest.skip("no Java: Debian has openjdk-17-jre-headless")


@contextlib.contextmanager
def _daemon(name, *arguments, log):
    """Runs a part of a standalone cluster for the block."""
    import pyspark

    home = Path(pyspark.__file__).parent
    command = [home / "bin/spark-class", f"org.apache.spark.deploy.{name}", *arguments]
    environment = {**os.environ, "SPARK_HOME": str(home), "PYSPARK_PYTHON": sys.executable}
    with log.open("wb") as opened:
        process = subprocess.Popen(
            command, stdout=opened, stderr=opened, env=environment, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(port):
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


def _free_port():
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return opened.getsockname()[1]


def _features(log, out, run, *engine):
    """Returns the features of a log by request and item, its STATE made by the same engine."""
    state = f"--state={out / 'state'}"
    run("state", "build", *BUILD, f"--log={log}", f"--out={out / 'state'}", *engine)
    run("state", "features", f"--log={log}", state, f"--out={out / 'features'}", *engine)
    found = pq.read_table(sorted((out / "features").rglob("*.parquet")))
    return found.sort_by([("request_id", "ascending"), ("item_id", "ascending")])


def _run_apart(environment):
    def run(*arguments):
        command = [sys.executable, "-m", "interactrank_jax", *arguments]
        subprocess.run(command, check=True, timeout=900, env={**os.environ, **environment})

    return run


@pytest.fixture(scope="module")
def expected(tiny_log, tmp_path_factory):
    def run(*arguments):
        assert main(list(arguments)) == 0

    return _features(tiny_log, tmp_path_factory.mktemp("duckdb"), run)


def test_spark_connect_gives_the_same_features(tiny_log, expected, tmp_path):
    pytest.importorskip("grpc")
    run = _run_apart({"SPARK_REMOTE": "local[1]", "PYSPARK_PYTHON": sys.executable})
    assert _features(tiny_log, tmp_path, run, "--engine=spark").equals(expected)


def test_a_cluster_gives_the_same_features(tiny_log, expected, tmp_path):
    port = _free_port()
    master = f"spark://localhost:{port}"
    # The driver must be one that the worker can reach, whatever this machine is called.
    run = _run_apart({"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"})
    listen = ("--host", "localhost", "--port", str(port), "--webui-port", "0")
    worker = ("--cores", "1", "--memory", "2g", "--webui-port", "0", "-d", str(tmp_path), master)
    with _daemon("master.Master", *listen, log=tmp_path / "master.log"):
        _wait_for(port)
        with _daemon("worker.Worker", *worker, log=tmp_path / "worker.log"):
            found = _features(tiny_log, tmp_path, run, "--engine=spark", f"--master={master}")
    assert found.equals(expected)
