"""Trainings in processes of their own, and what two of them left compared bit by bit."""

import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from tests.conftest import REPOSITORY
from tests.faults.train_worker import READY

PATIENCE_S = 180


def start(examples: Path, workdir: Path, *flags: str) -> subprocess.Popen:
    """Starts a training; returns when its imports are done and its work begins."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.train_worker", str(examples), str(workdir), *flags],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().strip() == READY
    return process


def finish(process: subprocess.Popen) -> str:
    """Waits for a training that ends well; returns what it said."""
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return errors


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def wait_for(process: subprocess.Popen, condition) -> None:
    """Waits until `condition()` holds while the process lives."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"the training ended by itself:\n{process.stderr.read()}")
        if time.monotonic() > deadline:
            kill(process)
            pytest.fail(f"nothing came within {PATIENCE_S} seconds")
        time.sleep(0.005)


def steps(workdir: Path) -> list[int]:
    """Returns the steps of the whole checkpoints, ascending."""
    return sorted(int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit())


def metric_lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def computed(line: dict) -> dict:
    """Returns what a line of the metric file says of the model, without what clocks say."""
    return {k: v for k, v in line.items() if k != "time" and not k.endswith("_per_second")}


def assert_same_run(workdir: Path, reference: Path) -> None:
    """Everything that was computed is equal, to the bit: state, position, progress, figures."""
    step = steps(reference)[-1]
    assert steps(workdir)[-1] == step
    last = [path.absolute() / "checkpoints" / str(step) for path in (workdir, reference)]
    state, expected = (ocp.StandardCheckpointer().restore(path / "state") for path in last)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    for name in ("data/process_0-of-1.json", "progress/metadata"):
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes()
    best, other = (Run.open(path).restore_model() for path in (workdir, reference))
    assert best[1] == other[1]
    assert fingerprint(best[0]) == fingerprint(other[0])
    calibrations = [Run.open(path).calibration(best[1]) for path in (workdir, reference)]
    assert calibrations[0] == calibrations[1]
    lines, others = (metric_lines(path) for path in (workdir, reference))
    assert [computed(line) for line in lines] == [computed(line) for line in others]
