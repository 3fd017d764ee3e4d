"""Where a running station reports: metrics.jsonl, TensorBoard, and a progress bar."""

import json
import math
import operator
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError


class MetricWriter:
    """Appends scalars to DIRECTORY/metrics.jsonl and to TensorBoard event files beside it.

    One JSON object per write: {"step": int, "time": Unix seconds, name: value, ...}. A value that
    is not finite becomes null, for JSON has no NaN. Lines are flushed at every write and are the
    record to rely on; TensorBoard's events follow at a write ten seconds later, or at the end. On
    several processes, let one of them write.

    Example:
      with MetricWriter(workdir, resume_step=1000) as writer:
          writer.write(1100, {"train/loss": loss})
    """

    FLUSH_S = 10.0  # between flushes of the events, each of which waits for the disk

    def __init__(self, directory: files.PathLike, *, resume_step: int | None = None):
        """Opens the files, which are created where they are absent.

        Args:
          directory: where to write.
          resume_step: step of the checkpoint the run goes on from. What was written for later steps
            is removed, since it will be written again: the file then has the steps of a run that
            was never killed. Without it everything is kept.

        Raises:
          InputError: metrics.jsonl holds something else, or the directory cannot be written.
        """
        self._directory = directory = Path(directory)
        path = directory / "metrics.jsonl"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _truncate(path, resume_step)
            self._file = path.open("a", encoding="utf-8")
            # Their names count in seconds: without a suffix a quick resume overwrites its own run.
            # The SummaryWriter writes in a thread, and waits for ever where that died.
            self._events = EventsWriter(str(directory / "events"), f".{time.time_ns()}")
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}.") from error
        self._flushed = time.monotonic()
        if resume_step is not None:  # TensorBoard hides what was written for this step and later
            start = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(step=resume_step + 1, session_log=start))

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes the scalars (numbers or zero-dimensional arrays) of one step.

        Raises:
          InputError: a value is not a scalar, or is named 'step' or 'time'.
          OSError: the disk is full, or another such thing.
        """
        now = time.time()
        values = {name: _scalar(name, value) for name, value in scalars.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        record = {"step": int(step), "time": now, **finite}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        summary = Summary(
            value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        )
        event = Event(step=int(step), wall_time=now, summary=summary)
        self._events.write_event(event)
        if time.monotonic() - self._flushed > self.FLUSH_S:
            self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class NoMetricWriter:
    """What the other processes write: nothing."""

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class Profiler:
    """Traces some steps of a loop with jax.profiler, once its compilation is behind it.

    Open the trace with TensorBoard's profile plugin, or as Perfetto's `perfetto_trace.json.gz`.
    """

    SKIPPED = 5  # steps before the trace: compilation, first touches of memory

    def __init__(self, directory: files.PathLike, steps: int):
        """`steps` is how many to trace into `directory`; 0 for none."""
        self._directory, self._steps = directory, steps
        self._done = 0

    def step(self, state: Any) -> None:
        """Call after each step with what it returned."""
        self._done += 1
        if not self._steps or self._done not in (self.SKIPPED, self.SKIPPED + self._steps):
            return
        jax.block_until_ready(state)
        if self._done == self.SKIPPED:
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
        else:
            self._steps = 0
            jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._steps and self._done >= self.SKIPPED:
            jax.profiler.stop_trace()


class ProgressBar:
    """A bar on standard error with candidates per second and time left.

    Nothing at all is printed where standard error is not a terminal. The rate leaves out the time
    to the first update, which compilation dominates. Call `update` only once the work is done on
    the device, or it shows the rate of dispatch.

    Example:
      with ProgressBar(steps, "train", initial=resumed) as bar:
          bar.update(100, candidates=100 * batch_candidates)
    """

    def __init__(self, total: int, description: str, *, initial: int = 0, enabled: bool = True):
        """Starts the bar.

        Args:
          total: number of units (steps, blocks, requests) of the whole work.
          description: what is being done.
          initial: units done before, by the run that this one resumes.
          enabled: false in processes that leave it to another.
        """
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=description,
            disable=None if enabled else True,  # None is tqdm's word for: unless a terminal
            dynamic_ncols=True,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}{postfix}]",
        )
        self._start: float | None = None
        self._candidates = 0

    def update(self, units: int, candidates: int) -> None:
        """Counts `units` more of the total, in which `candidates` were processed."""
        now = time.monotonic()
        if self._start is None:
            self._start = now
        else:
            self._candidates += candidates
            rate = self._candidates / max(now - self._start, 1e-9)
            self._bar.set_postfix_str(f"{tqdm.format_sizeof(rate)} candidates/s", refresh=False)
        self._bar.update(units)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _scalar(name: str, value: Any) -> float | int:
    if name in ("step", "time"):
        raise InputError(f"a metric cannot be named '{name}': metrics.jsonl has that field.")
    array = np.asarray(value)
    if array.ndim or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise InputError(
            f"metric '{name}' has shape {array.shape} and type {array.dtype}. Expected a number."
        )
    return array.item()


def _truncate(path: Path, last_step: int | None) -> None:
    """Drops a line torn by a kill in mid-write, and lines of steps past `last_step`."""
    # A line is whole when its newline is there.
    *lines, torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            step = operator.index(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} line {number} is not a JSON object with a 'step': {line[:60]!r}. Expected "
                "the file of an earlier run: move it away."
            ) from error
        if last_step is None or step <= last_step:
            kept.append(line)
    if torn or len(kept) < len(lines):
        with outputs.new_file(path) as partial:
            partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
