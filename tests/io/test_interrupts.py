"""Signals: work ends where it can end well, or else is ended; never swallowed, never a crash."""

import os
import pkgutil
import signal
import subprocess
import sys
import time

import pytest

from interactrank_jax import cli
from interactrank_jax.io import interrupts
from tests.conftest import REPOSITORY

# Lines before the body: a short grace, a sign that the work has begun.
_PROLOGUE = """
import hashlib, signal, sys, time
from interactrank_jax.io import interrupts
interrupts.GRACE = 1.0
def begun(): print("begun", flush=True)
def stuck(): hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**9)  # in C, with Python's lock released
with interrupts.handled():
    try:
"""
_EPILOGUE = """
    except interrupts.Interrupted as error:
        sys.exit(error.status)
sys.exit(0)
"""


def run(body: str, *numbers: int, pause: float = 1.0) -> tuple[int, str, float]:
    """Runs Python lines, sends signals; returns the status, errors, and seconds until the end."""
    lines = "\n".join(" " * 8 + line for line in body.splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", _PROLOGUE + lines + _EPILOGUE],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        start = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(pause)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, errors, time.monotonic() - start


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_loop_that_looks_ends_at_its_next_round(number):
    body = "with interrupts.deferred():\n    begun()\n    while True: interrupts.check()"
    assert run(body, number)[:2] == (128 + number, "")


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_without_deferral_a_signal_raises_at_once(number):
    assert run("begun()\ntime.sleep(60)", number)[:2] == (128 + number, "")


def test_a_deferred_signal_raises_at_the_end_of_the_block():
    body = "with interrupts.deferred():\n    begun()\n    time.sleep(2)\nprint('went on')"
    # Nobody looks at the flag within the grace of a second.
    status, errors, _ = run(body, signal.SIGINT, pause=0)
    assert (status, "nothing stopped within 1 s" in errors) == (130, True)
    body = body.replace("time.sleep(2)", "time.sleep(.5)")
    assert run(body, signal.SIGINT)[:2] == (130, "")


def test_sigterm_ends_what_hangs_in_a_library():
    status, errors, seconds = run("with interrupts.deferred():\n    begun()\n    stuck()", 15)
    assert status == 143
    assert "nothing stopped within 1 s" in errors
    assert seconds < 10


def test_a_second_ctrl_c_ends_at_once():
    body = "interrupts.GRACE = 60\nwith interrupts.deferred():\n    begun()\n    stuck()"
    status, errors, seconds = run(body, signal.SIGINT, signal.SIGINT)
    assert status == 130
    assert "interrupted twice" in errors
    assert seconds < 20


@pytest.mark.parametrize("number", interrupts.SIGNALS)
@pytest.mark.parametrize("where", ["callback", "destructor"])
@pytest.mark.parametrize("work", ["time.sleep(60)", "slow()"])
def test_a_signal_during_garbage_collection_is_neither_dropped_nor_printed(number, where, work):
    """Nor is it taken for a second one where it waits for a library's code to end."""
    body = f"""
import gc
interrupts.GRACE = 30.0
def slow(): hashlib.pbkdf2_hmac("sha256", b"", b"", 3 * 10**6)  # longer than a second
def callback(phase, info):
    if phase == "stop": return
    begun()
    {work}
class Cycle:
    def __init__(self): self.itself = self
    def __del__(self): callback("start", None)
if "{where}" == "callback": gc.callbacks.append(callback)
else: Cycle()
gc.collect()
gc.callbacks.clear()
time.sleep(60)
""".strip()
    status, errors, seconds = run(body, number, pause=0)
    assert (status, errors) == (128 + number, "")
    assert seconds < 30


def test_what_else_is_dropped_is_printed_as_ever():
    body = """
class Broken:
    def __del__(self): raise ValueError("broken")
begun()
Broken()
""".strip()
    status, errors, _ = run(body)
    assert status == 0
    assert "Exception ignored in" in errors
    assert "ValueError: broken" in errors


def test_a_loop_that_asks_itself_is_left_to_finish():
    body = """
with interrupts.deferred(raising=False):
    begun()
    while interrupts.requested() is None: interrupts.check()
    interrupts.check()
    time.sleep(2)  # longer than the grace: saving a checkpoint
    print("saved", file=sys.stderr)
""".strip()
    assert run(body, signal.SIGTERM)[:2] == (0, "saved\n")


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with interrupts.handled(), interrupts.deferred(), interrupts.handled():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before
    assert interrupts.requested() is None
    interrupts.check()


@pytest.fixture(scope="module")
def stations(trained_run, examples_path, tmp_path_factory):
    """The command line of each station that runs jax, and what it would write."""
    index = tmp_path_factory.mktemp("index") / "index"
    of_run = [f"--workdir={trained_run}", f"--examples={examples_path}"]
    assert cli.main(["index", *of_run, f"--out={index}"]) == 0
    return {
        "evaluate": ["evaluate", *of_run],
        "index": ["index", *of_run, "--out=OUT"],
        "score": ["score", *of_run, f"--index={index}", "--candidates=corpus", "--out=OUT"],
        "score slates": ["score", *of_run, f"--index={index}", "--out=OUT"],
        "explain": ["explain", *of_run, "--request=test-3"],
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("station", ["evaluate", "index", "score", "score slates", "explain"])
def test_a_station_stops_with_nothing_half_written(
    stations, station, number, tmp_path, monkeypatch, capsys
):
    look, rounds = interrupts.check, []

    def check():
        if sys._getframe(1).f_code.co_name == "deferred":  # at the end of a block, not in a loop
            return look()
        rounds.append(station)
        if len(rounds) == 1:
            os.kill(os.getpid(), number)
        return look()

    monkeypatch.setattr(interrupts, "check", check)
    out = tmp_path / "out"
    argv = [argument.replace("OUT", str(out)) for argument in stations[station]]
    assert cli.main(argv) == 128 + number
    assert len(rounds) == 1
    assert "nothing half-written was left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "place",
    ["jax.devices", "orbax.checkpoint.StandardCheckpointer.restore", "flax.linen.Module.apply"],
)
def test_no_signal_raises_while_jax_or_orbax_work(stations, place, monkeypatch, capsys):
    """Interrupted in the middle, both print errors of their own, or crash when Python ends."""
    module, _, name = place.rpartition(".")
    owner = pkgutil.resolve_name(module)
    work, ends = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        if not ends:
            os.kill(os.getpid(), signal.SIGINT)
        result = work(*args, **kwargs)
        ends.append(place)
        return result

    monkeypatch.setattr(owner, name, interrupted)
    assert cli.main(stations["explain"]) == 130
    assert ends
    assert "interrupted; nothing half-written was left" in capsys.readouterr().err


def test_an_interruption_that_a_library_turns_into_its_own_error_is_one(monkeypatch, capsys):
    def run(args):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt as error:
            raise RuntimeError("query interrupted") from error

    command = cli.COMMANDS["simulate"]
    monkeypatch.setitem(cli.COMMANDS, "simulate", type(command)(run, "", "", {}))
    assert cli.main(["simulate"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_closed_pipe_and_a_full_output_end_without_a_traceback(tmp_path):
    command = f"exec {sys.executable} -m interactrank_jax config"
    for shell, status in (
        (f"({command}; echo $? >{tmp_path}/status) | true", "141"),
        (f"({command}; echo $? >{tmp_path}/status) | head -1", None),
        (f"({command}) >/dev/full; echo $? >{tmp_path}/status", "2"),
    ):
        shell = shell.replace("exec ", "")
        result = subprocess.run(
            ["bash", "-c", shell], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in result.stderr, shell
        assert "Exception ignored" not in result.stderr, shell
        if status:
            assert (tmp_path / "status").read_text().strip() == status, shell
