"""Five simulated days by the real commands, killed at each step, and one that nothing killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.config import configuration
from interactrank_jax.daily import daily
from interactrank_jax.daily.plan import Bounds, Windows
from interactrank_jax.daily.root import Root
from interactrank_jax.daily.steps import Words
from interactrank_jax.io import files
from interactrank_jax.log.simulator.simulate import simulate
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.state.days import SECONDS_PER_DAY, date
from tests.conftest import REPOSITORY
from tests.daily.conftest import CONFIG, LATER
from tests.daily.fake_commands import Killed

pytestmark = pytest.mark.thorough  # trainings, some in processes of their own

BEFORE, DAYS = 6, 5  # days of the log before the first that is run, and days that are run
# A young log: what it counts grows from day to day.
LOOSE = Bounds(fall=0.5, psi=5.0, null_rate=0.9, staleness=7)
PATIENCE_S = 240


@pytest.fixture(scope="module")
def whole_log(tmp_path_factory):
    """A simulated log with one part a day; read only."""
    path = tmp_path_factory.mktemp("simulated") / "log"
    simulate("tiny", 0, path, requests=900, days=BEFORE + DAYS, chunk_days=1)
    return path


def grow(log: Path, whole: Path, number: int) -> str:
    """Adds to a log the parts through a day, and the items that are there by then; its date."""
    for name in ("requests", "impressions", "events"):
        (log / name).mkdir(parents=True, exist_ok=True)
        for part in sorted((whole / name).iterdir())[: number + 1]:
            if not (log / name / part.name).exists():
                shutil.copy(part, log / name)
    shutil.copy(whole / "schema.json", log)
    requests = pq.read_table(sorted((log / "requests").iterdir())[-1])
    day = int(requests["timestamp"].to_numpy()[-1]) // SECONDS_PER_DAY
    items = pq.read_table(whole / "items")
    end = (day + 1) * SECONDS_PER_DAY
    pq.write_table(items.filter(pc.less(items["created_at"], end)), log / "items.parquet")
    return date(day)


def run(root: Root, log: Path, day: str, execute) -> dict:
    """Runs a day in this process, its commands by `execute`."""
    words = Words(config=(f"--config={CONFIG}",), registers=(), log=str(log), onnx=False)
    return daily.run_day(
        *(configuration.load(str(CONFIG)), words, root),
        day=day,
        windows=Windows(3),
        bounds=LOOSE,
        keep=DAYS,
        execute=execute,
    )


class Killing:
    """Runs commands in this process; some in one of their own, which is killed at work.

    Attributes:
      kills: numbers of the day's commands that are killed, each once.
    """

    def __init__(self, root: Path, kills: set[int], seed: int):
        self.root, self.kills = root, kills
        self.seen: list[tuple[str, ...]] = []
        self._random = random.Random(seed)

    def __call__(self, words):
        if words in self.seen or len(self.seen) not in self.kills:
            self.seen += [words] if words not in self.seen else []
            return cli.main(words)
        self.seen.append(words)
        before = self._paths()
        process = subprocess.Popen(
            [sys.executable, "-m", "interactrank_jax", *words],
            cwd=REPOSITORY,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Once it began to write, or later: evaluations write nothing until their end.
        deadline = time.monotonic() + self._random.uniform(4, 8)
        while process.poll() is None and self._paths() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(self._random.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise Killed

    def _paths(self) -> set[str]:
        # What vanishes meanwhile is no error to this walk.
        return {os.path.join(top, name) for top, _, names in os.walk(self.root) for name in names}  # noqa: PTH118


# Of a bundle two exports write these in other orders, or with the lines of code that were traced.
UNORDERED = ("graphs", "queries", "users")


def outcome(root: Path) -> dict:
    """Returns what a loop is for: the history, the figures of each day, and the bundles."""
    names = ["history.jsonl"]
    names += [path.relative_to(root).as_posix() for path in root.glob("versions/*/*.json")]
    contents = {}
    for bundle in sorted(root.glob("versions/*/bundle")):
        opened = Bundle.open(bundle, verify=True).artifact
        version = bundle.relative_to(root).as_posix()
        ordered = [name for name in opened.digests if not name.startswith(UNORDERED)]
        names += [f"{version}/{name}" for name in ordered]
        contents[version] = {key: opened.record[key] for key in opened.record if key != "sizes"}
    contents |= {name: (root / name).read_bytes() for name in sorted(names)}
    return contents | {"current": str((root / "current").readlink())}


def ranking(root: Path, whole: Path) -> dict:
    """Returns how the published bundle ranks the requests of the log's last day."""
    requests = pq.read_table(sorted((whole / "requests").iterdir())[-1])
    return Ranker.load(root / "current").rank(requests, k=20).to_pydict()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, whole_log):
    """ROOT of five days that nothing interrupted, moved away, and where it was."""
    place = tmp_path_factory.mktemp("loop")
    root, log = Root(place / "root"), place / "log"
    for number in range(BEFORE, BEFORE + DAYS):
        run(root, log, grow(log, whole_log, number), cli.main)
    root.path.rename(place / "whole")
    shutil.rmtree(log)
    return place


def test_five_days_end_in_a_history_and_a_bundle_that_ranks(uninterrupted, whole_log):
    root = Root(uninterrupted / "whole")
    lines = list(root.history().values())
    assert len(lines) == len(root.days()) == DAYS
    assert {line["outcome"] for line in lines} == {"published"}
    assert [line["base"] for line in lines] == ["", *root.days()[:-1]]
    # A day has as many requests as the simulator gave it; the published model has seen none.
    for line in lines[1:]:
        assert 60 < line["progressive"]["requests"] < 100
        assert 0.4 < line["progressive"]["metrics"]["roc_auc"] < 1
        low, high = line["difference"]["roc_auc"][1:]
        assert low <= line["difference"]["roc_auc"][0] <= high
        assert line["drift"]["problems"] == []
    assert root.figure.exists()
    items = [
        Bundle.open(root.version(day) / "bundle").artifact.record["items"] for day in root.days()
    ]
    assert items == sorted(items)
    assert items[0] < items[-1]  # the catalogue grows from day to day
    ranked = ranking(root.path, whole_log)
    assert len(ranked["score"]) == 20 * len(set(ranked["request_id"]))


def test_of_any_step_that_is_killed_nothing_is_left(uninterrupted, whole_log):
    """Each step of a day is killed at work on one of five days, some on two."""
    root, log = Root(uninterrupted / "root"), uninterrupted / "log"
    killed = []
    for count in range(DAYS):
        day = grow(log, whole_log, BEFORE + count)
        kills = {number for number in range(len(LATER)) if number % DAYS == count}
        commands = Killing(root.path, kills, seed=count)
        while True:
            try:
                run(root, log, day, commands)
            except Killed:
                killed.append(commands.seen[-1][:2])
                continue
            break
    assert len(killed) >= len(LATER)
    whole = uninterrupted / "whole"
    assert outcome(root.path) == outcome(whole)
    assert ranking(root.path, whole_log) == ranking(whole, whole_log)
    left = [path for path in root.path.rglob("*") if ".partial-" in path.name]
    assert not left


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the child of a dead parent")
def test_a_command_ends_with_the_loop_that_is_ended(whole_log, tmp_path):
    log, root = tmp_path / "log", Root(tmp_path / "root")
    day = grow(log, whole_log, BEFORE)
    flags = [f"--config={CONFIG}", f"--log={log}", f"--root={root.path}", f"--day={day}"]
    flags += ["--onnx=0", "--window=3", f"--max_psi={LOOSE.psi}", f"--max_fall={LOOSE.fall}"]
    flags.append(f"--max_null_rate={LOOSE.null_rate}")
    version = root.version(day)
    for number in (signal.SIGTERM, signal.SIGKILL):
        process, children = _at_work(flags, version)
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
        is_asked = number is signal.SIGTERM
        assert process.returncode == (128 + number if is_asked else -number)
        assert ("interrupted; nothing half-written was left" in errors) == is_asked
        deadline = time.monotonic() + PATIENCE_S
        while any(map(_lives, children)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not (version / "examples").exists()
        assert any(map(_is_partial, version.iterdir())) != is_asked
    assert cli.main(["daily", *flags]) == 0  # nobody is at work there, nothing has to be removed
    assert files.read_json(version / "outcome.json")["outcome"] == "published"


def _at_work(flags: list[str], version: Path) -> tuple[subprocess.Popen, list[int]]:
    """Starts a loop; returns it and the processes of its command, which prepares examples."""
    process = subprocess.Popen(
        [sys.executable, "-m", "interactrank_jax", "daily", *flags],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("[2/8] prepare: "):
            break
    before = set(version.iterdir())
    deadline = time.monotonic() + PATIENCE_S
    while not any(map(_is_partial, set(version.iterdir()) - before)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    return process, [int(child) for child in children]


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".examples.partial-")


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False
