"""A corpus split over devices, of one process or of two, is ranked as one device ranks it."""

import os
import socket
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.ranking.dot_models import assert_best, best_of, brute_force, make_case
from tests.ranking.shards_worker import REQUESTS, ROWS, TILES, K
from tests.serving.making import assert_scores, events, requests

PATIENCE_S = 240


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def results(directory, processes: int, devices: int, *bundle: str) -> list[dict[str, np.ndarray]]:
    """Returns what each process saved."""
    coordinator = f"localhost:{free_port()}" if processes > 1 else ""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    files = [str(directory / f"{process}.npz") for process in range(processes)]
    workers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.ranking.shards_worker"),
                *(file, coordinator, str(processes), str(process), *bundle),
            ],
            cwd=REPOSITORY,
            env={**os.environ, "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process, file in enumerate(files)
    ]
    try:
        output = [worker.communicate(timeout=PATIENCE_S)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * processes, output
    saved = []
    for file in files:
        with np.load(file) as arrays:
            saved.append(dict(arrays))
    return saved


def assert_as_one_device(saved: dict[str, np.ndarray], devices: int) -> None:
    assert saved["devices"] == devices
    for rows in ROWS:
        case = make_case(REQUESTS, rows)
        k = min(K, rows - 1)
        every, dot = brute_force(case), brute_force(case, has_cross=False)
        masked, masked_dot = (np.where(case["barred"], -np.inf, s) for s in (every, dot))
        expected = {f"device/{rows}/64/masked": masked_dot}
        for tile in TILES:
            expected[f"host/{rows}/{tile}/all"] = every
            expected[f"host/{rows}/{tile}/masked"] = masked
        for name, score in expected.items():
            assert_best((saved[f"{name}/score"], saved[f"{name}/row"]), best_of(score, k))


@pytest.mark.devices
@pytest.mark.thorough  # a process with four devices
def test_four_devices_rank_as_one(tmp_path):
    (saved,) = results(tmp_path, 1, 4)
    assert_as_one_device(saved, 4)


@pytest.mark.devices
@pytest.mark.thorough  # processes that wait for each other
def test_two_processes_rank_as_one_and_both_have_the_result(tmp_path, served, ranker):
    expected = ranker.rank(requests(20), None, events(), k=9)
    for process, saved in enumerate(results(tmp_path, 2, 2, str(served.bundle))):
        assert_as_one_device(saved, 4)
        assert_scores(pq.read_table(tmp_path / f"{process}.npz.parquet"), expected)
