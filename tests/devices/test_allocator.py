"""Huge pages: when a program starts itself again, and what it keeps when it does."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from interactrank_jax.devices import allocator
from tests.conftest import REPOSITORY

ON = f"{allocator.TUNABLE}=1"
# A config file, which a command runs: it says what process runs it.
PROBE = """
import json, os, pathlib, signal, sys

state = {
    "pid": os.getpid(),
    "tunables": os.environ.get("GLIBC_TUNABLES"),
    "argv": sys.orig_argv[1:],
    "stdin": sys.stdin.read(),
    "hangup": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
    "modules": sorted(sys.modules),
}
pathlib.Path("state.json").write_text(json.dumps(state))
raise ValueError
"""
# As pip writes it.
SCRIPT = """
import sys
from interactrank_jax.cli import run

sys.exit(run())
"""
# Runs first in every interpreter that is started.
COUNTING = """
with open("starts", "a") as file:
    file.write("x")
"""

restarts = pytest.mark.skipif(
    not allocator.is_supported(), reason="glibc does not ask this kernel for huge pages"
)


def environment(**variables) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in (allocator.VARIABLE, allocator.RESTARTED)
    }
    return {**inherited, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY), **variables}


def start(directory, program, environ, first=COUNTING):
    """Runs a program in a directory; returns its process, and what the config file saw."""
    (directory / "probe.py").write_text(PROBE)
    (directory / "sitecustomize.py").write_text(first)
    environ["PYTHONPATH"] += f":{directory}"
    done = subprocess.Popen(
        [sys.executable, *program, "config", "--config=probe.py"],
        cwd=directory,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    done.communicate("typed", timeout=240)
    path = directory / "state.json"
    return done, json.loads(path.read_text()) if path.exists() else {}


def starts(directory) -> int:
    return len((directory / "starts").read_text())


class TestVariables:
    @pytest.mark.parametrize("platforms", ["cpu", "cpu,cuda"])
    def test_ask_for_huge_pages_on_cpus(self, platforms):
        environ = {"JAX_PLATFORMS": platforms, "HOME": "/root"}
        changed = allocator.with_huge_pages(environ)
        assert changed == {
            **environ,
            allocator.VARIABLE: ON,
            allocator.RESTARTED: str(os.getpid()),
        }

    def test_keep_other_tunables(self):
        environ = {"JAX_PLATFORMS": "cpu", allocator.VARIABLE: "glibc.malloc.arena_max=2"}
        changed = allocator.with_huge_pages(environ)
        assert changed[allocator.VARIABLE] == f"glibc.malloc.arena_max=2:{ON}"

    @pytest.mark.parametrize(
        "environ",
        [
            {allocator.VARIABLE: ON},
            {allocator.VARIABLE: f"glibc.malloc.arena_max=2:{allocator.TUNABLE}=0"},
            {allocator.RESTARTED: str(os.getpid())},
            {"JAX_PLATFORMS": "cuda"},
            {"JAX_PLATFORMS": "tpu,cpu"},
        ],
        ids=["on", "off", "again", "cuda", "tpu"],
    )
    def test_stay_as_they_are(self, environ):
        assert allocator.with_huge_pages({"JAX_PLATFORMS": "cpu", **environ}) is None

    @pytest.mark.parametrize("plugin", ["jax-cuda12-plugin", "libtpu"])
    def test_stay_where_a_plugin_is_installed_and_no_platform_named(self, plugin, monkeypatch):
        installed = []

        def version(name):
            if name not in installed:
                raise allocator.importlib.metadata.PackageNotFoundError(name)
            return "1"

        monkeypatch.setattr(allocator.importlib.metadata, "version", version)
        assert allocator.with_huge_pages({}) is not None
        installed.append(plugin)
        assert allocator.with_huge_pages({}) is None
        assert allocator.with_huge_pages({"JAX_PLATFORMS": "cpu"}) is not None

    def test_do_not_help_where_the_kernel_is_not_asked(self, monkeypatch, tmp_path):
        modes = tmp_path / "enabled"
        monkeypatch.setattr(allocator, "_KERNEL", modes)
        assert not allocator.is_supported()
        for mode in ("[always] madvise never", "always madvise [never]"):
            modes.write_text(mode)
            assert not allocator.is_supported()


class TestProgram:
    @pytest.fixture(params=["module", "script"])
    def program(self, request, tmp_path):
        script = tmp_path / "interactrank"
        script.write_text(SCRIPT)
        return ["-m", "interactrank_jax"] if request.param == "module" else [str(script)]

    @restarts
    def test_starts_again_once_as_the_same_process(self, program, tmp_path):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        try:
            done, state = start(tmp_path, ["-X", "utf8", *program], environment())
        finally:
            signal.signal(signal.SIGHUP, before)
        assert done.returncode == 2
        assert starts(tmp_path) == 2
        assert state["pid"] == done.pid
        assert state["tunables"] == ON
        assert state["argv"] == ["-X", "utf8", *program, "config", "--config=probe.py"]
        assert state["stdin"] == "typed"
        assert state["hangup"]

    @restarts
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ends_at_a_signal_to_the_process_that_was_started(self, number, program, tmp_path):
        waiting = "import pathlib, time\npathlib.Path('waits').touch()\ntime.sleep(60)\n"
        (tmp_path / "probe.py").write_text(waiting)
        command = [sys.executable, *program, "config", "--config=probe.py"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
        deadline = time.monotonic() + 240
        while not (tmp_path / "waits").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 128 + number
        assert b"interrupted; nothing half-written was left" in errors

    @restarts
    def test_starts_again_before_it_imports_anything_large(self, program, tmp_path):
        first = COUNTING + (
            "import os, sys\nbefore = os.execve\n"
            "def execve(*arguments):\n"
            "    open('modules', 'w').write(' '.join(sys.modules))\n"
            "    before(*arguments)\n"
            "os.execve = execve\n"
        )
        start(tmp_path, program, environment(), first)
        modules = set((tmp_path / "modules").read_text().split())
        assert "interactrank_jax.devices.allocator" in modules
        assert not modules & {"numpy", "jax", "ml_collections", "pyarrow"}

    @restarts
    def test_gives_up_where_the_system_drops_the_variable(self, program, tmp_path):
        first = COUNTING + "import os\nos.environ.pop('GLIBC_TUNABLES', None)\n"
        done, state = start(tmp_path, program, environment(), first)
        assert (done.returncode, starts(tmp_path), state["tunables"]) == (2, 2, None)

    @restarts
    def test_goes_on_where_it_cannot_be_started_again(self, program, tmp_path):
        first = COUNTING + (
            "import os\ndef execve(*arguments):\n    raise PermissionError\nos.execve = execve\n"
        )
        done, state = start(tmp_path, program, environment(), first)
        assert (done.returncode, starts(tmp_path), state["tunables"]) == (2, 1, None)

    @pytest.mark.parametrize("value", ["0", "1"])
    def test_leaves_the_users_own_choice(self, program, value, tmp_path):
        chosen = f"{allocator.TUNABLE}={value}"
        done, state = start(tmp_path, program, environment(GLIBC_TUNABLES=chosen))
        assert (done.returncode, starts(tmp_path), state["tunables"]) == (2, 1, chosen)

    def test_of_somebody_else_is_not_started_again(self, tmp_path):
        script = tmp_path / "analysis.py"
        script.write_text(SCRIPT)
        done, state = start(tmp_path, [str(script)], environment())
        assert (done.returncode, starts(tmp_path), state["tunables"]) == (2, 1, None)

    def test_read_from_standard_input_is_not_started_again(self, tmp_path):
        (tmp_path / "sitecustomize.py").write_text(COUNTING)
        done = subprocess.run(
            [sys.executable, "-", "nothing"],
            cwd=tmp_path,
            env=environment(PYTHONPATH=f"{REPOSITORY}:{tmp_path}"),
            input=SCRIPT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, starts(tmp_path)) == (2, 1)
        assert "no command 'nothing'" in done.stderr

    def test_with_standard_streams_closed_still_runs(self, program, tmp_path):
        command = [sys.executable, *program, "help"]
        line = ["sh", "-c", '"$@" >&- 2>&-', "sh", *command]
        done = subprocess.run(line, cwd=tmp_path, env=environment(), check=False)
        assert done.returncode == 0


@pytest.mark.long  # starts a process twice
@restarts
def test_a_runner_starts_again_too(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(COUNTING)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.quickstart", "--out=.", "--preset=none"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=f"{REPOSITORY}:{tmp_path}"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, starts(tmp_path)) == (2, 2)
    assert "quickstart: . holds something that is no quickstart" in done.stderr


@pytest.mark.parametrize("is_ours", [True, False], ids=["ours", "pytest"])
def test_only_our_own_program_is_started_again(is_ours, monkeypatch):
    restarted = []
    monkeypatch.setattr(allocator.os, "execve", lambda *arguments: restarted.append(arguments))
    monkeypatch.setattr(allocator, "is_supported", lambda: True)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv(allocator.VARIABLE, raising=False)
    if is_ours:
        monkeypatch.setitem(sys.modules, "__main__", type(sys)("__main__"))
        monkeypatch.setattr(sys, "argv", ["/usr/bin/interactrank"])
    allocator.restart_with_huge_pages()
    assert [arguments[1][1:] for arguments in restarted] == [sys.orig_argv[1:]] * is_ours
