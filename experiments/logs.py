"""Logs that experiments run on: simulated, or converted from a public data set.

Beside each log that is made of a source lies LOG.source.json, which names it: another is refused.
"""

import importlib
from pathlib import Path

from interactrank_jax.io import files
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
      InputError: no source, one that holds something else, or another than the log was made of.
    """
    path = out / (f"log-{preset}" if dataset in SIMULATED else "log")
    if source is None and dataset != SEARCH:
        raise InputError(f"--dataset={dataset} needs --source, the directory of the data set.")
    source = None if dataset == SEARCH else source
    origin = {"source": None if source is None else str(source.resolve())}
    record = out / f"{path.name}.source.json"
    if path.exists():
        _check_origin(path, record, origin)
        return path
    if source is not None:
        files.write_json(record, origin)  # first: a log without it is of nobody knows what
    print("log ...", flush=True)
    if dataset in SIMULATED:
        from interactrank_jax.log.simulator.simulate import simulate

        simulate(preset, 0, path, judgments=source or "")
    else:
        adapter = importlib.import_module(f"interactrank_jax.log.adapters.{ADAPTERS[dataset]}")
        adapter.convert(source, path)
    return path


def _check_origin(path: Path, record: Path, origin: dict[str, str | None]) -> None:
    """Raises InputError where a log was made of another source, or does not say of which."""
    if origin["source"] is None:
        return
    remedy = f"Give another --out, or remove {path} to make it anew."
    if not record.exists():
        raise InputError(f"{path} does not say what it was made of: {record} is gone. {remedy}")
    made_of = files.read_json(record)
    if made_of != origin:
        raise InputError(
            f"{path} was made of {made_of.get('source')}, not of {origin['source']}. {remedy}"
        )
