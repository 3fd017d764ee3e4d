r"""Trials that share a step: those that differ in seeds and rates alone, trained by one process.

    python -m experiments.vmapped --config=FILE --examples=EXAMPLES --out=OUT TRIAL TRIAL ...

A TRIAL is its overrides as JSON. `experiments.run --vmap` makes these commands; each trial keeps a
directory of its own (`trials.py`), so that the table finds it whoever trained it.

    OUT/groups/NAME/train.json   how the training of a group went (`jobs.Record`), and train.log
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments import jobs, trials
from experiments.command_line import exit_status
from interactrank_jax.config import configuration
from interactrank_jax.io import files
from interactrank_jax.training import shared_step, vmapped
from interactrank_jax.training.trainer import order_seed


def groups(made: Sequence[trials.Trial]) -> list[tuple[trials.Trial, ...]]:
    """Returns the trials by what they must share to train in one step, in order of the first."""
    by_shared: dict[str, list[trials.Trial]] = {}
    for trial in made:
        shared = shared_step.shared_part(trial.config)
        by_shared.setdefault(json.dumps(shared, sort_keys=True), []).append(trial)
    return [tuple(group) for group in by_shared.values()]


def job(group: Sequence[trials.Trial]) -> jobs.Job:
    """Returns what trains a group; a trial alone trains as it would without others."""
    if len(group) == 1:
        return group[0].job
    first, out = group[0], group[0].directory.parents[1]
    key = files.digest([trial.directory.name for trial in group])[:8]
    return jobs.Job(
        f"{len(group)} trials in one step, {trials.describe(first.overrides)} and on",
        (
            *(sys.executable, "-m", "experiments.vmapped", f"--config={first.spec}"),
            *(f"--examples={first.examples}", f"--out={out}"),
            f"--common={json.dumps(dict(first.common))}",
            *(json.dumps(dict(trial.overrides)) for trial in group),
        ),
        out / "groups" / key / "train.json",
        trainings=len(group),
    )


def commands(made: Sequence[trials.Trial]) -> list[jobs.Job]:
    """Returns the jobs that train all trials."""
    return [job(group) for group in groups(made)]


def shared_batches(spec: str) -> dict[str, int]:
    """Returns the override by which trials of a config see the same batches, of any seed."""
    return {shared_step.ORDER_SEED: order_seed(configuration.load(spec).train)}


def run(made: Sequence[trials.Trial], *, parallel: int, budget_s: float) -> list[trials.Outcome]:
    """Trains what is not trained yet, groups in one step each; returns an outcome per trial.

    Args:
      made: the trials.
      parallel: trials or groups at once.
      budget_s: seconds of a trial; a group has those of all its trials.
    """
    waiting = [each for each in made if not jobs.read_record(each.job).is_done(budget_s)]
    by_directory: dict[Path, jobs.Job] = {}
    for group in groups(waiting):
        for trial in group:
            by_directory[trial.directory] = job(group)
            if len(group) > 1:  # what an earlier attempt left; the group leaves another
                trial.job.record.unlink(missing_ok=True)
    queue = list(dict.fromkeys(by_directory.values()))
    records = dict(zip(queue, trials.run_jobs(made, queue, parallel, budget_s), strict=True))
    outcomes = []
    for trial in made:
        record = jobs.read_record(trial.job)
        if record.status == jobs.WAITING:  # its group did not come to an end
            group_job = by_directory[trial.directory]
            record = records[group_job]
            record = dataclasses.replace(record, seconds=record.seconds / group_job.trainings)
        outcomes.append(trials.read(trial, record))
    return outcomes


def train(group: Sequence[trials.Trial]) -> bool:
    """Trains a group, and leaves the record of each trial; returns whether any ended well.

    The seconds of a trial are its share of the group's.

    Raises:
      InputError: see `vmapped.train_many`.
      TrainingInterrupted: SIGINT or SIGTERM came; the states are saved.
    """
    first, start = group[0], time.monotonic()
    results = vmapped.train_many(
        configuration.load(first.spec),
        first.examples,
        [{**trial.common, **trial.overrides} for trial in group],
        [trial.workdir for trial in group],
    )
    seconds = (time.monotonic() - start) / len(group)
    for trial, result in zip(group, results, strict=True):
        error = result.get("error", "")
        record = jobs.Record(jobs.FAILED if error else jobs.FINISHED, seconds, error)
        files.write_json(trial.job.record, dataclasses.asdict(record))
    return not all("error" in result for result in results)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and trains a group."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="FILE[:ARGUMENT]")
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--common", type=json.loads, default={}, help="overrides of all, as JSON")
    parser.add_argument("trials", type=json.loads, nargs="+", help="overrides of each, as JSON")
    arguments = parser.parse_args(argv)

    def work() -> int:
        common = {name: trials.plain(value) for name, value in arguments.common.items()}
        made = arguments.config, arguments.trials, arguments.examples, arguments.out
        return int(not train(trials.make(*made, common)))

    return exit_status("vmapped", work)


if __name__ == "__main__":
    sys.exit(main())
