"""Ablations: one config, then the same with one thing changed, compared pair by pair.

An ablation is a list of `Change`s. Every change is trained with every seed, its best step chosen on
validation as in every training. Both splits are scored by the same code as every comparison's
(`contenders.py`). The differences to its base, the unchanged config or another change, have
intervals over requests and seeds (`comparison.paired_difference`). Choices are made on validation:
`verdict` is what its interval says. The test split is scored once, with the models that validation
chose.
"""

import argparse
import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from experiments import cells, comparison, contenders, trials
from experiments.efficiency import request_flops
from interactrank_jax import metrics
from interactrank_jax.config import configuration
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.runs.run import Run

SPLITS = ("validation", "test")
METRICS = ("roc_auc", "request_auc")
WHOLE = "as configured"
WORSE, LEVEL, BETTER = "worse", "level", "better"  # than its base, on validation
LEVEL_OF_CHANCE = 0.05  # share of intervals that miss what they are of

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
      base: name of the change that it is compared with, which stands before it; by default the
        unchanged config.
    """

    name: str
    overrides: Mapping[str, Any]
    group: str
    model: str = ""
    base: str = WHOLE


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
      InputError: the unchanged config failed, or a change stands before its base. A change that
        failed has a row with its `error`; one whose base failed is compared with nothing.
    """
    whole = Change(WHOLE, {}, "")
    kept = effective(changes, model, setting)
    for change in changes:
        if change not in kept:
            print(f"{log}: '{change.name}' is no other config than one above, and left out.")
    bases = _bases((whole, *changes), model, setting)
    trained: list[Trained] = []
    scores_of_bases: dict[str, Scores] = {}
    for change, outcomes in _train((whole, *kept), model, setting):
        row = {**_key(change, model, log), "seeds": list(setting.seeds)}
        if change == whole:
            row["config"] = setting.config(model)
        errors = [outcome.error for outcome in outcomes if outcome.error]
        if errors and change == whole:
            raise InputError(f"{outcomes[0].trial.directory}: {errors[0]}")
        if errors:
            trained.append(Trained(change, (), {**row, "error": errors[0]}))
        else:
            scores = contenders.score_splits(outcomes, SPLITS)
            base = None if change == whole else scores_of_bases.get(bases[change])
            trained.append(Trained(change, outcomes, {**row, **_measured(outcomes, scores, base)}))
            resolved = _resolved(change, model, setting)
            if resolved in bases.values():
                scores_of_bases[resolved] = scores
        print(_line(trained[-1].row), flush=True)
    return trained


def _bases(changes: Sequence[Change], model: str, setting: contenders.Setting) -> dict[Change, str]:
    """Returns a hash of the config that each change is compared with.

    Raises:
      InputError: a change has a base that does not stand before it.
    """
    resolved: dict[str, str] = {}
    bases = {}
    for change in changes:
        resolved[change.name] = _resolved(change, model, setting)
        if change.base not in resolved:
            raise InputError(
                f"change '{change.name}' is compared with '{change.base}', which has to stand "
                f"before it: give both, in that order."
            )
        bases[change] = resolved[change.base]
    return bases


def _train(
    changes: Sequence[Change], model: str, setting: contenders.Setting
) -> Iterator[tuple[Change, tuple[trials.Outcome, ...]]]:
    """Yields each change with an outcome per seed.

    All are trained at once, so that no core waits for the last seed of a change.
    """
    made = [_make(change, model, setting) for change in changes]
    outcomes = iter(trials.run(list(itertools.chain(*made)), parallel=setting.parallel))
    for change, of_seeds in zip(changes, made, strict=True):
        yield change, tuple(itertools.islice(outcomes, len(of_seeds)))


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
      base: those of what it is compared with; None for nothing.
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
        "base": change.base,
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
            "std": cells.deviation(values),
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
    "minus its base [95%]",
    "it is",
    "test ROC-AUC",
    "minus its base [95%]",
    "request AUC, minus its base [95%]",
    "FLOPs per candidate",
    "FLOPs per request",
)


def table(rows: Sequence[Row]) -> str:
    """Returns Markdown: a table for each log, a change a row, as it was measured."""
    parts = []
    logs = dict.fromkeys(row["log"] for row in rows)
    for log in logs:
        log_rows = [row for row in rows if row["log"] == log]
        lines = [f"{log_rows[0]['model']}, {log}:", ""] if len(logs) > 1 else []
        lines += cells.header(COLUMNS)
        parts.append("\n".join([*lines, *map(_line, log_rows)]))
    return "\n\n".join([*parts, _note(rows)])


def _note(rows: Sequence[Row]) -> str:
    """Returns what a reader has to know of all verdicts together."""
    verdicts = sum(bool(row.get("verdict")) for row in rows)
    by_chance = LEVEL_OF_CHANCE * verdicts
    return (
        f"A base is '{WHOLE}' unless a row names another. Verdicts: {verdicts}, each at 95%. Were "
        f"no change of any effect, about {by_chance:.1f} of them would still be '{WORSE}' or "
        f"'{BETTER}', by chance."
    )


def _line(row: Row) -> str:
    """Returns a row of the table."""
    name = row["change"] if row["base"] == WHOLE else f"{row['change']} (base: {row['base']})"
    if "error" in row:
        return cells.row([name, f"failed: {row['error']}", *[""] * (len(COLUMNS) - 2)])
    validation, test = (row[split]["roc_auc"] for split in SPLITS)
    texts = [
        name,
        cells.spread(validation["mean"], validation["std"]),
        cells.difference(validation["difference"]),
        row["verdict"],
        cells.spread(test["mean"], test["std"]),
        cells.difference(test["difference"]),
        cells.difference(row["test"]["request_auc"]["difference"]),
        cells.number(row["serving_flops_per_candidate"]),
        cells.number(row["flops_per_request"]),
    ]
    return cells.row(texts)


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
    """Returns the changes that the flags of `add_groups` name, and what those are compared with.

    Raises:
      InputError: there is no such change, or it is of a group that is not named.
    """
    by_name = {change.name: change for change in changes}
    for name in arguments.changes or ():
        if name not in by_name:
            raise InputError(f"--changes: no change '{name}'." + did_you_mean(name, list(by_name)))
        if by_name[name].group not in arguments.groups:
            of_groups = [change.name for change in changes if change.group in arguments.groups]
            raise InputError(
                f"change '{name}' is of group '{by_name[name].group}', which is not among "
                f"--groups {' '.join(arguments.groups)}. Name that group too, or by --changes some "
                f"of: {', '.join(of_groups)}."
            )
    in_groups = {name for name, change in by_name.items() if change.group in arguments.groups}
    wanted = in_groups & set(arguments.changes or by_name)
    # Last first: what a change is compared with stands before it, and may have a base itself.
    for change in reversed(changes):
        if change.name in wanted:
            wanted.add(change.base)
    return tuple(change for change in changes if change.name in wanted)


def status(published: int, rows: Iterable[Row]) -> int:
    """Returns the exit status: 1 where the results are written but a change failed."""
    return published or int(any("error" in row for row in rows))
