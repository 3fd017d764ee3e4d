"""A Spark on this machine for tests of what an engine reads."""

import contextlib
import shutil

import pytest

from interactrank_jax.state import engines


def require(monkeypatch):
    """Makes Spark start small in this process; skips the test where there is none."""
    pytest.importorskip("pyspark")
    if not shutil.which("java"):
        pytest.skip("no Java: Debian has openjdk-17-jre-headless")
    # To compile each plan, or well, takes longer than to run it on so little.
    off = ("wholeStage=false", "factoryMode=NO_CODEGEN")
    flags = " ".join(f"--conf spark.sql.codegen.{setting}" for setting in off)
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", f"{flags} pyspark-shell")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


@contextlib.contextmanager
def spark(scratch, monkeypatch):
    """Connects to a small Spark for the block; skips the test where there is none."""
    require(monkeypatch)
    with engines.connect("spark", scratch, memory="1GB") as backend:
        yield backend
