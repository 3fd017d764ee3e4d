r"""What models add to their own inputs, on logs of many kinds: test ROC-AUC beside reference lines.

    python -m experiments.over_inputs --movielens_100k=../shared/data/ml-100k --out=runs/over_inputs

On simulated logs that differ from a search log in one respect each (`VARIANTS` of
`log/simulator/presets.py`), and on MovieLens where a flag says where it lies, with the configs as
they stand: nothing is searched. A model lies below
a reference line (`evaluation/references.py`) if it does by more than the interval of their paired
difference, 95% over requests; the lines are fitted on training, the best feature is chosen on
validation. A log of positives only has four negatives sampled for each. What is done is kept.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import cells, contenders, logs, simulated, trials
from experiments.command_line import exit_status
from interactrank_jax.losses.labels import ENGAGED

MODELS = ("interactrank", "interactfit")
SEARCH, POSITIVES = "search", "positives"
VARIANTS = (SEARCH, "drift", "turnover", "labels_1", "labels_50", "slate_3", "slate_300", POSITIVES)
MOVIELENS = {
    "movielens_100k": ("movielens_100k", "movielens_100k_random"),
    "movielens_1m": ("movielens_1m", "movielens_1m_published"),
}
METRIC = "roc_auc"


def data_sets(
    arguments: argparse.Namespace, variants: Sequence[str]
) -> dict[str, contenders.Setting]:
    """Returns what trainings are run with, by data set; makes the logs unless they are there.

    Args:
      arguments: of the command line, `add_sources` included.
      variants: of the simulated log.

    Raises:
      InputError: a directory that does not hold the data set.
    """
    directory = simulated.place(arguments)
    settings = {}
    for variant in variants:
        argument = "ratings_time" if variant == POSITIVES else SEARCH
        log = make_log(simulated.preset(arguments), variant, directory)
        settings[variant] = simulated.setting(arguments, argument, log, variant)
    for dataset, protocols in MOVIELENS.items():
        source = getattr(arguments, dataset)
        if source is None:
            continue
        log = logs.make_log(dataset, source, "", directory / dataset)
        for argument in protocols:
            settings[argument] = simulated.setting(arguments, argument, log, argument)
    return settings


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the public data sets."""
    for dataset in MOVIELENS:
        parser.add_argument(f"--{dataset}", type=Path, help="directory of the data set, if any")


def make_log(preset: str, variant: str, directory: Path) -> Path:
    """Simulates a log unless it is there, and samples negatives if it has none; returns its place.

    Raises:
      InputError: no such preset or variant.
    """
    from interactrank_jax.log.adapters import ratings
    from interactrank_jax.log.negatives import SampledNegatives
    from interactrank_jax.log.simulator.simulate import simulate

    log = directory / f"log-{variant}"
    if log.exists():
        return log
    if variant != POSITIVES:
        simulate(preset, 0, log, variant="" if variant == SEARCH else variant)
        return log
    simulated_log = directory / f"simulated-{variant}"
    if not simulated_log.exists():
        simulate(preset, 0, simulated_log, variant=variant)
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
    """Trains and tests the models on every data set; returns a row for each pair."""
    rows = []
    for name, setting in data_sets(arguments, arguments.variants).items():
        for model in arguments.models:
            rows.append({"variant": name, "model": model, **test(setting, model)})
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def test(setting: contenders.Setting, model: str) -> dict[str, Any]:
    """Returns the figures of a model's seeds and of the reference lines on the test split."""
    from interactrank_jax.config import configuration

    spec = setting.spec(model)
    examples = setting.examples(configuration.load(spec).data)
    sweep = [{"train.seed": seed} for seed in setting.seeds]
    made = trials.make(spec, sweep, examples, setting.out / model, setting.common)
    outcomes = simulated.trained(made, setting.parallel)
    figures = summary([contenders.evaluated(outcome) for outcome in outcomes])
    return {**figures, "config": setting.config(model)}


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
    ece = [result["heads"][ENGAGED]["ece"][0] for result in results]
    return {
        "seeds": len(results),
        "auc_mean": statistics.fmean(values),
        "auc_std": cells.deviation(values),
        "logloss": statistics.fmean(logloss),
        "constant_logloss": results[0]["references"]["constant"]["metrics"]["logloss"],
        "ece": statistics.fmean(ece),
        "lines": lines,
        "best_line": best,
        "difference": [statistics.fmean(ends) for ends in zip(*differences, strict=True)],
        "below": sum(bool(result["below"]) for result in results),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table; a seed below some line by more than its interval is counted."""
    lines = [
        "| log | model | ROC-AUC | popularity | best feature | regression | minus the best [95%] "
        "| seeds below | log loss | of a constant | ECE |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        texts = [
            row["variant"],
            row["model"],
            # Older files have a deviation of 0 where there is one seed.
            cells.spread(row["auc_mean"], row["auc_std"] if row["seeds"] > 1 else None),
            *(
                f"{row['lines'][name]:.4f}" if name in row["lines"] else ""
                for name in ("popularity", "best_feature", "regression")
            ),
            cells.difference(row["difference"]),
            f"{row['below']} of {row['seeds']}",
            f"{row['logloss']:.4f}",
            f"{row['constant_logloss']:.4f}",
            f"{row['ece']:.4f}",
        ]
        lines.append(cells.row(texts))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = simulated.parser(__doc__)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    add_sources(parser)
    arguments = parser.parse_args(argv)

    def make() -> tuple[str, dict[str, Any]]:
        rows = measure(arguments)
        return table(rows), {"rows": rows}

    return exit_status("over_inputs", lambda: simulated.publish(arguments, "over_inputs", make))


if __name__ == "__main__":
    sys.exit(main())
