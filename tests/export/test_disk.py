"""A disk that is full: one line that says what to do, nothing half done, and it runs again."""

import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.ranking.ranker import Ranker
from tests.faults.conftest import mounts  # noqa: F401
from tests.serving.making import new_items, requests

pytestmark = pytest.mark.thorough  # every station by its command


@pytest.fixture
def arguments(served, tmp_path):
    asked = requests(300)
    pq.write_table(asked, tmp_path / "requests.parquet")
    pq.write_table(new_items(), tmp_path / "items.parquet")
    return {
        "export": [f"--workdir={served.run}", f"--state={served.state}", "--onnx=0"],
        "score": [f"--bundle={served.bundle}", f"--requests={tmp_path}/requests.parquet"],
        "index update": [f"--bundle={served.bundle}", f"--items={tmp_path}/items.parquet"],
        "index compact": [f"--bundle={served.bundle}"],
    }


@pytest.mark.parametrize(
    ("station", "sizes"),
    [
        ("export", ("40k", "300k")),
        ("score", ("8k",)),
        ("index update", ("40k", "300k")),
        ("index compact", ("40k", "300k")),
    ],
)
def test_a_full_disk(station, sizes, arguments, tmp_path, mounts, capsys):  # noqa: F811
    disk = mounts.disk(tmp_path / "disk", sizes[0])
    command = [*station.split(), *arguments[station], f"--out={disk / 'out'}"]
    for size in sizes:
        mounts.resize(disk, size)
        assert cli.main(command) == 2
        *before, last = capsys.readouterr().err.splitlines()
        assert last.startswith("interactrank: ")
        assert "No space left on device. Free some space and run the same command again" in last
        assert not any("interactrank_jax/" in line for line in before), "a traceback of ours"
        assert not list(disk.iterdir())
    mounts.resize(disk, "64m")
    assert cli.main(command) == 0
    assert [path.name for path in disk.iterdir()] == ["out"]
    if station != "score":
        Ranker(disk / "out", verify=True)


@pytest.mark.parametrize("station", ["export", "score", "index update", "index compact"])
def test_a_place_that_is_read_only(station, arguments, tmp_path, mounts, capsys):  # noqa: F811
    place = mounts.read_only(tmp_path / "disk") / "out"
    assert cli.main([*station.split(), *arguments[station], f"--out={place}"]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert "Read-only file system. Choose another directory" in last
