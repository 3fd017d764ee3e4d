r"""A sweep: trials of one config in processes of their own; one table and one figure at the end.

    python -m experiments.run --config=configs/two_tower.py:movielens_100k --examples=EXAMPLES \
        --sweep=experiments/sweeps/learning_rates.py --parallel=2 --out=runs/sweep

Given again, the command goes on where it was: what is finished stands, what was interrupted
(Ctrl-C, SIGTERM) or failed is taken up. `--print` prints a shell line per trial instead, for a
cluster's scheduler; when those are done, the command without it finds them and makes the table.

Trials are compared on validation; the test split is for what was chosen (`interactrank evaluate`).

With `--vmap`, trials that differ in seeds and rates alone train in one step on one device.

    OUT/table.md, figure.png, results.json
    OUT/trials/NAME/run          of each trial; see `trials.py`
"""

import argparse
import math
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import jobs, sweeps, trials
from experiments.benchmarks import reporting
from experiments.command_line import count, exit_status, positive
from interactrank_jax.config import configuration
from interactrank_jax.examples.format import Examples, describe_protocol
from interactrank_jax.io import files, outputs

SEED = "train.seed"
SHOWN = ("roc_auc", "logloss", "request_auc")  # beside what is selected by


def groups(outcomes: Sequence[trials.Outcome]) -> list[list[trials.Outcome]]:
    """Returns outcomes by their overrides, seeds together, the best mean first."""
    by_overrides: dict[str, list[trials.Outcome]] = {}
    for outcome in outcomes:
        overrides = {k: v for k, v in outcome.trial.overrides.items() if k != SEED}
        by_overrides.setdefault(repr(overrides), []).append(outcome)
    return sorted(
        by_overrides.values(),
        key=lambda group: statistics.fmean(outcome.value for outcome in group),
        reverse=True,
    )


def table(outcomes: Sequence[trials.Outcome]) -> str:
    """Returns the Markdown table: a row per set of overrides, the best first.

    Metrics are of validation, at the step that each run's own best model is of; over seeds, their
    mean and standard deviation.
    """
    fields = list(dict.fromkeys(f for o in outcomes for f in o.trial.overrides if f != SEED))
    known = [outcome.best[1].keys() for outcome in outcomes if outcome.best is not None]
    found = set.intersection(*map(set, known)) if known else set()
    shown = [n for n in dict.fromkeys((outcomes[0].trial.metric, *SHOWN)) if n in found]
    header = [*map(trials.short, fields), *shown, "best step", "seconds", ""]
    lines = [_row(header), "|---" * len(header) + "|"]
    for group in groups(outcomes):
        overrides = group[0].trial.overrides
        cells = [str(overrides[field]) if field in overrides else "" for field in fields]
        good = [o.best for o in group if o.best is not None and not o.error]
        cells += [_mean([values[name] for _, values in good]) for name in shown]
        cells.append(", ".join(f"{step:,}" for step, _ in good))
        cells.append(", ".join(f"{outcome.record.seconds:.0f}" for outcome in group))
        cells.append("; ".join(filter(None, map(_remark, group))))
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def _remark(outcome: trials.Outcome) -> str:
    if outcome.error:
        seed = outcome.trial.overrides.get(SEED)
        return f"failed{f' (seed {seed})' if seed is not None else ''}: {outcome.error}"
    return trials.stopped(outcome).removeprefix(", ")


def draw(outcomes: Sequence[trials.Outcome], title: str, path: Path) -> None:
    """Saves the figure: the selected metric while training, and at each trial's best step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ranked = [group for group in groups(outcomes) if any(o.curve for o in group)]
    height = max(4.0, 0.3 * len(ranked) + 1)
    figure, (curves, dots) = plt.subplots(1, 2, figsize=(12, height), layout="constrained")
    metric = outcomes[0].trial.metric
    labels = []
    for place, group in enumerate(ranked):
        color = plt.get_cmap("viridis")(place / max(len(ranked) - 1, 1))
        for outcome in group:
            if outcome.best is None:
                continue
            points = [(step, values[metric]) for step, values in outcome.curve]
            curves.plot(*zip(*points, strict=True), color=color, marker=".")
            dots.plot(outcome.best[1][metric], place, color=color, marker="o")
        overrides = group[0].trial.overrides
        labels.append(trials.describe({k: v for k, v in overrides.items() if k != SEED}))
    dots.set_yticks(range(len(labels)), labels, fontsize=8)
    dots.invert_yaxis()
    dots.set_title(f"validation {metric}, best step of each")
    curves.set_xlabel("step")
    curves.set_title(f"validation {metric}")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(outcomes: Sequence[trials.Outcome], arguments: argparse.Namespace) -> None:
    """Prints the table; writes it, the figure and the record."""
    protocol = Examples(arguments.examples).metadata.protocol
    text = f"Validation, protocol {describe_protocol(protocol)}.\n\n{table(outcomes)}"
    print(f"\n{text}\n")
    with outputs.new_file(arguments.out / "table.md") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    draw(outcomes, f"protocol {describe_protocol(protocol)}", arguments.out / "figure.png")
    record = {
        "config": configuration.to_json(configuration.load(arguments.config)),
        "protocol": protocol,
        "select_by": outcomes[0].trial.metric,
        "seeds": arguments.seeds,
        **reporting.provenance(),
        "trials": [
            {
                "overrides": dict(outcome.trial.overrides),
                "status": outcome.record.status,
                "error": outcome.error,
                "seconds": outcome.record.seconds,
                "step": outcome.best and outcome.best[0],
                "validation": outcome.best and outcome.best[1],
                "workdir": str(outcome.trial.workdir),
            }
            for outcome in outcomes
        ],
    }
    for path in (arguments.out / "results.json", arguments.json):
        if path:
            files.write_json(path, record)
    for name in ("table.md", "figure.png", "results.json"):
        print(arguments.out / name)


def shell_line(job: jobs.Job, budget_s: float) -> str:
    """Returns a job's command for a shell, started in this directory.

    It leaves the record that the sweep looks for, so that the sweep collects what has run.
    """
    limit = [] if math.isinf(budget_s) else [f"--budget_s={budget_s:g}"]
    return shlex.join(
        [sys.executable, "-m", "experiments.jobs", str(job.record), *limit, "--", *job.command]
    )


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the sweep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="FILE[:ARGUMENT]")
    parser.add_argument("--sweep", type=Path, required=True, help="file that defines sweep()")
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", help="each trial with each of them")
    parser.add_argument("--parallel", type=count, default=1, help="trials at once")
    parser.add_argument(
        "--budget_s", type=positive, default=math.inf, help="seconds after which a trial stops"
    )
    parser.add_argument(
        "--vmap",
        action="store_true",
        help="trials that differ in seeds and rates alone train in one step on one device, and see "
        "the same batches (config.train.order_seed)",
    )
    parser.add_argument("--print", action="store_true", help="a shell line per trial, nothing run")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the record here as well")
    arguments = parser.parse_args(argv)
    return exit_status("run", lambda: sweep(arguments))


def sweep(arguments: Any) -> int:
    """Runs the sweep, or prints it; returns 1 if no trial came to anything."""
    overrides = sweeps.load(arguments.sweep)
    if arguments.seeds:
        overrides = list(sweeps.product(overrides, sweeps.over(SEED, arguments.seeds)))
    if arguments.quick:
        trials.compile_quickly()
    common = dict(trials.QUICK) if arguments.quick else {}
    train: Callable[..., list[trials.Outcome]] = trials.run
    commands: Callable[..., list[jobs.Job]] = trials.commands
    if arguments.vmap:
        from experiments import vmapped  # imports jax, which the others leave to their processes

        common |= vmapped.shared_batches(arguments.config)
        train, commands = vmapped.run, vmapped.commands
    made = trials.make(
        arguments.config, overrides, arguments.examples, arguments.out, common=common
    )
    if arguments.print:
        print("\n".join(shell_line(job, arguments.budget_s) for job in commands(made)))
        return 0
    with outputs.lock(arguments.out):
        outcomes = train(made, parallel=arguments.parallel, budget_s=arguments.budget_s)
        write(outcomes, arguments)
    return 0 if any(not outcome.error for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
