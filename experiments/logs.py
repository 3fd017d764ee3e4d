"""Logs that experiments run on: simulated, or converted from a public data set."""

import importlib
from pathlib import Path

from interactrank_jax.io.errors import InputError

SEARCH, HOMEDEPOT = "search", "homedepot"
SIMULATED = (SEARCH, HOMEDEPOT)  # of a preset's size, people simulated
# Data set -> its module of `log/adapters`.
ADAPTERS = {
    "movielens_100k": "movielens",
    "movielens_1m": "movielens",
    "recflow": "recflow",
    "kuaisearch": "kuaisearch",
    "open_bandit": "open_bandit",
}


def make_log(dataset: str, source: Path | None, preset: str, out: Path) -> Path:
    """Converts or simulates the log unless it is there; returns its directory.

    Args:
      dataset: 'search', 'homedepot' or one of `ADAPTERS`.
      source: directory of the data set; None for 'search'.
      preset: size of a simulated log.
      out: directory below which the log lies.

    Raises:
      InputError: no source, or one that holds something else.
    """
    path = out / (f"log-{preset}" if dataset in SIMULATED else "log")
    if path.exists():
        return path
    if source is None and dataset != SEARCH:
        raise InputError(f"--dataset={dataset} needs --source, the directory of the data set.")
    print("log ...", flush=True)
    if dataset in SIMULATED:
        from interactrank_jax.log.simulator.simulate import simulate

        simulate(preset, 0, path, judgments=source if dataset == HOMEDEPOT and source else "")
    else:
        adapter = importlib.import_module(f"interactrank_jax.log.adapters.{ADAPTERS[dataset]}")
        adapter.convert(source, path)
    return path
