"""What experiments on the simulated log share: flags, the log, what trainings are run with."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments import contenders, trials
from experiments.command_line import count
from experiments.logs import make_log
from interactrank_jax.io.errors import InputError


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the flags that `setting` reads."""
    result = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    result.add_argument("--preset", default="small", help="size of the simulated log")
    result.add_argument("--out", type=Path, required=True)
    result.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    result.add_argument("--parallel", type=count, default=1, help="trainings at once")
    result.add_argument("--quick", action="store_true", help="smallest sizes: shows that it runs")
    return result


def place(arguments: argparse.Namespace) -> Path:
    """Returns the directory of an experiment's preset, below `--out`."""
    return arguments.out / ("quick" if arguments.quick else arguments.preset)


def trained(made: Sequence[trials.Trial], parallel: int = 1) -> list[trials.Outcome]:
    """Trains those that are not trained yet.

    Raises:
      InputError: one came to nothing.
    """
    outcomes = trials.run(made, parallel=parallel)
    for outcome in outcomes:
        if outcome.error:
            raise InputError(f"{outcome.trial.directory}: {outcome.error}")
    return outcomes


def setting(arguments: argparse.Namespace) -> contenders.Setting:
    """Simulates the log unless it is there; returns what trainings on it are run with."""
    if arguments.quick:
        trials.compile_quickly()
    out = place(arguments)
    return contenders.Setting(
        argument="search",
        log=make_log("search", None, "tiny" if arguments.quick else arguments.preset, out),
        out=out,
        seeds=tuple(arguments.seeds),
        limit=1,
        parallel=arguments.parallel,
        budget_s=float("inf"),
        common=dict(trials.QUICK) if arguments.quick else {},
    )
