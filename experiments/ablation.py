"""Ablations: one config, then the same with one thing changed, compared pair by pair.

An ablation is a list of `Change`s. Every change is trained with every seed, its best step chosen on
validation as in every training. Both splits are scored by the same code as every comparison's
(`contenders.py`), and the differences to the unchanged config have intervals over requests and
seeds (`comparison.paired_difference`). Choices are made on validation: `verdict` is what its
interval says. The test split is scored once, with the models that validation chose.
"""

import argparse
import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments import comparison, contenders, trials
from experiments.efficiency import request_flops
from interactrank_jax import metrics
from interactrank_jax.config import configuration
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.runs.run import Run

SPLITS = ("validation", "test")
METRICS = ("roc_auc", "request_auc")
WHOLE = "as configured"
WORSE, LEVEL, BETTER = "worse", "level", "better"  # than the unchanged config, on validation

Row = dict[str, Any]
Scores = dict[str, list[comparison.Scored]]


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """One thing that is changed in a config.

    Attributes:
      name: for the table.
      overrides: dotted config field -> value.
      group: of changes that are read together.
      model: another model, with its own config; '' for that of the ablation.
    """

    name: str
    overrides: Mapping[str, Any]
    group: str
    model: str = ""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A change that was trained.

    Attributes:
      change: the change.
      outcomes: one per seed.
      row: its figures.
    """

    change: Change
    outcomes: tuple[trials.Outcome, ...]
    row: Row


def effective(
    changes: Iterable[Change], model: str, setting: contenders.Setting
) -> tuple[Change, ...]:
    """Returns the changes that change the config of a data set, each once.

    Such as MovieLens, whose labels have one head and no weights to take away.
    """
    kept: dict[str, Change] = {}
    whole = _resolved(Change(WHOLE, {}, ""), model, setting)
    for change in changes:
        resolved = _resolved(change, model, setting)
        if resolved != whole:
            kept.setdefault(resolved, change)
    return tuple(kept.values())


def _resolved(change: Change, model: str, setting: contenders.Setting) -> str:
    """Returns a hash of the config of a change."""
    spec = setting.spec(change.model or model)
    config = trials.resolve(spec, {**setting.common, **change.overrides})
    return files.digest(configuration.to_json(config))


def measure(
    setting: contenders.Setting, model: str, changes: Sequence[Change], log: str
) -> list[Trained]:
    """Trains, scores and compares; returns the unchanged config, then every change.

    Args:
      setting: what trainings are run with.
      model: whose config is changed.
      changes: what is done to it, one at a time.
      log: what the setting's log is called in the rows.

    Raises:
      InputError: the unchanged config failed. A change that failed has a row with its `error`.
    """
    whole = Change(WHOLE, {}, "")
    made = {
        change: _make(change, model, setting)
        for change in (whole, *effective(changes, model, setting))
    }
    # All at once, so that no core waits for the last seed of a change.
    every = [trial for of_change in made.values() for trial in of_change]
    outcomes = iter(trials.run(every, parallel=setting.parallel))
    trained: list[Trained] = []
    base: Scores | None = None
    for change, of_change in made.items():
        of_seeds = tuple(itertools.islice(outcomes, len(of_change)))
        row = {**_key(change, model, log), "seeds": list(setting.seeds)}
        errors = [outcome.error for outcome in of_seeds if outcome.error]
        if errors and change == whole:
            raise InputError(f"{of_seeds[0].trial.directory}: {errors[0]}")
        if errors:
            trained.append(Trained(change, (), {**row, "error": errors[0]}))
        else:
            scores = contenders.score_splits(of_seeds, SPLITS)
            trained.append(Trained(change, of_seeds, {**row, **_measured(of_seeds, scores, base)}))
            base = base or scores
        print(_line(trained[-1].row), flush=True)
    return trained


def _make(change: Change, model: str, setting: contenders.Setting) -> tuple[trials.Trial, ...]:
    """Returns a trial per seed, and prepares their examples."""
    spec = setting.spec(change.model or model)
    config = trials.resolve(spec, {**setting.common, **change.overrides})
    sweep = [{**change.overrides, "train.seed": seed} for seed in setting.seeds]
    examples = setting.examples(config.data)
    return trials.make(spec, sweep, examples, setting.out / model, setting.common)


def _measured(outcomes: Sequence[trials.Outcome], scores: Scores, base: Scores | None) -> Row:
    """Returns the figures of a change's row.

    Args:
      outcomes: one per seed.
      scores: of each seed, by split.
      base: those of the unchanged config; None for that itself.
    """
    of_splits = {
        split: _figures(scores[split], None if base is None else base[split]) for split in SPLITS
    }
    return {
        **of_splits,
        "verdict": verdict(of_splits["validation"]["roc_auc"]["difference"]),
        **contenders.sizes(outcomes[0].trial),
        "flops_per_request": request_flops(Run.open(outcomes[0].trial.workdir)),
        "train_seconds": statistics.fmean(outcome.record.seconds for outcome in outcomes),
    }


def _key(change: Change, model: str, log: str) -> Row:
    return {
        "log": log,
        "group": change.group,
        "change": change.name,
        "model": change.model or model,
        "overrides": dict(change.overrides),
    }


def _figures(
    scored: Sequence[comparison.Scored], base: Sequence[comparison.Scored] | None
) -> dict[str, dict[str, Any]]:
    """Returns of each metric mean, deviation over several seeds, difference with its interval."""
    request = scored[0].request_index
    functions = {
        "roc_auc": lambda run: metrics.roc_auc(run.score, run.engaged),
        "request_auc": lambda run: metrics.request_auc(run.request_index, run.score, run.engaged),
    }
    figures = {}
    for metric in METRICS:
        values = [functions[metric](run) for run in scored]
        difference = None
        if base is not None:
            paired = comparison.paired_difference(request, scored, base, metric=metric)
            difference = [float(value) for value in paired]
        figures[metric] = {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "difference": difference,
        }
    return figures


def verdict(difference: Sequence[float] | None) -> str:
    """Returns what a difference on validation and its interval say of a change; '' without one."""
    if difference is None:
        return ""
    _, low, high = difference
    return WORSE if high < 0 else BETTER if low > 0 else LEVEL


# --- Output ---

COLUMNS = (
    "change",
    "validation ROC-AUC",
    "minus the unchanged [95%]",
    "it is",
    "test ROC-AUC",
    "minus the unchanged [95%]",
    "request AUC, minus the unchanged [95%]",
    "FLOPs per candidate",
    "FLOPs per request",
)


def table(rows: Sequence[Row]) -> str:
    """Returns Markdown: a table for each log, a change a row, as it was measured."""
    parts = []
    for log in dict.fromkeys(row["log"] for row in rows):
        of_log = [row for row in rows if row["log"] == log]
        lines = [f"{of_log[0]['model']}, {log}:", ""] if len({r["log"] for r in rows}) > 1 else []
        lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        parts.append("\n".join([*lines, *map(_line, of_log)]))
    return "\n\n".join(parts)


def _line(row: Row) -> str:
    """Returns a row of the table."""
    name = row["change"]
    if "error" in row:
        return f"| {name} | failed: {row['error']} " + "|  " * (len(COLUMNS) - 2) + "|"
    validation, test = (row[split]["roc_auc"] for split in SPLITS)
    cells = [
        name,
        _spread(validation),
        _difference(validation),
        row["verdict"],
        _spread(test),
        _difference(test),
        _difference(row["test"]["request_auc"]),
        f"{row['serving_flops_per_candidate']:,.0f}",
        f"{row['flops_per_request']:,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _spread(figure: Mapping[str, Any]) -> str:
    deviation = figure["std"]
    return f"{figure['mean']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _difference(figure: Mapping[str, Any]) -> str:
    if figure["difference"] is None:
        return ""
    value, low, high = figure["difference"]
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


# --- Command line ---


def add_groups(parser: argparse.ArgumentParser, groups: Sequence[str]) -> None:
    """Adds `--groups`, which names groups of changes, and `--changes`, which names some."""
    parser.add_argument("--groups", nargs="+", choices=groups, default=list(groups))
    parser.add_argument("--changes", nargs="+", help="names of changes, of the table; all if none")


def shorten(arguments: argparse.Namespace, changes: Sequence[str]) -> None:
    """Makes `--quick` what takes less than a minute: one seed, a few changes, two at once."""
    if arguments.quick:
        arguments.seeds = arguments.seeds[:1]
        arguments.changes = arguments.changes or list(changes)
        arguments.parallel = max(arguments.parallel, 2)


def selected(changes: Sequence[Change], arguments: argparse.Namespace) -> tuple[Change, ...]:
    """Returns the changes that the flags of `add_groups` name.

    Raises:
      InputError: there is no such change.
    """
    names = [change.name for change in changes]
    for name in arguments.changes or ():
        if name not in names:
            raise InputError(f"--changes: no change '{name}'." + did_you_mean(name, names))
    wanted = set(arguments.changes or names)
    return tuple(
        change for change in changes if change.group in arguments.groups and change.name in wanted
    )


def status(published: int, rows: Iterable[Row]) -> int:
    """Returns the exit status: 1 where the results are written but a change failed."""
    return published or int(any("error" in row for row in rows))
