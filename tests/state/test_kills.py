"""A build, or what is made of its counts, that is killed: nothing half done, and it goes on."""

import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.state import engines, store
from interactrank_jax.state.build import build_store
from tests.conftest import REPOSITORY
from tests.log.handmade_log import START
from tests.state.conftest import everything, iqp_config

FIRST = START // 86_400


@pytest.mark.parametrize("written", range(0, 24, 5))
def test_a_build_that_dies_leaves_what_was_complete(
    written, log, whole, backend, tmp_path, monkeypatch
):
    """As if it died before a file, the files of a chunk being written one by one."""
    out, write = tmp_path / "counts", engines.write_parquet
    before = build_store(iqp_config(), log, out, backend, through=FIRST + 8)
    held = everything(before, backend)
    left = [written]

    def dying(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(engines, "write_parquet", dying)
    with pytest.raises(KeyboardInterrupt):
        build_store(iqp_config(), log, out, backend, chunk_rows=400)
    monkeypatch.undo()
    opened = store.open_store(out, log)
    assert opened.chunks[0] == before.chunks[0]
    if len(opened.chunks) == 1:
        assert everything(opened, backend) == held
    rest = build_store(iqp_config(), log, out, backend)
    assert everything(rest, backend) == everything(whole, backend)
    assert not list(out.glob(".partial-*"))


@pytest.mark.parametrize(("through", "written"), [(None, 2), (FIRST + 8, 1), (FIRST + 8, 9)])
def test_a_killed_build_is_no_different(through, written, log, whole, backend, tmp_path):
    """The first chunk or a later one."""
    out = tmp_path / "counts"
    config = tmp_path / "config.py"
    config.write_text(
        "import ml_collections\n"
        "from tests.state.conftest import iqp_config\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict({'data': iqp_config()})\n"
    )
    if through is not None:
        before = everything(build_store(iqp_config(), log, out, backend, through), backend)
    flags = ["iqp", "build", f"--config={config}", f"--log={log.path}", f"--out={out}"]
    run_killed(written, flags)
    opened = store.open_store(out, log)
    assert len(opened.chunks) == (through is not None)
    assert list(out.glob(".partial-*"))
    if through is not None:
        assert everything(opened, backend) == before
    assert cli.main(flags) == 0
    assert everything(store.open_store(out, log), backend) == everything(whole, backend)


@pytest.mark.parametrize("what", ["snapshot", "features"])
def test_what_is_made_of_counts_is_whole_or_not_there(what, log, whole, tmp_path):
    day, last = "2022-01-28", "--train_until=2022-01-20"
    days = [f"--as_of={day}"] if what == "snapshot" else [f"--since={day}", f"--until={day}"]
    flags = ["iqp", what, f"--log={log.path}", f"--counts={whole.path}", *days, last]
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
