"""Two processes of two fake devices each train as one run, and end as one."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from interactrank_jax.devices import distributed
from interactrank_jax.evaluation import evaluate
from interactrank_jax.examples.format import Examples, write_metadata
from interactrank_jax.io.errors import InputError
from interactrank_jax.training.train import train
from tests.conftest import REPOSITORY
from tests.devices import distributed_worker
from tests.devices.device_worker import (
    LONG_ROWS,
    LONG_TABLE,
    SPREAD,
    long_examples,
    make_trainer,
    one_batch,
)
from tests.devices.distributed_config import get_config
from tests.synthetic import TABLES, make_encoder

pytestmark = pytest.mark.thorough  # processes that start, compile and wait for each other

PROCESSES, DEVICES = 2, 2
PATIENCE_S = 240
FOR_EVER = ("--config.train.max_steps=1000000", "--config.train.eval_every=1000000")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start_all(command: Callable[[str, str], list[str]]) -> list[subprocess.Popen]:
    """Starts `command(coordinator, number)` for every process."""
    coordinator = f"localhost:{free_port()}"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={DEVICES}"
    return [
        subprocess.Popen(
            [sys.executable, *command(coordinator, str(process))],
            cwd=REPOSITORY,
            env={**os.environ, "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(PROCESSES)
    ]


def start(examples: Path, workdir: Path, *overrides: str) -> list[subprocess.Popen]:
    """Starts all processes of a run."""
    return start_all(
        lambda coordinator, process: [
            *("-c", "from interactrank_jax.cli import run; run()", "train"),
            "--config=tests/devices/distributed_config.py",
            f"--examples={examples}",
            f"--workdir={workdir}",
            f"--coordinator={coordinator}",
            f"--processes={PROCESSES}",
            f"--process={process}",
            *overrides,
        ]
    )


def outputs(processes: list[subprocess.Popen]) -> list[str]:
    """Waits for all; returns what they said."""
    try:
        return [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def metrics(workdir: Path) -> list[dict]:
    file = workdir / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_until_it_trains(workdir: Path, processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not metrics(workdir):
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            pytest.fail(f"it never trained: {outputs(processes)}")
        time.sleep(0.1)


@pytest.fixture(scope="module")
def stepped(examples_path, tmp_path_factory):
    """The state after one step on one batch: of two processes, by run, and of this one alone."""
    file = tmp_path_factory.mktemp("step") / "result.npz"
    processes = start_all(
        lambda coordinator, process: [
            *("-m", "tests.devices.distributed_worker"),
            *(coordinator, process, str(examples_path), str(file)),
        ]
    )
    said = outputs(processes)
    assert [process.returncode for process in processes] == [0] * PROCESSES, said
    with np.load(file) as arrays:
        found = dict(arrays)

    examples = long_examples(examples_path)
    trainer = make_trainer(examples, devices=jax.devices()[:1])
    trainer.advance(trainer.parallel.shard(one_batch(examples)))
    return found, trainer.state


@pytest.fixture(scope="module")
def finished(examples_path, tmp_path_factory):
    """A whole run of two processes: its directory, and what each reported."""
    workdir = tmp_path_factory.mktemp("distributed") / "run"
    processes = start(examples_path, workdir)
    said = outputs(processes)
    assert [process.returncode for process in processes] == [0] * PROCESSES, said
    return workdir, said


@pytest.mark.devices
class TestTwoProcesses:
    @pytest.mark.parametrize("run", distributed_worker.RUNS)
    def test_one_step_on_the_same_batch_is_that_of_one_process(self, stepped, run):
        found, state = stepped
        for path, value in jax.tree_util.tree_leaves_with_path(state):
            key = run + jax.tree_util.keystr(path)
            np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-5, err_msg=key)

    def test_they_train_as_one_process_does(self, finished, examples_path, tmp_path):
        workdir, _ = finished
        train(get_config(), examples_path, tmp_path / "alone")
        found, expected = metrics(workdir), metrics(tmp_path / "alone")
        assert [row["step"] for row in found] == [row["step"] for row in expected]
        # Other batches, for each process reads its own blocks: the same run but for the order.
        last, last_alone = found[-1], expected[-1]
        assert last["validation/roc_auc"] == pytest.approx(
            last_alone["validation/roc_auc"], abs=0.05
        )
        losses = [
            [row["train/loss"] for row in rows if "train/loss" in row] for rows in (found, expected)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=0.25)
        assert losses[0][-1] < losses[0][0]

    def test_all_report_the_same_steps_and_figures(self, finished):
        _, said = finished
        reports = [text[text.index("run in") :] for text in said]
        assert reports[0] == reports[1]
        assert f"on {PROCESSES * DEVICES} devices" in said[0]

    def test_their_shards_of_the_data_are_unequal(self, examples_path):
        rows = [len(block["mask"]) for block in Examples(examples_path).blocks("train")]
        assert sum(rows[0::PROCESSES]) != sum(rows[1::PROCESSES])  # yet they agree on the steps

    def test_another_number_of_processes_cannot_resume(self, finished, examples_path):
        workdir, _ = finished
        with pytest.raises(InputError, match=r"trained by 2 processes, here are 1.*warm_start"):
            train(get_config(), examples_path, workdir)

    def test_the_death_of_one_ends_the_other_with_a_message(self, examples_path, tmp_path):
        processes = start(examples_path, tmp_path / "run", *FOR_EVER)
        wait_until_it_trains(tmp_path / "run", processes)
        died = time.monotonic()
        processes[1].kill()
        said, _ = processes[0].communicate(timeout=PATIENCE_S)
        assert time.monotonic() - died < 60
        assert processes[0].returncode not in (0, None)
        assert re.search("Another process ended|another task died", said)

    def test_a_signal_to_one_stops_all_at_one_step_with_a_checkpoint(self, examples_path, tmp_path):
        processes = start(examples_path, tmp_path / "run", *FOR_EVER)
        wait_until_it_trains(tmp_path / "run", processes)
        processes[1].send_signal(signal.SIGTERM)
        said = outputs(processes)
        assert [process.returncode for process in processes] == [143] * PROCESSES
        steps = [re.search(r"stopped after step (\d+)", text)[1] for text in said]
        assert steps[0] == steps[1]
        assert (tmp_path / "run" / "checkpoints" / steps[0]).is_dir()


@pytest.mark.devices
def test_a_run_with_split_tables_trains_resumes_and_is_evaluated(examples_path, tmp_path):
    """Four devices of one process; the item table is long enough to be split over all of them."""
    copy = shutil.copytree(examples_path, tmp_path / "examples")
    encoder = make_encoder({**TABLES, LONG_TABLE: LONG_ROWS})
    metadata = dataclasses.replace(Examples(copy).metadata, encoder=encoder)
    shutil.rmtree(copy / "encoder")
    encoder.save(copy / "encoder")
    ids = np.load(copy / "items" / "id.npy")
    np.save(copy / "items" / "id.npy", ids * SPREAD)
    write_metadata(copy, metadata)
    workdir = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "interactrank_jax", "train"),
        "--config=tests/devices/distributed_config.py",
        *(f"--examples={copy}", f"--workdir={workdir}"),
        *("--config.train.parallel=shard_map", "--config.train.table_shards=4"),
    ]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    settings: Any = {"cwd": REPOSITORY, "env": {**os.environ, "XLA_FLAGS": flags}}
    process = subprocess.Popen(command, **settings)
    wait_until_it_trains(workdir, [process])
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 143
    subprocess.run(command, **settings, check=True, timeout=PATIENCE_S)
    steps = [row["step"] for row in metrics(workdir)]
    assert steps == sorted(steps)
    validations = {
        row["step"]: row["validation/roc_auc"]
        for row in metrics(workdir)
        if "validation/roc_auc" in row
    }
    assert list(validations) == [0, 20, 40, 60]
    result = evaluate.evaluate(workdir, copy, "validation")  # on one device, which holds it whole
    assert result["step"] == max(validations, key=validations.__getitem__)
    expected = validations[result["step"]]
    assert result["metrics"]["roc_auc"] == pytest.approx(expected, abs=1e-6)


def test_a_process_number_out_of_range_is_refused_before_any_waiting():
    with (
        pytest.raises(InputError, match="--process=2 of --processes=2"),
        distributed.joined("localhost:1", 2, 2),
    ):
        pass
