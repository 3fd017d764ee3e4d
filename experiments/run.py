r"""A sweep: trials of one config in processes of their own; one table and one figure at the end.

    python -m experiments.run --config=configs/two_tower.py:movielens_100k --examples=EXAMPLES \
        --sweep=experiments/sweeps/learning_rates.py --parallel=2 --out=runs/sweep

`sweep()` of a file lists trials. Or they are drawn (`--trials=20 --sampler=tpe`), with the first
seed, the best two with the others too: by `suggest(trial)` of the file, or without a file from the
space of `search.py`, which `--sampler=stages` goes through field by field.

The same command, given again or on other machines that see OUT, goes on where it was: what is
finished stands, what was interrupted (Ctrl-C, SIGTERM) or failed is taken up. `--slurm=PARTITION`
submits it as an array. `--print` prints a shell line per listed trial instead, for another
scheduler; when those are done, the command without it finds them and makes the table.

Trials are compared on validation; the test split is for what was chosen (`interactrank evaluate`).

With `--vmap`, listed trials that differ in seeds and rates alone train in one step on one device.

    OUT/table.md, figure.png, results.json
    OUT/study.journal            who trains what; see `study.py`
    OUT/trials/NAME/run          of each trial; see `trials.py`
"""

import argparse
import dataclasses
import functools
import math
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import cells, jobs, search, slurm, study, sweeps, trials
from experiments.benchmarks import reporting
from experiments.command_line import count, exit_status, positive
from interactrank_jax.config import configuration
from interactrank_jax.examples.format import Examples, describe_protocol
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError

SEED = "train.seed"
STAGES = "stages"
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
    names = [outcome.best[1].keys() for outcome in outcomes if outcome.best is not None]
    measured = set.intersection(*map(set, names)) if names else set()
    shown = [n for n in dict.fromkeys((outcomes[0].trial.metric, *SHOWN)) if n in measured]
    header = [*map(trials.short, fields), *shown, "best step", "seconds", ""]
    lines = cells.header(header)
    for group in groups(outcomes):
        overrides = group[0].trial.overrides
        texts = [str(overrides[field]) if field in overrides else "" for field in fields]
        good = [o.best for o in group if o.best is not None and not o.error]
        texts += [_mean([values[name] for _, values in good]) for name in shown]
        texts.append(", ".join(f"{step:,}" for step, _ in good))
        texts.append(", ".join(f"{outcome.record.seconds:.0f}" for outcome in group))
        texts.append("; ".join(filter(None, map(_remark, group))))
        lines.append(cells.row(texts))
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    return cells.spread(statistics.fmean(values), cells.deviation(values)) if values else ""


def _remark(outcome: trials.Outcome) -> str:
    if outcome.error:
        seed = outcome.trial.overrides.get(SEED)
        return f"failed{f' (seed {seed})' if seed is not None else ''}: {outcome.error}"
    return trials.remark(outcome).removeprefix(", ")


def draw(outcomes: Sequence[trials.Outcome], title: str, path: Path) -> None:
    """Saves the figure: the selected metric while training, a colour per set of overrides."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ranked = [group for group in groups(outcomes) if any(o.curve for o in group)]
    figure, axes = plt.subplots(figsize=(9, 5 + 0.2 * len(ranked)), layout="constrained")
    metric = outcomes[0].trial.metric
    for rank, group in enumerate(ranked):
        overrides = group[0].trial.overrides
        label = trials.describe({k: v for k, v in overrides.items() if k != SEED})
        for outcome in group:
            steps = [step for step, _ in outcome.curve]
            curve = [values[metric] for _, values in outcome.curve]
            color = plt.get_cmap("viridis")(rank / max(len(ranked) - 1, 1))
            axes.plot(steps, curve, color=color, marker=".", label=label)
            label = ""  # once for all seeds
    axes.set_xlabel("step")
    axes.set_ylabel(f"validation {metric}")
    axes.set_title(title)
    if ranked:
        figure.legend(loc="outside lower left", fontsize=8, title="the best first")
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


def task(job: jobs.Job, budget_s: float) -> list[str]:
    """Returns the arguments of `experiments.jobs` for a job, given the seconds of a training.

    It leaves the record that the sweep looks for, so that the sweep collects what has run.
    """
    limit = [] if math.isinf(budget_s) else [f"--budget_s={job.limit(budget_s):g}"]
    return [str(job.record), *limit, "--", *job.command]


def shell_line(job: jobs.Job, budget_s: float) -> str:
    """Returns a job's command for a shell, started in this directory."""
    return shlex.join([sys.executable, "-m", "experiments.jobs", *task(job, budget_s)])


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the sweep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="FILE[:ARGUMENT]")
    parser.add_argument("--sweep", type=Path, help="file that defines sweep() or suggest(trial)")
    parser.add_argument("--sampler", choices=(*study.SAMPLERS, STAGES), default="tpe")
    parser.add_argument("--trials", type=count, default=search.TRIALS, help="to draw, at most")
    parser.add_argument("--prune", choices=study.PRUNERS, default="none", help="trials that lag")
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", help="of each listed trial, or see above")
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
    parser.add_argument("--slurm", nargs="+", metavar=("PARTITION", "KEY=VALUE"), help=slurm.HELP)
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the record here as well")
    arguments = parser.parse_args(argv)
    return exit_status("run", lambda: sweep(arguments, sys.argv[1:] if argv is None else argv))


def sweep(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Runs the sweep, prints or submits it; returns 1 if no trial came to anything."""
    if arguments.quick:
        trials.compile_quickly()
    chosen = sweeps.load(arguments.sweep) if arguments.sweep else None
    seeds = list(sweeps.over(SEED, arguments.seeds or ()))
    if isinstance(chosen, list):
        outcomes = _listed(arguments, list(sweeps.product(chosen, seeds)) if seeds else chosen)
    elif arguments.print or arguments.vmap:
        raise InputError(
            "--print and --vmap need a --sweep that lists its trials: others depend on results."
        )
    elif arguments.slurm:
        worker = [*slurm.without_flag(argv), "--parallel=1"]
        slurm.submit(arguments, [("experiments.run", worker)] * arguments.parallel)
        return 0
    else:
        outcomes = _search(arguments, chosen, seeds)
    if outcomes:
        write(outcomes, arguments)
    return 0 if not outcomes or any(not outcome.error for outcome in outcomes) else 1


def _listed(
    arguments: argparse.Namespace, overrides: Sequence[sweeps.Overrides]
) -> list[trials.Outcome]:
    """Trains what is listed; returns nothing where it is only printed or submitted."""
    made, budget_s = _make(arguments, overrides), arguments.budget_s
    if arguments.vmap and arguments.prune != "none":
        raise InputError("--vmap prunes nothing: the trials of a step end together.")
    if arguments.vmap:
        from experiments import vmapped  # imports jax, which the others leave to their processes
    queue = vmapped.commands(made) if arguments.vmap else trials.commands(made)
    if arguments.print:
        print("\n".join(shell_line(job, budget_s) for job in queue))
        return []
    if arguments.slurm:
        commands = [("experiments.jobs", task(job, budget_s)) for job in queue]
        slurm.submit(arguments, commands, longest_s=max(job.limit(budget_s) for job in queue))
        return []
    if arguments.vmap:
        with outputs.lock(arguments.out):
            return vmapped.run(made, parallel=arguments.parallel, budget_s=budget_s)
    listed = [trial.overrides for trial in made]
    return study.run(_settings(arguments, {}, listed), listed)


def _search(
    arguments: argparse.Namespace, draw: sweeps.Suggest | None, seeds: Sequence[sweeps.Overrides]
) -> list[trials.Outcome]:
    """Trains what is drawn with the first seed, then the best with the others."""
    seed = seeds[0] if seeds else {}
    config = trials.resolve(arguments.config, _common(arguments) | seed)
    text = arguments.sweep.read_text(encoding="utf-8") if draw else ""
    settings = _settings(arguments, seed, [text, arguments.sampler])
    if arguments.sampler == STAGES:
        if draw:
            raise InputError("--sampler=stages goes through the space of search.py: no --sweep.")
        train = functools.partial(study.run, settings)
        outcomes = search.search(config, train, arguments.trials)
    else:
        settings = dataclasses.replace(
            settings,
            suggest=draw or functools.partial(search.suggest, config),
            count=arguments.trials,
            sampler=arguments.sampler,
        )
        outcomes = study.run(settings, [{}])  # the config as it stands comes first
    best = [outcome.trial.overrides for outcome in search.finalists(outcomes)]
    further = [trial.overrides for trial in _make(arguments, sweeps.product(best, seeds[1:]))]
    if further:
        outcomes += study.run(_settings(arguments, {}, further), further)
    return outcomes


def _settings(
    arguments: argparse.Namespace, seed: sweeps.Overrides, content: Any
) -> study.Settings:
    """Returns a study's settings; what it is of, and the config, decide its name."""
    as_configured = _make(arguments, [{}], seed)[0].directory.name
    return study.Settings(
        name=files.digest([as_configured, content])[:16],
        out=arguments.out,
        make=lambda overrides: _make(arguments, [overrides], seed)[0],
        pruner=arguments.prune,
        budget_s=arguments.budget_s,
        parallel=arguments.parallel,
    )


def _make(
    arguments: argparse.Namespace,
    overrides: Iterable[Mapping[str, Any]],
    seed: Mapping[str, Any] | None = None,
) -> tuple[trials.Trial, ...]:
    common = {**_common(arguments), **(seed or {})}
    return trials.make(arguments.config, overrides, arguments.examples, arguments.out, common)


def _common(arguments: argparse.Namespace) -> dict[str, Any]:
    common: dict[str, Any] = dict(trials.QUICK) if arguments.quick else {}
    if arguments.vmap:
        from experiments import vmapped

        common |= vmapped.shared_batches(arguments.config)
    return common


if __name__ == "__main__":
    sys.exit(main())
