"""What the faults are planted in, each made once a file and read only, and disks that are full."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.log.handmade_log import data_config, make_tables, write_log


@pytest.fixture(scope="session")
def log_tables():
    return make_tables(60)


@pytest.fixture(scope="session")
def good_log(tmp_path_factory, log_tables):
    """The handmade log, small."""
    return write_log(tmp_path_factory.mktemp("faults") / "log", log_tables)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, good_log):
    """Its examples, with vocabularies."""
    from interactrank_jax.examples.prepare import prepare

    path = tmp_path_factory.mktemp("faults") / "examples"
    prepare(data_config(block_size=8), good_log, path)
    return path


@pytest.fixture(scope="session")
def index_path(tmp_path_factory, trained_run, examples_path):
    from interactrank_jax.ranking.index import build_index

    path = tmp_path_factory.mktemp("faults") / "index"
    build_index(trained_run, examples_path, path)
    return path


class Mounts:
    """Mounts file systems, and unmounts them at the end; skips the test where that is forbidden."""

    def __init__(self):
        self._mounted: list[Path] = []

    def _mount(self, path: Path, *arguments: str) -> Path:
        path.mkdir(exist_ok=True)
        command = ["mount", *arguments, str(path)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            pytest.skip(f"mounting is not permitted here: {found.stderr.strip()}")
        self._mounted.append(path)
        return path

    def disk(self, path: Path, size: str) -> Path:
        """Mounts an empty disk of `size` bytes ('64k') at `path`."""
        return self._mount(path, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def read_only(self, path: Path) -> Path:
        """Makes the directory `path` one that even root cannot write to."""
        return self._mount(path, "-t", "tmpfs", "-o", "ro", "tmpfs")

    def protect(self, path: Path) -> None:
        """Makes a mounted disk read-only."""
        subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)

    def resize(self, path: Path, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)

    def close(self) -> None:
        for path in self._mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def mounts():
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    result = Mounts()
    yield result
    result.close()
