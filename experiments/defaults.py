r"""What each default of training is worth: ROC-AUC on validation, one change at a time.

    python -m experiments.defaults --movielens_100k=../shared/data/ml-100k --out=runs/defaults

InteractRank as it stands, then with one default changed (`CHANGES`), on simulated logs of several
kinds, and on MovieLens where a flag says where it lies. Step 0 is left out: it would hide a
training that only does harm. The test split is not looked at. Differences to the defaults are seed
by seed. What is done is kept.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import cells, contenders, over_inputs, simulated, trials
from experiments.command_line import exit_status
from interactrank_jax.config import configuration

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


def measure(setting: contenders.Setting) -> dict[str, list[float]]:
    """Returns the best ROC-AUC on validation after step 0 of each seed, by change."""
    spec = setting.spec(MODEL)
    examples = setting.examples(configuration.load(spec).data)
    values = {}
    for name, overrides in CHANGES.items():
        sweep = [{**overrides, "train.seed": seed} for seed in setting.seeds]
        made = trials.make(spec, sweep, examples, setting.out / MODEL, setting.common)
        values[name] = [
            max(figures["roc_auc"] for step, figures in outcome.curve if step)
            for outcome in simulated.trained(made, setting.parallel)
        ]
    return values


def table(results: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns a Markdown table: the defaults' ROC-AUC, then the mean difference of each change."""
    lines = ["| | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for change in CHANGES:
        texts = []
        for values in results.values():
            if change == "defaults":
                texts.append(f"{statistics.fmean(values[change]):.4f}")
                continue
            pairs = zip(values[change], values["defaults"], strict=True)
            differences = [changed - default for changed, default in pairs]
            spread = cells.deviation(differences)
            texts.append(cells.spread(statistics.fmean(differences), spread, "+"))
        lines.append(cells.row([change, *texts]))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = simulated.parser(__doc__)
    parser.set_defaults(seeds=[0, 1])
    variants = over_inputs.VARIANTS
    parser.add_argument("--variants", nargs="*", choices=variants, default=list(SIMULATED))
    over_inputs.add_sources(parser)
    arguments = parser.parse_args(argv)

    def make() -> tuple[str, dict[str, Any]]:
        results, configs = {}, {}
        for name, setting in over_inputs.data_sets(arguments, arguments.variants).items():
            results[name], configs[name] = measure(setting), setting.config(MODEL)
            print(f"{table(results)}\n", flush=True)
        content = {"validation": results, "changes": CHANGES, "configs": configs}
        return table(results), content

    return exit_status("defaults", lambda: simulated.publish(arguments, "defaults", make))


if __name__ == "__main__":
    sys.exit(main())
