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
from concurrent import futures
from pathlib import Path

from experiments.command_line import exit_status, positive
from interactrank_jax.io import files

FINISHED = "finished"
STOPPED = "stopped"  # by its time limit
PRUNED = "pruned"  # by who watched it
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
      trainings: that it makes at once, each of which has a time limit.
    """

    name: str
    command: tuple[str, ...]
    record: Path
    trainings: int = 1

    def limit(self, budget_s: float) -> float:
        """Returns its seconds, given those of one training."""
        return budget_s * self.trainings


@dataclasses.dataclass(frozen=True)
class Record:
    """How a job went so far.

    Attributes:
      status: FINISHED, STOPPED, PRUNED, INTERRUPTED, FAILED or WAITING.
      seconds: that it ran, over all the times it was started; a failure starts them anew.
      error: of a job that failed, in one line.
    """

    status: str = WAITING
    seconds: float = 0.0
    error: str = ""

    def is_done(self, budget_s: float) -> bool:
        """Whether there is nothing left to do within a time limit."""
        is_over = self.status == STOPPED and self.seconds >= budget_s
        return self.status in (FINISHED, PRUNED) or is_over


def read_record(job: Job) -> Record:
    """Returns a job's record; WAITING where it was never started."""
    return Record(**files.read_json(job.record)) if job.record.exists() else Record()


class Slot:
    """Runs one job at a time, on its share of the cores.

    When several run at once, each then starts as few threads as its share, which do not wait for
    those of its neighbours.

    Attributes:
      is_stopping: whether jobs are to save and stop, and no further one is to start.
    """

    def __init__(self, cores: Sequence[int] = ()):
        self.is_stopping = self.is_killing = False
        self._cores = cores

    def run(
        self,
        job: Job,
        budget_s: float = math.inf,
        environment: Mapping[str, str] | None = None,
        watch: Callable[[], bool] = lambda: False,
    ) -> Record:
        """Starts a job, or goes on with it; writes and returns its record.

        Args:
          job: the job.
          budget_s: seconds, earlier runs included, after which it is asked to save and stop.
          environment: variables of the job; this process's own win.
          watch: is called all the while; returns whether the job shall save and stop.
        """
        before = read_record(job)
        used = before.seconds if before.status in (STOPPED, INTERRUPTED) else 0.0
        job.record.parent.mkdir(parents=True, exist_ok=True)
        with job.record.with_suffix(".log").open("a+b") as log:
            printed_before = log.seek(0, os.SEEK_END)
            start = time.monotonic()
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**(environment or {}), **os.environ},
                start_new_session=True,  # Ctrl-C is for the runner, which passes it on
            )
            if self._cores:
                with contextlib.suppress(ProcessLookupError):  # threads to come inherit it
                    os.sched_setaffinity(process.pid, self._cores)
            try:
                status = self._wait(process, lambda: _seconds(job, used, start), budget_s, watch)
            finally:
                if process.poll() is None:
                    process.kill()
            code, seconds = process.wait(), _seconds(job, used, start)
            if code == 0:
                record = Record(FINISHED, seconds)
            elif status and code in _ASKED_TO_STOP:
                record = Record(status, seconds)
            else:
                log.seek(printed_before)
                record = Record(FAILED, seconds, _error(code, log.read().decode(errors="replace")))
        files.write_json(job.record, dataclasses.asdict(record))
        return record

    def _wait(
        self,
        process: subprocess.Popen,
        seconds: Callable[[], float],
        budget_s: float,
        watch: Callable[[], bool],
    ) -> str:
        """Waits for the end; returns the status that the process was asked to stop with, or ''."""
        status, asked = "", math.inf
        while process.poll() is None:
            if not status:
                if self.is_stopping:
                    status = INTERRUPTED
                elif seconds() >= budget_s:
                    status = STOPPED
                elif watch():
                    status = PRUNED
                if status:
                    asked = time.monotonic()
                    process.terminate()
            elif self.is_killing or time.monotonic() - asked > GRACE_S:
                process.kill()
            time.sleep(POLL_S)
        return status


def work(parallel: int, worker: Callable[[Slot], None]) -> None:
    """Calls a function in several threads at once, each with a slot of its own.

    Raises:
      KeyboardInterrupt: SIGINT or SIGTERM came; the jobs were asked to save and stop, and did. A
        second one kills them.
    """
    slots = [Slot(_cores(number, parallel)) for number in range(parallel)]
    with _sigterm_interrupts(), futures.ThreadPoolExecutor(parallel) as pool:
        working = [pool.submit(worker, slot) for slot in slots]
        try:
            for each in futures.as_completed(working):
                each.result()
        except BaseException:
            for slot in slots:
                slot.is_stopping = True
            try:
                futures.wait(working)
            finally:
                for slot in slots:
                    slot.is_killing = True
            raise


def run(
    jobs: Sequence[Job],
    *,
    parallel: int = 1,
    budget_s: float = math.inf,
    environment: Mapping[str, str] | None = None,
    report: Callable[[Job, Record], str] = lambda job, record: f"{job.name}: {record.status}",
) -> list[Record]:
    """Runs the jobs that are not done, in order; a job that fails leaves the others alone.

    Args:
      jobs: each with a record of its own.
      parallel: how many at once.
      budget_s: seconds of a training; after those of its trainings a job is asked to save and stop
        (SIGTERM).
      environment: variables of the jobs; this process's own win.
      report: returns what to print when a job has ended.

    Returns:
      A record per job.

    Raises:
      KeyboardInterrupt: see `work`.
    """
    waiting = deque(job for job in jobs if not read_record(job).is_done(job.limit(budget_s)))

    def worker(slot: Slot) -> None:
        while waiting and not slot.is_stopping:
            with contextlib.suppress(IndexError):  # another slot took the last one
                job = waiting.popleft()
                record = slot.run(job, job.limit(budget_s), environment)
                print(report(job, record), flush=True)

    work(parallel, worker)
    return [read_record(job) for job in jobs]


def _seconds(job: Job, used: float, start: float) -> float:
    """Returns the seconds that a job had, and has had since; tests have a clock of their own."""
    return used + time.monotonic() - start


def _error(code: int, printed: str) -> str:
    """Returns the line that says why a job failed."""
    lines = [line for line in printed.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("interactrank: ")]
    said = (ours or lines or [""])[-1]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return f"{how}: {said.removeprefix('interactrank: ').strip()}"


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
    parser.add_argument("--budget_s", type=positive, default=math.inf, help="seconds at most")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args(argv)
    job = Job(str(arguments.record), tuple(arguments.command), arguments.record)

    def run_it() -> int:
        [record] = run([job], budget_s=arguments.budget_s)
        if record.error:
            print(f"jobs: {job.name}: {record.error}", file=sys.stderr)
        return int(record.status == FAILED)

    return exit_status("jobs", run_it)


if __name__ == "__main__":
    sys.exit(main())
