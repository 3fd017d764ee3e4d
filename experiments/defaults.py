r"""What each default of training is worth: ROC-AUC on validation, one change at a time.

    python -m experiments.defaults --source=../shared/data/ml-100k --out=runs/defaults

InteractRank as it stands, then with one default changed (`CHANGES`), on simulated logs of several
kinds and, if `--source` has it, on MovieLens-100K by time and at random. The test split is not
looked at. Differences to the defaults are seed by seed. What is done is kept.
"""

import argparse
import functools
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import contenders, logs, over_inputs, simulated, trials
from experiments.benchmarks import reporting
from experiments.command_line import exit_status
from interactrank_jax.config import configuration
from interactrank_jax.io import files, outputs

MODEL = "interactrank"
CHANGES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no fitted start": {"train.affine.fit": False},
    "shares and rates alike, damped": {"model.cross.transform": "log"},
    "dot product at weight 5": {"model.dot_weight_init": 5.0},
    "last projection at the rate of the rest": {"train.affine.rate_scale": 1.0},
    "last projection fixed (towers fit the residual)": {"train.affine.rate_scale": 0.0},
    "accumulators from .1": {"train.tables.initial_accumulator": 0.1},
    "id dropout .1": {"train.id_dropout": 0.1},
    "id dropout .3": {"train.id_dropout": 0.3},
    "decay of rows .01": {"train.tables.weight_decay": 0.01},
}
SIMULATED = ("search", "drift", "turnover", "slate_3", "positives")
MOVIELENS = {"movielens_100k": "by time", "movielens_100k_random": "at random"}


def settings(arguments: argparse.Namespace) -> dict[str, contenders.Setting]:
    """Returns what trainings on each data set are run with, by the name of its column."""
    directory = simulated.place(arguments)
    preset = "tiny" if arguments.quick else arguments.preset

    def setting(name: str, argument: str, log: Path) -> contenders.Setting:
        return contenders.Setting(
            argument=argument,
            log=log,
            out=directory / name,
            seeds=tuple(arguments.seeds),
            limit=1,
            parallel=arguments.parallel,
            budget_s=float("inf"),
            common=dict(trials.QUICK) if arguments.quick else {},
        )

    made = {}
    for variant in arguments.variants:
        argument = "ratings_time" if variant == over_inputs.POSITIVES else over_inputs.SEARCH
        made[variant] = setting(variant, argument, over_inputs.make_log(preset, variant, directory))
    if arguments.source is not None:
        log = logs.make_log("movielens_100k", arguments.source, preset, directory)
        for argument, name in MOVIELENS.items():
            made[f"MovieLens-100K {name}"] = setting(argument, argument, log)
    return made


def measure(setting: contenders.Setting) -> dict[str, list[float]]:
    """Returns the best ROC-AUC on validation of each seed, by change."""
    spec = setting.spec(MODEL)
    examples = setting.examples(configuration.load(spec).data)
    values = {}
    for name, overrides in CHANGES.items():
        sweep = [{**overrides, "train.seed": seed} for seed in setting.seeds]
        made = trials.make(spec, sweep, examples, setting.out / MODEL, setting.common)
        values[name] = [outcome.value for outcome in simulated.trained(made, setting.parallel)]
    return values


def table(results: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns a Markdown table: the defaults' ROC-AUC, then the mean difference of each change."""
    lines = ["| | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for change in CHANGES:
        cells = []
        for values in results.values():
            if change == "defaults":
                cells.append(f"{statistics.fmean(values[change]):.4f}")
                continue
            pairs = zip(values[change], values["defaults"], strict=True)
            differences = [one - other for one, other in pairs]
            spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
            cells.append(f"{statistics.fmean(differences):+.4f} ± {spread:.4f}")
        lines.append(f"| {change} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = simulated.parser(__doc__)
    parser.set_defaults(seeds=[0, 1])
    variants = over_inputs.VARIANTS
    parser.add_argument("--variants", nargs="*", choices=variants, default=list(SIMULATED))
    parser.add_argument("--source", type=Path, help="directory of MovieLens-100K")
    arguments = parser.parse_args(argv)
    return exit_status("defaults", functools.partial(_main, arguments))


def _main(arguments: argparse.Namespace) -> int:
    out = simulated.place(arguments)
    if arguments.quick:
        trials.compile_quickly()
    with outputs.lock(out):
        results = {}
        for name, setting in settings(arguments).items():
            results[name] = measure(setting)
            print(f"{table(results)}\n", flush=True)
        versions = reporting.versions("jax", "jaxlib", "flax", "numpy", "scikit-learn")
        content = {"preset": arguments.preset, "validation": results, "versions": versions}
        files.write_json(out / "defaults.json", content)
    print(out / "defaults.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
