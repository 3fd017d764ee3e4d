r"""What models add to their own inputs, on logs of many kinds: test ROC-AUC beside reference lines.

    python -m experiments.over_inputs --preset=small --out=runs/over_inputs

On simulated logs that differ from a search log in one respect each (`VARIANTS` of
`log/simulator/presets.py`), with the configs as they stand: nothing is searched. A model lies below
a reference line (`evaluation/references.py`) if it does by more than the interval of their paired
difference, 95% over requests; the lines are fitted on training, the best feature is chosen on
validation. A log of positives only has four negatives sampled for each. What is done is kept.
"""

import argparse
import functools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import contenders, simulated, trials
from experiments.benchmarks import reporting
from experiments.command_line import exit_status
from interactrank_jax.io import files, outputs

MODELS = ("interactrank", "interactfit")
SEARCH, POSITIVES = "search", "positives"
VARIANTS = (SEARCH, "drift", "turnover", "labels_1", "labels_50", "slate_3", "slate_300", POSITIVES)
METRIC = "roc_auc"


def make_log(preset: str, variant: str, out: Path) -> Path:
    """Simulates a log unless it is there, and samples negatives if it has none; returns its place.

    Raises:
      InputError: no such preset or variant.
    """
    from interactrank_jax.log.adapters import ratings
    from interactrank_jax.log.negatives import SampledNegatives
    from interactrank_jax.log.simulator.simulate import simulate

    simulated_log, log = out / f"simulated-{variant}", out / f"log-{variant}"
    if variant != POSITIVES:
        if not log.exists():
            simulate(preset, 0, log, variant="" if variant == SEARCH else variant)
        return log
    if not simulated_log.exists():
        simulate(preset, 0, simulated_log, variant=variant)
    if not log.exists():
        options = ratings.Options(
            rating="",
            time="timestamp",
            created="created_at",
            text=("title",),
            query=("country", "gender"),
            negatives=SampledNegatives("uniform", 4, 0),
        )
        ratings.convert(simulated_log / "ratings", log, options)
    return log


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains and tests the models on every variant; returns a row for each pair."""
    rows = []
    for variant in arguments.variants:
        directory = simulated.place(arguments)
        preset = "tiny" if arguments.quick else arguments.preset
        setting = contenders.Setting(
            argument="ratings_time" if variant == POSITIVES else SEARCH,
            log=make_log(preset, variant, directory),
            out=directory / variant,
            seeds=tuple(arguments.seeds),
            limit=1,
            parallel=arguments.parallel,
            budget_s=float("inf"),
            common=dict(trials.QUICK) if arguments.quick else {},
        )
        for model in arguments.models:
            rows.append({"variant": variant, "model": model, **test(setting, model)})
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def test(setting: contenders.Setting, model: str) -> dict[str, Any]:
    """Returns the figures of a model's seeds and of the reference lines on the test split."""
    from interactrank_jax.config import configuration
    from interactrank_jax.evaluation.evaluate import evaluate

    spec = setting.spec(model)
    examples = setting.examples(configuration.load(spec).data)
    sweep = [{"train.seed": seed} for seed in setting.seeds]
    made = trials.make(spec, sweep, examples, setting.out / model, setting.common)
    outcomes = simulated.trained(made, setting.parallel)
    return summary([evaluate(outcome.trial.workdir, examples) for outcome in outcomes])


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns a row of what `evaluate` says of each seed.

    `lines` are the reference lines' ROC-AUC. `best_line` is the highest of them, and `difference`
    that of the model to it: the mean over seeds, of its interval's ends too. `below` counts seeds
    that lie below some line by more than the interval.
    """
    values = [result["metrics"][METRIC] for result in results]
    lines = {
        name: line["metrics"][METRIC]
        for name, line in results[0]["references"].items()
        if METRIC in line["differences"]
    }
    best = max(lines, key=lambda name: lines[name])
    differences = [result["references"][best]["differences"][METRIC] for result in results]
    logloss = [result["metrics"]["logloss"] for result in results]
    return {
        "seeds": len(results),
        "auc_mean": statistics.fmean(values),
        "auc_std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "logloss": statistics.fmean(logloss),
        "constant_logloss": results[0]["references"]["constant"]["metrics"]["logloss"],
        "lines": lines,
        "best_line": best,
        "difference": [statistics.fmean(ends) for ends in zip(*differences, strict=True)],
        "below": sum(bool(result["below"]) for result in results),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table; a seed below some line by more than its interval is counted."""
    lines = [
        "| log | model | ROC-AUC | popularity | best feature | regression | minus the best [95%] "
        "| seeds below | log loss | of a constant |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        value, low, high = row["difference"]
        cells = [
            row["variant"],
            row["model"],
            f"{row['auc_mean']:.4f} ± {row['auc_std']:.4f}",
            *(
                f"{row['lines'][name]:.4f}" if name in row["lines"] else ""
                for name in ("popularity", "best_feature", "regression")
            ),
            f"{value:+.4f} [{low:+.4f}, {high:+.4f}]",
            f"{row['below']} of {row['seeds']}",
            f"{row['logloss']:.4f}",
            f"{row['constant_logloss']:.4f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = simulated.parser(__doc__)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    arguments = parser.parse_args(argv)
    return exit_status("over_inputs", functools.partial(_main, arguments))


def _main(arguments: argparse.Namespace) -> int:
    out = simulated.place(arguments)
    if arguments.quick:
        trials.compile_quickly()
    with outputs.lock(out):
        rows = measure(arguments)
        print(f"\n{table(rows)}\n")
        versions = reporting.versions("jax", "jaxlib", "flax", "numpy", "scikit-learn")
        content = {"preset": arguments.preset, "rows": rows, "versions": versions}
        files.write_json(out / "over_inputs.json", content)
    print(out / "over_inputs.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
