"""What experiments on the simulated log share: flags, the log, what trainings are run with."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import contenders, trials
from experiments.benchmarks import reporting
from experiments.command_line import count, positive
from experiments.logs import make_log
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the flags that `setting` reads."""
    result = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    result.add_argument("--preset", default="small", help="size of the simulated log")
    result.add_argument("--out", type=Path, required=True)
    result.add_argument("--json", type=Path, help="file to write the results to as well")
    result.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    result.add_argument("--parallel", type=count, default=1, help="trainings at once")
    result.add_argument("--epochs", type=positive, help="in place of those of the configs")
    result.add_argument("--quick", action="store_true", help="smallest sizes: shows that it runs")
    return result


def place(arguments: argparse.Namespace) -> Path:
    """Returns the directory of an experiment's preset, below `--out`."""
    return arguments.out / ("quick" if arguments.quick else arguments.preset)


def publish(
    arguments: argparse.Namespace,
    name: str,
    make: Callable[[], tuple[str, dict[str, Any]]],
    draw: Callable[[dict[str, Any], Path], Sequence[Path]] | None = None,
    subdirectory: str = "",
) -> int:
    """Runs an experiment and writes OUT/PRESET/NAME.json, and what `--json` names.

    Args:
      arguments: of the command line.
      name: of the experiment.
      make: returns its table and what the file shall hold; preset, seeds, versions of packages and
        the commit are added.
      draw: saves figures of that content into a directory, and returns their paths. They are drawn
        beside each file.
      subdirectory: of OUT/PRESET, for the results; '' for that itself.

    Returns:
      The exit status.
    """
    with outputs.lock(place(arguments)):
        table, content = make()
        made_of: dict[str, Any] = {"preset": preset(arguments), "seeds": list(arguments.seeds)}
        # Paths are of one machine.
        flags = {k: v for k, v in vars(arguments).items() if not isinstance(v, Path)}
        made_of["options"] = {k: v for k, v in flags.items() if k not in made_of}
        content = {**made_of, **content, **reporting.provenance()}
        written = [place(arguments) / subdirectory / f"{name}.json"]
        written += [arguments.json] if arguments.json else []
        for path in tuple(written):
            files.write_json(path, content)
            written += draw(content, path.parent) if draw else ()
    print(f"\n{table}\n", *written, sep="\n")
    return 0


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


def preset(arguments: argparse.Namespace) -> str:
    """Returns the size of the simulated log."""
    return "tiny" if arguments.quick else str(arguments.preset)


def common(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields that trainings have instead of their config's."""
    epochs = {} if arguments.epochs is None else {"train.epochs": arguments.epochs}
    return {**(trials.QUICK if arguments.quick else {}), **epochs}


def setting(
    arguments: argparse.Namespace, argument: str = "search", log: Path | None = None, name: str = ""
) -> contenders.Setting:
    """Returns what trainings are run with.

    Args:
      arguments: of the command line.
      argument: of the configs.
      log: a log; the simulated search log by default, made unless it is there.
      name: directory of examples and trials, below that of the experiment; '' for that itself.
    """
    if arguments.quick:
        trials.compile_quickly()
    directory = place(arguments)
    return contenders.Setting(
        argument=argument,
        log=log or make_log("search", None, preset(arguments), directory),
        out=directory / name,
        seeds=tuple(arguments.seeds),
        limit=1,
        parallel=arguments.parallel,
        budget_s=float("inf"),
        common=common(arguments),
    )
