"""What is killed at work on STATE, or on what is made of it: nothing half done, and it goes on."""

import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.state import engines, store
from interactrank_jax.state.build import build_store
from tests.conftest import REPOSITORY
from tests.log.handmade_log import START
from tests.marks import some_quick
from tests.state.conftest import everything, state_config
from tests.state.test_outputs import contents

FIRST = START // 86_400


def write_config(place, options=""):
    """Writes a config file for the handmade log; returns its path."""
    config = place / "config.py"
    config.write_text(
        "import ml_collections\n"
        "from tests.state.conftest import FULL, RANDOM, state_config\n"
        "def get_config():\n"
        f"    return ml_collections.ConfigDict({{'data': state_config({options})}})\n"
    )
    return config


@pytest.mark.long  # builds a state several times
@pytest.mark.parametrize("written", some_quick(range(0, 24, 5), (5, 15)))
def test_a_build_that_dies_leaves_what_was_complete(
    written, log, whole, backend, tmp_path, monkeypatch
):
    """As if it died before a file, the files of a chunk being written one by one."""
    out, write = tmp_path / "state", engines.write_parquet
    before = build_store(state_config(), log, out, backend, through=FIRST + 8)
    held = everything(before, backend)
    left = [written]

    def dying(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(engines, "write_parquet", dying)
    with pytest.raises(KeyboardInterrupt):
        build_store(state_config(), log, out, backend, chunk_rows=400)
    monkeypatch.undo()
    opened = store.open_store(out, log)
    assert opened.chunks[0] == before.chunks[0]
    if len(opened.chunks) == 1:
        assert everything(opened, backend) == held
    rest = build_store(state_config(), log, out, backend)
    assert everything(rest, backend) == everything(whole, backend)
    assert not list(out.glob(".partial-*"))


@pytest.mark.long  # builds a state several times
@pytest.mark.parametrize(
    ("through", "written"),
    [
        (FIRST + 8, 9),
        pytest.param(None, 2, marks=pytest.mark.thorough),
        pytest.param(FIRST + 8, 1, marks=pytest.mark.thorough),
    ],
)
def test_a_killed_build_is_no_different(through, written, log, whole, backend, tmp_path):
    """The first chunk or a later one."""
    out, config = tmp_path / "state", write_config(tmp_path)
    if through is not None:
        before = everything(build_store(state_config(), log, out, backend, through), backend)
    flags = ["state", "build", f"--config={config}", f"--log={log.path}", f"--out={out}"]
    run_killed(written, flags)
    opened = store.open_store(out, log)
    assert len(opened.chunks) == (through is not None)
    assert list(out.glob(".partial-*"))
    if through is not None:
        assert everything(opened, backend) == before
    assert cli.main(flags) == 0
    assert everything(store.open_store(out, log), backend) == everything(whole, backend)


@pytest.mark.long  # builds a state several times
@pytest.mark.parametrize("what", ["snapshot", "features"])
def test_what_is_made_of_state_is_whole_or_not_there(
    what, log, whole, examples_with_rates, tmp_path
):
    day = "2022-01-28"
    days = [f"--as_of={day}"] if what == "snapshot" else [f"--since={day}", f"--until={day}"]
    flags = ["state", what, f"--log={log.path}", f"--state={whole.path}", *days]
    flags.append(f"--encoder={examples_with_rates}")
    assert cli.main([*flags, f"--out={tmp_path / 'before'}"]) == 0
    run_killed(1, [*flags, f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()
    assert cli.main([*flags, f"--out={tmp_path / 'out'}"]) == 0
    files = sorted((tmp_path / "before").rglob("*.parquet"))
    assert files
    for file in (path.relative_to(tmp_path / "before") for path in files):
        made, expected = (pq.read_table(tmp_path / name / file) for name in ("out", "before"))
        order = [(name, "ascending") for name in expected.column_names]
        assert made.sort_by(order) == expected.sort_by(order)


@pytest.mark.long  # builds a state several times
@pytest.mark.parametrize("written", some_quick([2, 9], [9]))
def test_a_preparation_killed_at_work_on_its_state_leaves_nothing(
    written, log, examples_with_rates, tmp_path
):
    out, config = tmp_path / "out", write_config(tmp_path)
    flags = ["prepare", f"--config={config}", f"--log={log.path}", f"--out={out}"]
    run_killed(written, flags)
    assert not out.exists()
    assert cli.main(flags) == 0
    assert not list(tmp_path.glob(".*"))
    made, expected = contents(out), contents(examples_with_rates)
    for name in expected.keys() - {"metadata.json"}:  # which names the files of STATE
        assert made[name] == expected[name], name


KILLS = 5


class TestRandomMoments:
    """SIGKILL, whatever is under way: the same command, run again, comes to the same end."""

    pytestmark = pytest.mark.thorough  # processes of their own, begun many times

    @pytest.fixture
    def environment(self, tmp_path):
        """Variables of a process whose scratch files lie in a place of their own."""
        (tmp_path / "scratch files").mkdir()
        return {
            "PYTHONPATH": str(REPOSITORY),
            "PATH": os.environ["PATH"],
            "TMPDIR": str(tmp_path / "scratch files"),
        }

    def _start(self, flags, environment):
        """Starts a command; returns its process when its imports are done and its work begins."""
        program = (
            "import sys\n"
            "from interactrank_jax import cli\n"
            "import interactrank_jax.examples.prepare\n"
            "print('ready', flush=True)\n"
            "sys.exit(cli.main(sys.argv[1:]))\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, *flags],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        return process

    def _finish(self, process):
        """Waits for the end of a command; returns how many seconds it took."""
        begin = time.monotonic()
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        return time.monotonic() - begin

    def _kill(self, flags, environment, seconds, out):
        """Kills a command again and again within the seconds that it takes, until it made `out`."""
        rng, kills = random.Random(len(flags)), 0
        for _ in range(KILLS):
            process = self._start(flags, environment)
            time.sleep(rng.uniform(0, seconds))
            kills += process.poll() is None
            process.kill()
            process.communicate()
            if out.exists():
                return kills
        self._finish(self._start(flags, environment))
        return kills

    def test_of_a_build(self, log, full, backend, environment, tmp_path):
        config = write_config(tmp_path, "**FULL")
        flags = ["state", "build", f"--config={config}", f"--log={log.path}"]
        seconds = self._finish(self._start([*flags, f"--out={tmp_path / 'whole'}"], environment))
        flags.append(f"--out={tmp_path / 'out'}")
        assert self._kill(flags, environment, seconds, tmp_path / "never")
        held = store.open_store(tmp_path / "out", log)
        assert everything(held, backend) == everything(full, backend)
        assert not list((tmp_path / "out").glob(".partial-*"))
        assert not list((tmp_path / "scratch files").iterdir())

    @pytest.mark.parametrize("how", ["state given", "state built", "random split"])
    def test_of_a_preparation(self, how, log, full, environment, tmp_path):
        config = write_config(tmp_path, "**RANDOM" if how == "random split" else "**FULL")
        flags = ["prepare", f"--config={config}", f"--log={log.path}"]
        flags += [f"--state={full.path}"] if how == "state given" else []
        before = contents(full.path)
        whole, out = tmp_path / "whole", tmp_path / "out"
        seconds = self._finish(self._start([*flags, f"--out={whole}"], environment))
        assert self._kill([*flags, f"--out={out}"], environment, seconds, out)
        assert contents(out) == contents(whole)
        assert contents(full.path) == before
        assert not list(tmp_path.glob(".*"))
        assert not list((tmp_path / "scratch files").iterdir())


def run_killed(written, flags):
    """Runs a command that is killed when it has written so many tables."""
    program = (
        "import os, signal, sys\n"
        "from interactrank_jax import cli\n"
        "from interactrank_jax.state import engines\n"
        f"write, left = engines.write_parquet, [{written}]\n"
        "def dying(*arguments):\n"
        "    write(*arguments)\n"
        "    left[0] -= 1\n"
        "    if not left[0]:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "engines.write_parquet = dying\n"
        "cli.main(sys.argv[1:])\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, *flags],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
