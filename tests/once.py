"""What takes long to make and is only read: made by one of the processes that run the tests."""

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """Returns what `make(directory)` returned to the first process that asked; others wait for it.

    Args:
      factory: of the session's temporary directories.
      name: of the directory, one for each thing that is made.
      make: fills an empty directory; what it returns must pickle.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all processes
    path, result = root / name, root / f"{name}.pickle"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            shutil.rmtree(path, ignore_errors=True)  # of one that failed
            path.mkdir()
            made = make(path)
            result.write_bytes(pickle.dumps(made))
        return pickle.loads(result.read_bytes())
