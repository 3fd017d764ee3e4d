"""A disk that is full, or may not be written: one line that says what to do, and nothing half done.

Each station is run by its command. The disk is a tmpfs of a few kilobytes where mounting is
permitted; a limit on the size of files does much the same to writers and works everywhere.
"""

import contextlib
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from interactrank_jax import cli
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.best import fingerprint
from interactrank_jax.runs.run import Run
from tests.conftest import REPOSITORY
from tests.faults.processes import steps
from tests.log.adapters.raw_movielens import original_100k, write
from tests.state.test_outputs import contents

pytestmark = pytest.mark.thorough  # every station by its command

CONFIG = f"--config={REPOSITORY / 'tests' / 'faults' / 'configs.py'}"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, good_log, examples_path, trained_run, index_path):
    """Returns the arguments of each station, but for where it writes."""
    source = write(tmp_path_factory.mktemp("stations") / "ml", original_100k())
    examples, workdir = f"--examples={examples_path}", f"--workdir={trained_run}"
    return {
        "simulate": ["--preset=tiny"],
        "convert": ["--format=movielens", f"--source={source}"],
        "prepare": [f"{CONFIG}:log", f"--log={good_log}"],
        "state build": [f"{CONFIG}:log", f"--log={good_log}"],
        "train": [f"{CONFIG}:tiny", examples],
        "evaluate": [examples],
        "index": [examples, workdir],
        "score": [examples, workdir, f"--index={index_path}", "--k=5"],
    }


def run(station: str, arguments: dict[str, list[str]], place: Path) -> int:
    name = "workdir" if station in ("train", "evaluate") else "out"
    return cli.main([*station.split(), *arguments[station], f"--{name}={place}"])


def message(capsys) -> str:
    """Returns the one line that a command failed with: the last."""
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith("interactrank: ")
    assert not any("interactrank_jax/" in line for line in before), "a traceback of ours"
    return last


# How large the disk is: less than the station writes.
SIZES = {
    "simulate": "64k",
    "convert": "8k",
    "prepare": "64k",
    "index": "8k",
    "score": "4k",
}


@pytest.mark.parametrize("station", SIZES)
def test_a_full_disk(station, arguments, tmp_path, mounts, capsys):
    disk = mounts.disk(tmp_path / "disk", SIZES[station])
    assert run(station, arguments, disk / "out") == 2
    said = message(capsys)
    assert str(disk / "out") in said
    assert "No space left on device. Free some space and run the same command again" in said
    assert not list(disk.iterdir())

    mounts.resize(disk, "64m")
    assert run(station, arguments, disk / "out") == 0
    assert [path.name for path in disk.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("days", "room"),
    [
        *(("of the first days", room) for room in ("4k", "12k", "24k", "48k")),
        *(("of later days", room) for room in ("4k", "12k", "24k")),
    ],
)
def test_a_full_disk_in_state_build(days, room, arguments, tmp_path, mounts, capsys):
    """Days that were complete stay, and the same command goes on from there."""
    disk, state = mounts.disk(tmp_path / "disk", "64m"), ("state build", arguments)
    whole, out = tmp_path / "whole", disk / "out"
    if days == "of later days":
        some = {"state build": [*arguments["state build"], "--through=2022-01-20"]}
        assert [run("state build", some, place) for place in (whole, out)] == [0, 0]
    assert run(*state, whole) == 0
    before = contents(out)
    used = sum(4096 * -(-len(data) // 4096) for data in before.values() if data is not None)
    mounts.resize(disk, str(used + 1024 * int(room[:-1])))
    assert run(*state, out) == 2
    said = message(capsys)
    assert "No space left on device. Free some space and run the same command again" in said
    assert {name: contents(out).get(name) for name in before} == before
    assert len(list(out.glob("chunks/*.json"))) == (days == "of later days")

    mounts.resize(disk, "64m")
    assert run(*state, out) == 0
    assert contents(out) == contents(whole)


def test_a_full_disk_in_training(arguments, trained_run, tmp_path, mounts, capfd):
    disk = mounts.disk(tmp_path / "disk", "8k")
    for size in ("8k", "600k"):  # full at once; full in the first checkpoint
        mounts.resize(disk, size)
        assert run("train", arguments, disk / "run") == 2
        assert "Free some space and run the same command again" in message(capfd)
    mounts.resize(disk, "64m")
    assert run("train", arguments, disk / "run") == 0
    models = [Run.open(path).restore_model()[0] for path in (disk / "run", trained_run)]
    assert fingerprint(models[0]) == fingerprint(models[1])
    assert steps(disk / "run")[-1] == steps(trained_run)[-1]


def test_a_full_disk_in_evaluation(arguments, trained_run, examples_path, tmp_path, mounts, capsys):
    disk = mounts.disk(tmp_path / "disk", "64m")
    workdir = Path(shutil.copytree(trained_run, disk / "run"))
    for path in ("checkpoints", "eval"):
        shutil.rmtree(workdir / path, ignore_errors=True)
    used = 4096 * sum(1 + path.stat().st_size // 4096 for path in disk.rglob("*"))
    mounts.resize(disk, str(used + 4096))
    (disk / "filler").write_bytes(b"")
    with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()
    assert run("evaluate", arguments, workdir) == 2
    assert "eval/test.npz was not written: No space left on device. Free" in message(capsys)
    assert not list((workdir / "eval").glob("*"))
    mounts.resize(disk, "64m")
    assert run("evaluate", arguments, workdir) == 0
    assert len(Run.open(workdir).saved_scores(Examples(examples_path), "test")["score"])


@contextlib.contextmanager
def small_files(size: int):
    """No file may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("station", "size"), [("simulate", 4096), ("prepare", 70_000), ("index", 2000), ("score", 500)]
)
def test_a_limit_on_the_size_of_files(station, size, arguments, tmp_path, capsys):
    with small_files(size):
        assert run(station, arguments, tmp_path / "out") == 2
    assert "File too large. Free some space" in message(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "station", ["simulate", "convert", "prepare", "train", "evaluate", "index", "score"]
)
def test_a_place_that_is_read_only(station, arguments, trained_run, tmp_path, mounts, capsys):
    place = tmp_path / "disk"
    if station == "evaluate":
        disk = mounts.disk(place, "64m")
        shutil.copytree(trained_run, disk / "run")
        mounts.protect(disk)
        place = disk / "run"
    else:
        place = mounts.read_only(place) / "out"
    assert run(station, arguments, place) == 2
    said = message(capsys)
    assert "Read-only file system. Choose another directory, or make it writable" in said or (
        "Read-only file system. Choose another directory, or make this one writable" in said
    )
    assert str(place) in said or str(place.parent) in said


@pytest.mark.parametrize("station", ["simulate", "convert", "prepare", "train", "index", "score"])
def test_a_place_below_a_file(station, arguments, tmp_path, capsys):
    """What a directory that cannot be made looks like where root may write everywhere."""
    (tmp_path / "file").write_text("mine")
    assert run(station, arguments, tmp_path / "file" / "out") == 2
    assert str(tmp_path / "file") in message(capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("size", [100, 2000, 2719, 4096, 50_000])
def test_no_array_is_cut_short_in_silence(size, tmp_path):
    """NumPy's own `save` says nothing where less than its last buffer is lost."""
    for count in (680, 20_000):
        array = np.arange(count, dtype=np.float32)
        needed = 128 + array.nbytes
        with small_files(size):
            if needed > size:
                with pytest.raises(OSError, match="File too large"):
                    files.save_array(tmp_path / "x.npy", array)
                continue
            files.save_array(tmp_path / "x.npy", array)
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array)


def test_errors_of_other_kinds_stay_what_they_are(tmp_path):
    for error in (ValueError("shape"), OSError(5, "Input/output error"), KeyError("x")):
        with pytest.raises(type(error)), outputs.writing(tmp_path, "nothing"):
            raise error
    with pytest.raises(InputError, match="No space left"), outputs.writing(tmp_path, "nothing"):
        raise RuntimeError("RESOURCE_EXHAUSTED: Failed to write 278 bytes: No space left on device")
