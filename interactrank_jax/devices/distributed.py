"""Several processes as one run: joining, waiting for each other, stopping together."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

from interactrank_jax.devices.parallel import all_devices
from interactrank_jax.io import interrupts
from interactrank_jax.io.errors import InputError

# Seconds without a sign of life after which a process counts as gone.
HEARTBEAT_TIMEOUT = 20
FAILED = 4  # exit status


class TrainingInterrupted(interrupts.Interrupted):
    """A signal came and a checkpoint is saved; the same command goes on from there."""


@contextmanager
def joined(coordinator: str, processes: int, process: int) -> Iterator[None]:
    """Makes this process one of a run's for the length of the block.

    An error in one process ends all: this one leaves at once, with status FAILED and a message,
    rather than wait for others that wait for it.

    Args:
      coordinator: HOST:PORT of process 0, the same everywhere; 'auto' where jax finds the others
        itself (TPU pods, Slurm, Kubernetes); '' for a process alone.
      processes: number of processes.
      process: this one's number, from 0.

    Raises:
      InputError: numbers that make no sense, or the others were not found.
    """
    if not coordinator:
        if (processes, process) != (1, 0):
            raise InputError(
                f"--processes={processes} --process={process} without --coordinator: name the "
                f"HOST:PORT of process 0, or leave all three out."
            )
        yield
        return
    is_auto = coordinator == "auto"
    if not is_auto and not 0 <= process < processes:
        raise InputError(
            f"--process={process} of --processes={processes}. Expected a number from 0 to one less "
            f"than --processes, another for each process."
        )
    try:
        jax.distributed.initialize(
            coordinator_address=None if is_auto else coordinator,
            num_processes=None if is_auto else processes,
            process_id=None if is_auto else process,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--coordinator={coordinator}: the other processes were not found ({error}). Start all "
            f"of them with the same --coordinator and --processes."
        ) from error
    name = "this process"  # until jax's platform runs and knows its number
    try:
        all_devices()
        name = f"process {jax.process_index()} of {jax.process_count()}"
        yield
    except TrainingInterrupted:
        raise  # all stopped at the same step
    except BaseException as error:
        if not isinstance(error, InputError | FloatingPointError | jax.errors.JaxRuntimeError):
            traceback.print_exc()
        lost = isinstance(error, jax.errors.JaxRuntimeError)
        hint = " Another process ended or cannot be reached: look at its output." if lost else ""
        print(f"interactrank: {name} stopped: {error}{hint}", file=sys.stderr, flush=True)
        os._exit(FAILED)


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Turns signals into a question that the loop asks after each step, see `io/interrupts.py`.

    The question takes the number of steps done. One process is answered from its own signals. Of
    several, each is answered yes at the same step once any of them was told to stop: jax's
    coordination service, which listens for SIGTERM, finds a step that all can reach.
    """
    with interrupts.deferred(raising=False):
        if jax.process_count() == 1:
            yield lambda _: interrupts.requested() is not None
            return

        def pass_on(number, frame):
            os.kill(os.getpid(), signal.SIGTERM)

        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, pass_on)

        def stop(step: int) -> bool:
            interrupts.requested()  # takes note, so that the process is left to end by itself
            return multihost_utils.reached_preemption_sync_point(step)

        yield stop
