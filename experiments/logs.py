"""Logs that experiments run on: simulated, or converted from a public data set."""

from pathlib import Path

from interactrank_jax.io.errors import InputError


def make_log(dataset: str, source: Path | None, preset: str, out: Path) -> Path:
    """Converts or simulates the log unless it is there; returns its directory.

    Raises:
      InputError: no source, or one that holds something else.
    """
    path = out / (f"log-{preset}" if dataset == "search" else "log")
    if path.exists():
        return path
    print("log ...", flush=True)
    if dataset == "search":
        from interactrank_jax.log.simulator.simulate import simulate

        simulate(preset, 0, path)
    else:
        from interactrank_jax.log.adapters.movielens import convert

        if source is None:
            raise InputError(f"--dataset={dataset} needs --source, the directory of the data set.")
        convert(source, path)
    return path
