"""Trials as one array of Slurm, and as processes of this machine by the same library."""

import argparse
import math
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from experiments import jobs, slurm
from interactrank_jax.io.errors import InputError

COUNTS = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write('x')"


def arguments(out, *words, budget_s=60.0, parallel=2):
    return argparse.Namespace(out=out, slurm=list(words), budget_s=budget_s, parallel=parallel)


def command(out, name, program=COUNTS):
    record = out / f"{name}.json"
    return "experiments.jobs", [str(record), "--", sys.executable, "-c", program, str(out / name)]


def test_tasks_run_and_leave_the_records_that_a_sweep_looks_for(tmp_path):
    commands = [command(tmp_path, "a"), command(tmp_path, "b", "raise SystemExit(3)")]
    submitted = slurm.submit(arguments(tmp_path, "any"), commands, cluster="local")
    assert [job.result() for job in submitted] == [0, 1]
    records = [jobs.Record(**jobs.files.read_json(tmp_path / f"{name}.json")) for name in "ab"]
    assert [record.status for record in records] == [jobs.FINISHED, jobs.FAILED]
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.thorough  # a scheduler's signal, and the process that it starts again
def test_a_task_that_the_scheduler_ends_is_submitted_again_and_goes_on(tmp_path):
    program = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with pathlib.Path(sys.argv[1]).open("a") as file:
    starts = file.write("x") and file.tell()
if starts == 1:
    time.sleep(600)
"""
    (job,) = slurm.submit(
        arguments(tmp_path, "any", budget_s=600.0), [command(tmp_path, "a", program)], "local"
    )
    while not (tmp_path / "a").exists() or not (tmp_path / "a").read_text():
        time.sleep(0.05)
    (task,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)  # which Slurm sends before it ends a job
    assert job.result() == 0
    assert (tmp_path / "a").read_text() == "xx"
    assert jobs.files.read_json(tmp_path / "a.json")["status"] == jobs.FINISHED


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A machine whose sbatch takes a job and runs nothing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", ""), ("sbatch", "echo Submitted batch job 7")):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.mark.usefixtures("cluster")
def test_slurm_gets_one_array_with_its_limits(tmp_path):
    out = tmp_path / "my sweep"
    commands = [command(out, name) for name in "abc"]
    given = arguments(out, "gpu", "gpus_per_node=1", "mem_gb=32", budget_s=3600.0)
    submitted = slurm.submit(given, commands)
    assert [job.job_id for job in submitted] == ["7_0", "7_1", "7_2"]
    (file,) = (out / "slurm").glob("*submission.sh")
    lines = file.read_text().splitlines()
    flags = dict(line.removeprefix("#SBATCH --").split("=") for line in lines if "#SBATCH" in line)
    assert flags["partition"] == "gpu"
    assert flags["array"] == "0-2%2"
    assert flags["time"] == str(math.ceil((3600 + jobs.GRACE_S) / 60))
    assert flags["gpus-per-node"] == "1"
    assert flags["mem"] == "32GB"
    assert flags["job-name"] == "'my sweep'"
    pickled = [slurm_file.name for slurm_file in (out / "slurm").glob("7_*_submitted.pkl")]
    assert len(pickled) == 3
    task = submitted[2].submission().function
    assert task.command == commands[2]


@pytest.mark.parametrize(
    ("words", "budget_s", "message"),
    [
        (["gpu"], math.inf, "needs a time limit"),
        (["gpu", "gpus=1"], 60.0, "gpus"),
        (["gpu", "mem_gb=much"], 60.0, "mem_gb"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_what_slurm_would_not_take_is_refused(words, budget_s, message, tmp_path):
    with pytest.raises(InputError, match=message):
        slurm.submit(arguments(tmp_path, *words, budget_s=budget_s), [command(tmp_path, "a")])


def test_without_slurm_or_submitit_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="srun"):
        slurm.submit(arguments(tmp_path, "gpu"), [command(tmp_path, "a")])
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"pip install .* -e '\.\[sweep\]'"):
        slurm.submit(arguments(tmp_path, "gpu"), [command(tmp_path, "a")])


def test_a_worker_of_the_array_runs_the_same_command_without_the_flag():
    line = ["--config=c", "--slurm", "gpu", "mem_gb=3", "--trials=4"]
    assert slurm.without_flag(line) == ["--config=c", "--trials=4"]
    assert slurm.without_flag(["--slurm=gpu", "--out", "o"]) == ["--out", "o"]
    assert slurm.without_flag(["--out", "o"]) == ["--out", "o"]
