"""The daily loop, top to bottom: a day's steps, the verdict, and what follows from it.

lock ROOT -> settle what a killed run decided -> choose the day -> plan.json -> steps, but for those
that are done -> verdict -> export, if it is accepted -> outcome.json -> current, history, figure ->
remove old versions
"""

import dataclasses
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from interactrank_jax.config import configuration, fields
from interactrank_jax.daily import history
from interactrank_jax.daily.plan import Bounds, Plan, Windows, choose_day, make_plan
from interactrank_jax.daily.processes import run_command
from interactrank_jax.daily.root import OUTCOME, PLAN, PUBLISHED, REFUSED, Root
from interactrank_jax.daily.steps import REPORT, Step, Words, is_done, steps
from interactrank_jax.daily.verdict import judge
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log import validate
from interactrank_jax.log.read import open_log
from interactrank_jax.state import engines
from interactrank_jax.state.days import SECONDS_PER_DAY
from interactrank_jax.state.log_days import requests_per_day
from interactrank_jax.state.store import CLEAN_TIME

Execute = Callable[[Sequence[str]], int]


def run_day(
    config: Any,
    words: Words,
    root: Root,
    *,
    day: str = "",
    windows: Windows,
    bounds: Bounds,
    keep: int,
    execute: Execute | None = None,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs a day: the newest that is complete, or one that is named.

    A day that ended is not run again, unless it was refused and the bounds are others now. One that
    was killed goes on after the last step that is done.

    Args:
      config: the whole config that `words.config` names.
      words: what the commands of its steps share.
      root: where all is kept.
      day: date, such as '2024-05-31'.
      windows: days to train on.
      bounds: what a model must keep to be published.
      keep: so many of the newest versions are kept, and the published one.
      execute: runs `interactrank WORDS...` and returns its exit status; in a fresh process, by
        default.
      show: takes a line of what is being done.

    Returns:
      The day's line of the history.

    Raises:
      InputError: the day, the config or ROOT does not hold, a step failed, or another process is at
        work in ROOT.
    """
    _check_config(config)
    if keep < 1:
        raise InputError(f"--keep={keep}. Expected at least one version.")
    root.check(words.log)
    with outputs.lock(root.path):
        root.settle()
        days = _days_of(words.log)
        day = choose_day(days, day, int(time.time()) // SECONDS_PER_DAY)
        line = _ended(root, day, bounds)
        if line is None:
            plan = _plan(root, day, days, windows, bounds, config)
            show(f"{day}: trains on {plan.since} to {day}, from {plan.base or 'scratch'}")
            line = _run(plan, root, words, execute or run_command, show)
        else:
            show(f"{day} ended before: {line['outcome']}")
        history.draw_if_older(root)
        root.remove_old(keep)
    return line


def _check_config(config: Any) -> None:
    fields.check(config)
    if config.data.protocol != CLEAN_TIME:
        raise InputError(
            f"config.data.protocol is '{config.data.protocol}', which has no days. Expected "
            f"'{CLEAN_TIME}'."
        )
    if config.train.warm_start:
        raise InputError(
            f"config.train.warm_start is '{config.train.warm_start}', but each day starts from the "
            f"model that is published then: leave it out."
        )


def _days_of(path: str) -> np.ndarray:
    """Returns the numbers of the days with requests, ascending."""
    log = open_log(path)
    validate.check_columns(log, needs_features=False)
    if log.schema.timeless:
        raise InputError(f"{log.path} is timeless: its requests have no days to go through.")
    with (
        outputs.scratch_directory() as scratch,
        engines.connect("duckdb", scratch) as backend,
        engines.readable(backend, log),
    ):
        return requests_per_day(log, backend)[0]


def _ended(root: Root, day: str, bounds: Bounds) -> dict[str, Any] | None:
    """Returns the line of a day that ended; None for one to run.

    Raises:
      InputError: a later day ended already.
    """
    lines = root.history()
    newest = max(lines, default="")
    line = lines.get(day)
    if line is not None and day == newest and line["outcome"] == REFUSED:
        return line if line["bounds"] == vars(bounds) else None
    if line is None and day < newest:
        raise InputError(
            f"{root.path} is at {newest}, past {day}: what came later would be replaced by what "
            f"came before. Name a later day, or another --root."
        )
    return line


def _plan(
    root: Root,
    day: str,
    days: np.ndarray,
    windows: Windows,
    bounds: Bounds,
    config: Any,
) -> Plan:
    """Returns what was decided when the day was begun, with the bounds of now; or decides it.

    Raises:
      InputError: it was begun with another config, or from another model.
    """
    version, config_json = root.version(day), configuration.to_json(config)
    file = version / PLAN
    if not file.exists():
        plan = make_plan(root, day, days.tolist(), windows, bounds, config_json)
        plan.write(file)
        return plan
    plan = Plan.read(file)
    difference = configuration.difference(plan.config, config_json)
    if difference:
        raise InputError(
            f"{version} was begun with another config: {difference}. Use that one, or remove the "
            f"directory to begin the day anew."
        )
    if plan.base != root.published():
        raise InputError(
            f"{version} was begun when {plan.base or 'nothing'} was published, now "
            f"{root.published() or 'nothing'} is: remove the directory to begin the day anew."
        )
    if plan.bounds != bounds:
        # What was judged by other bounds is judged again; the plan last, so that a kill on the way
        # leads here again.
        (version / OUTCOME).unlink(missing_ok=True)
        shutil.rmtree(version / REPORT, ignore_errors=True)
        plan = dataclasses.replace(plan, bounds=bounds)
        plan.write(file)
    return plan


def _run(
    plan: Plan, root: Root, words: Words, execute: Execute, show: Callable[[str], None]
) -> dict[str, Any]:
    """Makes the steps of a day that are left, and settles it."""
    version, all_steps = root.version(plan.day), steps(plan, root, words)
    export = len(all_steps) - 1
    for number in range(export):
        _make(all_steps, number, execute, show)
    line = judge(plan, version)
    if line["outcome"] == PUBLISHED:
        _make(all_steps, export, execute, show)
    files.write_json(version / OUTCOME, line)
    root.settle()
    return line


def _make(
    all_steps: Sequence[Step], number: int, execute: Execute, show: Callable[[str], None]
) -> None:
    """Runs a step, unless it is done.

    Raises:
      InputError: its command failed, and said why.
    """
    step = all_steps[number]
    title = f"[{number + 1}/{len(all_steps)}] {step.name}"
    if is_done(all_steps, number):
        show(f"{title}: done before")
        return
    show(f"{title}: interactrank {shlex.join(step.words)}")
    status = execute(step.words)
    is_written = step.output is None or step.output.exists()
    if (status and not (step.may_refuse and is_written)) or not is_written:
        raise InputError(
            f"step '{step.name}' ended with status {status}, and said why above. What is done is "
            f"kept: once that is mended, the same command goes on from there."
        )


def describe(line: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the command prints of a day."""
    metric = line["metric"]
    figures = {}
    if line["progressive"]:
        figures[f"{metric} of {line['base']}'s model on the new day"] = _figure(
            line["progressive"], metric
        )
    figures[f"{metric} of the new model, held out"] = _figure(line["held_out"], metric)
    if line["difference"] and line["difference"].get(metric):
        values = [value for value in line["difference"][metric] if value is not None]
        if len(values) == 3:
            figures["difference on the same requests"] = "{:+.4f} ({:+.4f} to {:+.4f})".format(
                *values
            )
    if line["drift"]:
        figures["largest PSI"] = f"{line['drift']['psi']:.3f}, {line['drift']['psi_of']}"
    return figures


def _figure(result: Mapping[str, Any], metric: str) -> str:
    value, bounds = result["metrics"].get(metric), result["intervals"].get(metric) or (None, None)
    if value is None:
        return "not defined"
    if None in bounds:
        return f"{value:.4f}"
    return "{:.4f} ({:.4f} to {:.4f})".format(value, *bounds)
