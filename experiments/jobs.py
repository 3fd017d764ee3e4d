"""Commands in processes of their own: several at once, bounded in time, resumed, survived.

A job is a command that goes on where it was when it is started again, as `interactrank train` does.
Beside it stands a record of how it went, so that what is done is not done again.

    python -m experiments.jobs RECORD [--budget_s=SECONDS] -- COMMAND ...

runs one, where another program decides what runs when, such as a cluster's scheduler.
"""

import argparse
import contextlib
import dataclasses
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from experiments.command_line import exit_status, positive
from interactrank_jax.io import files

FINISHED = "finished"
STOPPED = "stopped"  # by its time limit
INTERRUPTED = "interrupted"  # with the runner
FAILED = "failed"
WAITING = "waiting"

GRACE_S = 120.0  # a training that is asked to stop may have to finish compiling first
POLL_S = 0.05
_ASKED_TO_STOP = (130, 143, -signal.SIGTERM, -signal.SIGKILL)  # exit statuses


@dataclasses.dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
      name: what it is called in messages.
      command: program and arguments.
      record: JSON file for how it went; what it prints is appended to the file of the same name
        that ends in `.log`.
    """

    name: str
    command: tuple[str, ...]
    record: Path

    @property
    def log(self) -> Path:
        """File of everything it printed."""
        return self.record.with_suffix(".log")


@dataclasses.dataclass(frozen=True)
class Record:
    """How a job went so far.

    Attributes:
      status: FINISHED, STOPPED, INTERRUPTED, FAILED or WAITING.
      seconds: that it ran, over all the times it was started; a failure starts them anew.
      error: of a job that failed, in one line.
    """

    status: str = WAITING
    seconds: float = 0.0
    error: str = ""

    def is_done(self, budget_s: float) -> bool:
        """Whether there is nothing left to do within a time limit."""
        return self.status == FINISHED or (self.status == STOPPED and self.seconds >= budget_s)


def read_record(job: Job) -> Record:
    """Returns a job's record; WAITING where it was never started."""
    return Record(**files.read_json(job.record)) if job.record.exists() else Record()


def run(
    jobs: Sequence[Job],
    *,
    parallel: int = 1,
    budget_s: float = math.inf,
    environment: Mapping[str, str] | None = None,
    report: Callable[[Job, Record], str] = lambda job, record: f"{job.name}: {record.status}",
) -> list[Record]:
    """Runs the jobs that are not done, in order; a job that fails leaves the others alone.

    When several run at once, each is bound to its share of the cores: it then starts as few threads
    as that, which do not wait for those of its neighbours.

    Args:
      jobs: each with a record of its own.
      parallel: how many at once.
      budget_s: seconds after which a job is asked to save and stop (SIGTERM).
      environment: variables of the jobs; this process's own win.
      report: returns what to print when a job has ended.

    Returns:
      A record per job.

    Raises:
      KeyboardInterrupt: SIGINT or SIGTERM came; the jobs were asked to save and stop, and did.
    """
    variables = {**(environment or {}), **os.environ}
    records = {job: read_record(job) for job in jobs}
    waiting = deque(job for job in jobs if not records[job].is_done(budget_s))
    running: dict[int, _Process] = {}
    done = len(records) - len(waiting)
    with (
        _sigterm_interrupts(),
        tqdm(total=len(records), initial=done, unit="job", disable=None) as bar,
    ):
        try:
            while waiting or running:
                for slot in range(parallel):
                    if slot in running and running[slot].has_ended(budget_s):
                        process = running.pop(slot)
                        records[process.job] = process.conclude(STOPPED)
                        tqdm.write(report(process.job, records[process.job]), file=sys.stdout)
                        bar.update()
                    if slot not in running and waiting:
                        job = waiting.popleft()
                        running[slot] = _Process(
                            job, records[job], _cores(slot, parallel), variables
                        )
                time.sleep(POLL_S)
        finally:
            _stop(list(running.values()))
    return [records[job] for job in jobs]


class _Process:
    """A job that was started."""

    def __init__(
        self, job: Job, before: Record, cores: Sequence[int], variables: Mapping[str, str]
    ):
        self.job = job
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            self._printed_before = log.tell()
            self._process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,  # Ctrl-C is for the runner, which passes it on
            )
        if cores:
            with contextlib.suppress(ProcessLookupError):  # threads to come inherit it
                os.sched_setaffinity(self._process.pid, cores)
        self._start = time.monotonic()
        self._used = before.seconds if before.status in (STOPPED, INTERRUPTED) else 0.0
        self._asked: float | None = None

    @property
    def seconds(self) -> float:
        return self._used + time.monotonic() - self._start

    def has_ended(self, budget_s: float) -> bool:
        """Whether it is over; asks it to stop when its time is up, and later makes it."""
        if self._process.poll() is not None:
            return True
        if self._asked is None:
            if self.seconds >= budget_s:
                self.ask_to_stop()
        elif time.monotonic() - self._asked > GRACE_S:
            self.kill()
        return False

    def ask_to_stop(self) -> None:
        self._asked = time.monotonic()
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def conclude(self, status_if_asked: str) -> Record:
        """Waits for its end; writes and returns the record."""
        code = self._process.wait()
        if code == 0:
            record = Record(FINISHED, self.seconds)
        elif self._asked is not None and code in _ASKED_TO_STOP:
            record = Record(status_if_asked, self.seconds)
        else:
            record = Record(FAILED, self.seconds, self._error(code))
        files.write_json(self.job.record, dataclasses.asdict(record))
        return record

    def _error(self, code: int) -> str:
        """Returns the line that says why it failed."""
        with self.job.log.open("rb") as log:
            log.seek(self._printed_before)
            lines = log.read().decode(errors="replace").splitlines()
        own = [line for line in lines if line.startswith("interactrank: ")]
        said = (own or [line for line in lines if line.strip()] or [""])[-1]
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return f"{how}: {said.removeprefix('interactrank: ').strip()}"


def _stop(processes: Sequence[_Process]) -> None:
    """Asks processes to save and stop, and waits; a second interrupt kills them."""
    for process in processes:
        process.ask_to_stop()
    try:
        while not all(process.has_ended(math.inf) for process in processes):
            time.sleep(POLL_S)
    finally:
        for process in processes:
            process.kill()
            process.conclude(INTERRUPTED)


def _cores(slot: int, parallel: int) -> list[int]:
    """Returns the cores of one of several processes; [] where it may have all of them."""
    if parallel == 1 or not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    return cores[slot::parallel] or [cores[slot % len(cores)]]


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Makes SIGTERM what SIGINT is, for a scheduler that stops the runner."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs one job; returns 1 if it fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("record", type=Path, help="JSON file for how it went")
    parser.add_argument(
        "--budget_s", type=positive, default=math.inf, help="seconds to run at most"
    )
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args(argv)
    job = Job(str(arguments.record), tuple(arguments.command), arguments.record)

    def work() -> int:
        [record] = run([job], budget_s=arguments.budget_s)
        if record.error:
            print(f"jobs: {job.name}: {record.error}", file=sys.stderr)
        return int(record.status == FAILED)

    return exit_status("jobs", work)


if __name__ == "__main__":
    sys.exit(main())
