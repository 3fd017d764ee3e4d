"""SIGINT, SIGTERM and SIGHUP: work ends where it can end well, or else is ended.

A Python signal handler runs between two instructions of the main thread. An exception that it
raises inside jax is swallowed or ends in a crash, and while the main thread is in a library's code
no handler runs at all. So inside `deferred` a signal only sets a flag, which every long loop looks
at (`check`, `requested`); elsewhere it raises `Interrupted` at once. A thread of its own sees each
signal when it comes: where nobody has looked at the flag within `GRACE` seconds, or SIGINT comes a
second time, it ends the process.

What is raised in a callback of the garbage collector, such as jax's, Python prints and drops: the
signal is then sent again.
"""

import builtins
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 20.0  # seconds
TWICE = 0.5  # seconds after which a signal is another one
AGAIN = 0.05  # seconds until a signal that was dropped comes again


class Interrupted(KeyboardInterrupt):
    """A signal asked the work to end; `status` is the exit status that a shell expects."""

    def __init__(self, message: str = "", number: int = signal.SIGINT):
        super().__init__(message)
        self.status = 128 + number


class _Requests:
    """What came, and whether somebody has taken note of it."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.noted = threading.Event()
        self.deferred = 0  # depth of `deferred` blocks
        self.raising = True  # whether `check` raises
        self.repeats = 0  # signals yet to come that are the last one again

    def note(self) -> int | None:
        """Returns the signal that came; the watcher then leaves the rest to the caller."""
        if self.number is not None:
            self.noted.set()
        return self.number

    def repeat(self) -> None:
        """Lets the signal come again in a moment, because Python dropped what it raised."""
        self.noted.clear()
        self.repeats += 1
        main = threading.main_thread().ident
        threading.Timer(AGAIN, signal.pthread_kill, (main, self.number)).start()


_installed: _Requests | None = None


def requested() -> int | None:
    """Returns the number of the signal that came, None if none did."""
    return _installed.note() if _installed is not None else None


def check() -> None:
    """Raises Interrupted if a signal came; for each round of a loop that may be long.

    Within `deferred(raising=False)` it only takes note, for the loop around it will ask.
    """
    number = requested()
    if number is not None and _installed is not None and _installed.raising:
        raise Interrupted(number=number)


@contextlib.contextmanager
def deferred(raising: bool = True) -> Iterator[None]:
    """Keeps signals from raising inside the block, which runs jax; raises at its end if one came.

    Args:
      raising: whether `check` raises; False where the block asks `requested` itself.
    """
    with handled():
        requests = _installed
        if requests is None:  # not in the main thread
            yield
            return
        before, requests.raising = requests.raising, raising and requests.raising
        requests.deferred += 1
        try:
            yield
        finally:
            requests.deferred -= 1
            requests.raising = before
        if raising:
            check()


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Takes the signals for the length of the block; inside another such block, or thread, nothing.

    SIGHUP stays ignored where it was, as by nohup.
    """
    global _installed
    if _installed is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    requests = _Requests()

    def handler(number, frame):
        requests.number = number
        if not requests.deferred:
            requests.noted.set()
            raise Interrupted(number=number)

    # A shell without job control lets its background jobs ignore SIGINT, nohup SIGHUP: the second
    # is meant.
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    taken = [number for number in SIGNALS if number != signal.SIGHUP or not ignored]
    before = {number: signal.signal(number, handler) for number in taken}
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(receiver, requests, taken), daemon=True)
    watcher.start()
    _installed = requests
    try:
        with _drops_repeated(requests):
            yield
    finally:
        _installed = None
        signal.set_wakeup_fd(descriptor)
        for number, previous in before.items():
            signal.signal(number, previous)
        sender.close()
        watcher.join()
        receiver.close()


@contextlib.contextmanager
def _drops_repeated(requests: _Requests) -> Iterator[None]:
    """Repeats a signal whose exception came where Python can only print and drop it."""
    before = sys.unraisablehook

    def hook(dropped, /):
        if isinstance(dropped.exc_value, Interrupted):
            requests.repeat()
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _watch(receiver: socket.socket, requests: _Requests, taken: list[signal.Signals]) -> None:
    """Ends the process where a signal stays without an answer; returns when the sender closes.

    An interactive one is not ended: it stops as soon as what hangs returns.
    """
    first = deadline = None
    while True:
        receiver.settimeout(None if deadline is None else max(deadline - time.monotonic(), 0.01))
        try:
            numbers = receiver.recv(16)
        except TimeoutError:
            if not requests.noted.is_set() and not _is_interactive():
                _end(int(requests.number or signal.SIGTERM), f"nothing stopped within {GRACE:g} s")
            deadline = None
            continue
        if not numbers:
            return
        for number in numbers:
            if number not in taken:
                continue
            if requests.repeats:
                requests.repeats -= 1
                continue
            now = time.monotonic()
            if first is None:
                first = now
            elif now - first > TWICE:  # sooner, it is the same key stroke, passed on by a parent
                if number == signal.SIGINT and not _is_interactive():
                    _end(number, "interrupted twice")
                requests.noted.clear()
            requests.number, deadline = number, now + GRACE


def _is_interactive() -> bool:
    """Whether somebody works in this process, a notebook say, and would lose it if it ended."""
    return hasattr(sys, "ps1") or hasattr(builtins, "get_ipython")


def _end(number: int, why: str) -> None:
    message = f"interactrank: {why}: ended. What was being written is removed by the next run.\n"
    with contextlib.suppress(OSError):
        sys.stderr.write(message)
        sys.stderr.flush()
    os._exit(128 + number)
