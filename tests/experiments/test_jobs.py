"""Processes that are bounded in time, stopped, resumed and recorded."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from experiments import jobs

# Counts how often it was started; then does what it is told.
PROGRAM = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
here.mkdir(exist_ok=True)
starts = len(list(here.glob("start*")))
(here / f"start{starts}").write_text(str(len(os.sched_getaffinity(0))))

def saves(number, frame):
    sys.exit(130)

match sys.argv[2]:
    case "fails":
        print("a warning")
        print("interactrank: no such field.\\n\\nUsage: more lines", file=sys.stderr)
        sys.exit(2)
    case "crashes":
        raise RuntimeError("out of luck")
    case "long" if starts == 0:
        signal.signal(signal.SIGTERM, saves)
        (here / "ready").touch()
        time.sleep(60)
    case "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (here / "ready").touch()
        time.sleep(60)
    case "meets":
        (here.parent / f"met{os.getpid()}").touch()
        while len(list(here.parent.glob("met*"))) < 2:
            time.sleep(0.01)
"""


@pytest.fixture
def make_job(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def make(name, what):
        command = (sys.executable, str(program), str(tmp_path / name), what)
        return jobs.Job(name, command, tmp_path / "records" / f"{name}.json")

    return make


def starts(tmp_path, name):
    return len(list((tmp_path / name).glob("start*")))


def test_a_finished_job_is_not_run_again_and_a_failed_one_is(make_job, tmp_path, capfd):
    queue = [make_job("bad", "fails"), make_job("good", "ends"), make_job("worse", "crashes")]
    for _ in range(2):
        records = jobs.run(queue)
        assert [record.status for record in records] == ["failed", "finished", "failed"]
    assert records[0].error == "exit status 2: no such field."
    assert records[2].error == "exit status 1: RuntimeError: out of luck"
    assert [starts(tmp_path, name) for name in ("bad", "good", "worse")] == [2, 1, 2]
    assert capfd.readouterr().out.count("good: finished") == 1
    assert (tmp_path / "records/bad.log").read_text().count("a warning") == 2


def test_a_job_that_is_killed_says_by_what(make_job, tmp_path):
    job = make_job("one", "ends")
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (record,) = jobs.run([jobs.Job("one", (sys.executable, "-c", kill), job.record)])
    assert record.error.startswith("killed by SIGKILL")


def test_jobs_run_at_once_each_on_its_share_of_the_cores(make_job, tmp_path):
    records = jobs.run([make_job("a", "meets"), make_job("b", "meets")], parallel=2)
    assert [record.status for record in records] == ["finished"] * 2  # each waited for the other
    cores = [int((tmp_path / name / "start0").read_text()) for name in ("a", "b")]
    available = len(os.sched_getaffinity(0))
    # A process may look before it is bound, so neither count is exact; the assignment is.
    assert all(1 <= count <= available for count in cores)
    shares = [jobs._cores(slot, 2) for slot in range(2)]
    assert sorted(core for share in shares for core in share) == sorted(os.sched_getaffinity(0))
    assert jobs._cores(0, 1) == []  # alone, it has all of them
    assert jobs._cores(available, available + 1)  # more jobs than cores: some share one


def clock(tmp_path, *names):
    """Time is up as soon as the named jobs are at work."""

    def seconds(job, used, start):
        return 100.0 if job.name in names and (tmp_path / job.name / "ready").exists() else 1.0

    return seconds


def test_time_limit_stops_a_job_and_a_longer_one_takes_it_up(make_job, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_seconds", clock(tmp_path, "slow"))
    queue = [make_job("slow", "long"), make_job("quick", "ends")]
    for _ in range(2):
        slow, quick = jobs.run(queue, budget_s=50.0)
        assert (slow.status, slow.seconds) == ("stopped", 100.0)
        assert quick.status == "finished"
    assert starts(tmp_path, "slow") == 1
    slow, _ = jobs.run(queue, budget_s=200.0)
    assert slow.status == "finished"
    assert starts(tmp_path, "slow") == 2


def test_a_job_that_does_not_stop_is_killed(make_job, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_seconds", clock(tmp_path, "deaf"))
    monkeypatch.setattr(jobs, "GRACE_S", 0.2)
    (record,) = jobs.run([make_job("deaf", "deaf")], budget_s=50.0)
    assert record.status == "stopped"


@pytest.fixture
def hears_sigint():
    """What a shell without job control puts into the background ignores SIGINT from the start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("hears_sigint")
def test_an_interrupt_stops_the_jobs_and_the_next_run_goes_on(make_job, tmp_path, number):
    queue = [make_job("one", "long"), make_job("two", "ends")]

    def interrupt():
        while not (tmp_path / "one/ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        jobs.run(queue)
    assert [jobs.read_record(job).status for job in queue] == ["interrupted", "waiting"]
    assert [record.status for record in jobs.run(queue)] == ["finished"] * 2
    assert starts(tmp_path, "one") == 2


def test_who_watches_a_job_may_end_it_and_it_is_not_run_again(make_job, tmp_path):
    job = make_job("one", "long")
    record = jobs.Slot().run(job, watch=(tmp_path / "one/ready").exists)
    assert record == jobs.read_record(job)
    assert record.status == "pruned"
    assert [record.status for record in jobs.run([job])] == ["pruned"]
    assert starts(tmp_path, "one") == 1


def test_an_error_while_a_job_runs_ends_the_job(make_job, tmp_path):
    def watch():
        if (tmp_path / "one/ready").exists():
            raise RuntimeError("the watcher is ill")

    with pytest.raises(RuntimeError, match="ill"):
        jobs.Slot().run(make_job("one", "deaf"), watch=watch)


def test_a_job_that_fails_under_a_scheduler_says_why(tmp_path, capsys):
    own = [sys.executable, "-c", PROGRAM, str(tmp_path / "job"), "fails"]
    assert jobs.main([str(tmp_path / "train.json"), "--", *own]) == 1
    assert "no such field." in capsys.readouterr().err
    assert json.loads((tmp_path / "train.json").read_text())["status"] == jobs.FAILED
