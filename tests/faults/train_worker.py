"""Trains in a process of its own, to be killed: `python -m tests.faults.train_worker --help`."""

import argparse
import functools
import importlib
import logging
import sys
import threading
from pathlib import Path

from interactrank_jax import cli
from tests.conftest import REPOSITORY

READY = "ready"


def pause_at(place: str, call: int, marker: Path, about: str) -> None:
    """Makes the `call`-th call of `module:attribute` write a file and never return.

    Only calls whose arguments say `about` are counted.
    """
    module, attribute = place.split(":")
    *owners, name = attribute.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original = getattr(owner, name)
    calls = iter(range(1, 1_000_000))

    @functools.wraps(original)
    def paused(*args, **kwargs):
        if about in str(args) and next(calls) == call:
            marker.touch()
            threading.Event().wait()
        return original(*args, **kwargs)

    setattr(owner, name, paused)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("examples")
    parser.add_argument("workdir")
    parser.add_argument("--pause", nargs=3, metavar=("MODULE:ATTRIBUTE", "CALL", "MARKER"))
    parser.add_argument("--about", default="")
    flags = parser.parse_args()
    if flags.pause:
        place, call, marker = flags.pause
        pause_at(place, int(call), Path(marker), flags.about)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # before what is imported does
    importlib.import_module("interactrank_jax.training.loop")  # takes long: before the clock starts
    print(READY, flush=True)
    config = REPOSITORY / "tests" / "faults" / "configs.py"
    return cli.main(
        [
            "train",
            f"--config={config}:long",
            f"--examples={flags.examples}",
            f"--workdir={flags.workdir}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
