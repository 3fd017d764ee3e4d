"""Commands as one array of Slurm, through submitit."""

import argparse
import importlib
import math
from collections.abc import Sequence
from typing import Any

from experiments import jobs
from interactrank_jax.io.errors import InputError

HELP = (
    "submit as one array, --parallel tasks at once; KEY=VALUE are parameters of submitit, such as "
    "gpus_per_node=1 mem_gb=32 timeout_min=600"
)
Command = tuple[str, Sequence[str]]  # module with a `main`, arguments


class Task:
    """Runs a command; where the scheduler ends it before it is done, it is submitted again."""

    def __init__(self, command: Command):
        self.command = command

    def __call__(self) -> int:
        """Returns the exit status."""
        module, argv = self.command
        return int(importlib.import_module(module).main(list(argv)))

    def checkpoint(self) -> Any:
        """Returns what is to be submitted again: trainings go on where they were."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(
    arguments: argparse.Namespace,
    commands: Sequence[Command],
    cluster: str = "slurm",
    longest_s: float | None = None,
) -> list[Any]:
    """Submits commands as one array; returns its jobs.

    Args:
      arguments: of `experiments.run`.
      commands: a task each.
      cluster: of submitit.
      longest_s: time limit of the longest task; `--budget_s` by default.

    Raises:
      InputError: submitit or Slurm is not there, no time limit is given, or an unknown parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError(
            "--slurm needs submitit: pip install -c constraints.txt -e '.[sweep]'."
        ) from error
    partition, *pairs = arguments.slurm
    parameters = dict(_parse(pair) for pair in pairs)
    limit_s = arguments.budget_s if longest_s is None else longest_s
    if not math.isinf(limit_s):
        minutes = math.ceil((limit_s + jobs.GRACE_S) / 60)
        parameters.setdefault("timeout_min", minutes)
    if "timeout_min" not in parameters:
        raise InputError("--slurm needs a time limit for each task: --budget_s or timeout_min=.")
    try:
        executor = submitit.AutoExecutor(arguments.out / "slurm", cluster)
        executor.update_parameters(
            name=arguments.out.name,
            slurm_partition=partition,
            slurm_array_parallelism=arguments.parallel,
            **parameters,
        )
    except (RuntimeError, NameError, ValueError, AssertionError) as error:
        raise InputError(f"--slurm={' '.join(arguments.slurm)}: {error}") from error
    with executor.batch():
        submitted = [executor.submit(Task(command)) for command in commands]
    print(f"{len(submitted)} tasks, the first is {submitted[0].job_id}; logs: {executor.folder}")
    return submitted


def without_flag(argv: Sequence[str]) -> list[str]:
    """Returns a command line without `--slurm` and its values."""
    kept, is_dropped = [], False
    for word in argv:
        is_dropped = word.split("=")[0] == "--slurm" or (is_dropped and not word.startswith("--"))
        kept += [] if is_dropped else [word]
    return kept


def _parse(pair: str) -> tuple[str, Any]:
    key, _, text = pair.partition("=")
    return key, int(text) if text.isdigit() else text
