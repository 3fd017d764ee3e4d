"""Trials: trainings of one config with overrides, each in a directory of its own.

    OUT/trials/NAME/run          the run directory
    OUT/trials/NAME/train.json   how the training went (`jobs.Record`), and train.log, what it said

NAME is readable and ends in a hash of everything that decides the result: the resolved config and
the examples. So the same command finds its trials again, and a changed config starts new ones.
Trials are compared on validation, by what training wrote of it; nothing here looks at the test.
"""

import dataclasses
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments import jobs
from interactrank_jax import metrics
from interactrank_jax.config import configuration
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files
from interactrank_jax.training import reports

CONFIGS = Path(__file__).parents[1] / "configs"
LONGEST_NAME = 100
VALIDATION = "validation/"  # what the names of its metrics begin with
# The smallest sizes, for `--quick`: shows that everything runs.
QUICK = {
    "train.batch_size": 64,
    "train.max_steps": 8,
    "train.eval_every": 4,
    "train.log_every": 2,
    "train.checkpoint_every": 4,
    "model.tower.hidden": (64,),
    "evaluate.bootstrap": 20,
}


def config_spec(model: str, argument: str) -> str:
    """Returns FILE:ARGUMENT of a model's config."""
    return f"{CONFIGS / model}.py:{argument}"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
      spec: FILE[:ARGUMENT] of the config.
      overrides: dotted field -> value, what tells it from the others.
      common: the same, of all of them.
      config: the three together.
      examples: directory of the examples.
      directory: of the trial.
    """

    spec: str
    overrides: Mapping[str, Any]
    common: Mapping[str, Any]
    config: ConfigDict
    examples: Path
    directory: Path

    @property
    def name(self) -> str:
        """The overrides, for reading."""
        return describe(self.overrides)

    @property
    def workdir(self) -> Path:
        """The run directory."""
        return self.directory / "run"

    @property
    def metric(self) -> str:
        """The validation metric that its best model is chosen by."""
        return str(self.config.train.select_by)

    @property
    def command(self) -> tuple[str, ...]:
        """Program and arguments that train it, or go on with it."""
        both = {**self.common, **self.overrides}
        return (
            *(sys.executable, "-m", "interactrank_jax", "train"),
            f"--config={self.spec}",
            *(f"--config.{field}={_text(value)}" for field, value in both.items()),
            f"--examples={self.examples}",
            f"--workdir={self.workdir}",
        )

    @property
    def job(self) -> jobs.Job:
        """The training as a job."""
        return jobs.Job(self.name, self.command, self.directory / "train.json")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Attributes:
      trial: the trial.
      record: how its training went.
      curve: (step, validation metrics by name), in order of steps.
      best: of those the one whose model the run kept; None if it has none.
    """

    trial: Trial
    record: jobs.Record
    curve: tuple[tuple[int, dict[str, float]], ...]
    best: tuple[int, dict[str, float]] | None

    @property
    def value(self) -> float:
        """The validation metric at the best step, its sign such that higher is better."""
        if self.error or self.best is None:
            return -math.inf
        return sign(self.trial.metric) * self.best[1][self.trial.metric]

    @property
    def error(self) -> str:
        """Why it cannot be compared with others, '' if it can."""
        if self.record.status == jobs.STOPPED and self.best is None:
            return (
                f"stopped after {self.record.seconds:.0f} s, before its first validation: a larger "
                f"--budget_s or a smaller config.train.eval_every is needed"
            )
        return self.record.error


def make(
    spec: str,
    sweep: Iterable[Mapping[str, Any]],
    examples: Path,
    out: Path,
    common: Mapping[str, Any] | None = None,
) -> tuple[Trial, ...]:
    """Returns the trials of a sweep, each once.

    Args:
      spec: FILE[:ARGUMENT] of the config.
      sweep: overrides of each trial.
      examples: directory of the examples.
      out: directory below which each trial has its own.
      common: overrides of all of them, where they set no others.

    Raises:
      InputError: no such config or examples, an unknown field, or a value of another type.
    """
    digest = Examples(examples).metadata.digest
    common = common or {}
    trials = {}
    for given in sweep:
        overrides = {field: plain(value) for field, value in given.items()}
        config = resolve(spec, {**common, **overrides})
        key = files.digest([configuration.to_json(config), digest])[:8]
        readable = re.sub(r"[^\w.,=+-]", "", describe(overrides))[:LONGEST_NAME]
        directory = out / "trials" / f"{readable}-{key}"
        trials[directory] = Trial(spec, overrides, common, config, examples, directory)
    return tuple(trials.values())


def resolve(spec: str, overrides: Mapping[str, Any]) -> ConfigDict:
    """Returns a config with overrides.

    Raises:
      InputError: an unknown field, or a value of another type than its own.
    """
    return configuration.with_values(configuration.load(spec), overrides)


def config_record(spec: str, common: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a file of results says of the config of its trials: all but the seed, as JSON.

    Args:
      spec: FILE[:ARGUMENT] of the config.
      common: overrides of all trials; what tells them from each other stands in their rows.

    Raises:
      InputError: as `resolve`.
    """
    record = configuration.to_json(resolve(spec, common))
    del record["train"]["seed"]
    return record


def commands(trials: Sequence[Trial]) -> list[jobs.Job]:
    """Returns the jobs that train the trials."""
    return [trial.job for trial in trials]


def run(trials: Sequence[Trial], *, parallel: int = 1, budget_s: float = math.inf) -> list[Outcome]:
    """Trains what is not trained yet (see `jobs.run`); returns an outcome per trial."""
    records = run_jobs(trials, commands(trials), parallel, budget_s)
    return [read(trial, record) for trial, record in zip(trials, records, strict=True)]


def run_jobs(
    trials: Sequence[Trial], queue: Sequence[jobs.Job], parallel: int, budget_s: float
) -> list[jobs.Record]:
    """Runs the jobs that train some trials, one each or several at once; returns their records."""
    by_job = {trial.job: trial for trial in trials}

    def report(job: jobs.Job, record: jobs.Record) -> str:
        if job in by_job:
            return summary(read(by_job[job], record))
        return f"{job.name}: {record.error or record.status}, {record.seconds:.0f} s"

    return jobs.run(
        queue,
        parallel=parallel,
        budget_s=budget_s,
        environment=environment(trials[0]) if trials else {},
        report=report,
    )


def environment(trial: Trial) -> dict[str, str]:
    """Returns variables for a training: seeds compile the same step, which is kept beside them."""
    return {"JAX_COMPILATION_CACHE_DIR": str(trial.directory.parents[1] / "compiled")}


def compile_quickly() -> None:
    """Makes trials to come spend little on compiling, which is most of a quick run."""
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def read(trial: Trial, record: jobs.Record = jobs.Record()) -> Outcome:  # noqa: B008
    """Reads what a trial's run wrote of its validations, which may still go on."""
    file = trial.workdir / "metrics.jsonl"
    steps, values = reports.curves(file, growing=True) if file.exists() else ([], {})
    columns = {
        name.removeprefix(VALIDATION): column
        for name, column in values.items()
        if name.startswith(VALIDATION)
    }
    curve = []
    for row, step in enumerate(steps):
        measured = {name: column[row] for name, column in columns.items()}
        validation = {name: float(value) for name, value in measured.items() if value is not None}
        if trial.metric in validation:
            curve.append((step, validation))
    # The first of equal ones, as in training.
    best = max(curve, key=lambda point: sign(trial.metric) * point[1][trial.metric], default=None)
    return Outcome(trial, record, tuple(curve), best)


def summary(outcome: Outcome) -> str:
    """Returns one line on a trial."""
    if outcome.error or outcome.best is None:
        return f"{outcome.trial.name}: {outcome.error or outcome.record.status}"
    step, values = outcome.best
    metric = outcome.trial.metric
    return (
        f"{outcome.trial.name}: validation {metric} {values[metric]:.4f} at step {step:,}, "
        f"{outcome.record.seconds:.0f} s{remark(outcome)}"
    )


def stopped(outcome: Outcome) -> str:
    """Returns what to add where the time limit ended a trial, else ''."""
    return ", stopped by its time limit" if outcome.record.status == jobs.STOPPED else ""


def remark(outcome: Outcome) -> str:
    """Returns how a trial ended, with a comma before it; '' if it came to its end."""
    others = (jobs.PRUNED, jobs.INTERRUPTED, jobs.WAITING)
    status = outcome.record.status
    return stopped(outcome) or (f", {status}" if status in others else "")


def describe(overrides: Mapping[str, Any]) -> str:
    """Returns overrides for reading, such as 'optimizer.learning_rate=0.001, tower.dropout=0.2'."""
    parts = [f"{short(field)}={_text(value)}" for field, value in overrides.items()]
    return ", ".join(parts) or "as configured"


def short(field: str) -> str:
    """Returns the last two parts of a dotted field: one alone would be ambiguous."""
    return ".".join(field.split(".")[-2:])


def sign(metric: str) -> int:
    """Returns what makes higher better of a metric."""
    return -1 if metric in metrics.LOWER_IS_BETTER else 1


def plain(value: Any) -> Any:
    """Returns NumPy's numbers as Python's and lists as tuples, whose `repr` is what flags take."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return tuple(plain(entry) for entry in value)
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
