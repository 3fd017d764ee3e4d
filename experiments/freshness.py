r"""What freshness is worth: test AUC against the lag of the counts, and the age of a snapshot.

    python -m experiments.freshness --preset=small --out=runs/freshness

On the simulated log. A lag is known when features are made: training sees it too. An age is not: a
model trained with a lag of one day is served with the counts of a snapshot that is so many days
older, query histories included. Beside InteractRank stand the click share alone (`iqp`), for which
the two are the same, and the two-tower model, which needs neither. What is done is kept.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cells, contenders, simulated, trials
from experiments.command_line import count, exit_status, natural
from interactrank_jax import metrics
from interactrank_jax.config import configuration
from interactrank_jax.evaluation import baselines, evaluate
from interactrank_jax.examples.format import Examples
from interactrank_jax.losses.labels import LabelRule

LAGS = (1, 2, 4, 8, 16, 32)
AGES = (0, 1, 3, 7, 15, 31)
MEASURED = ("auc", "difference")  # with mean and deviation over seeds


def iqp_auc(examples: Examples, rule: LabelRule) -> float:
    """Returns the test AUC of one cross feature alone."""
    column = baselines.iqp_column(examples.metadata.cross, rule.positive)
    score, engaged = [], []
    for block in examples.blocks("test"):
        mask = block["mask"]
        score.append(block["cross"][mask][:, column])
        engaged.append(rule.engaged(block["actions"][mask]))
    return metrics.roc_auc(np.concatenate(score), np.concatenate(engaged))


def aged_auc(outcome: trials.Outcome, examples: Examples) -> float:
    """Returns the test AUC of a trained model on examples that differ in their counts alone."""
    from interactrank_jax.devices.parallel import DataParallel
    from interactrank_jax.evaluation.scorers import ModelScorer
    from interactrank_jax.runs.run import Run

    run = Run.open(outcome.trial.workdir)
    parallel = DataParallel(run.config.train.parallel)
    scorer = ModelScorer(run, examples, "test", parallel)
    scorer.use(parallel.replicate(run.restore_model()[0]))
    rows = evaluate.Rows(scorer, examples, "test", scorer.batch_size)
    return metrics.roc_auc(rows.score, run.rule.engaged(rows.actions))


def measure(
    setting: contenders.Setting, lags: Sequence[int], ages: Sequence[int]
) -> list[dict[str, Any]]:
    """Trains, tests, and returns a row per lag and per age."""

    def examples(lag: int) -> Path:
        data = configuration.load(setting.spec("interactrank")).data
        data.cross.lag_days = lag
        return setting.examples(data)

    def train(model: str, lag: int) -> list[trials.Outcome]:
        sweep = [{"data.cross.lag_days": lag, "train.seed": seed} for seed in setting.seeds]
        out = setting.out / model
        made = trials.make(setting.spec(model), sweep, examples(lag), out, setting.common)
        return simulated.trained(made, setting.parallel)

    rule = LabelRule.from_config(
        configuration.load(setting.spec("interactrank")).label,
        Examples(examples(1)).metadata.actions,
    )
    rows = []
    freshest = train("interactrank", 1)
    best = [aged_auc(outcome, Examples(examples(1))) for outcome in freshest]
    for what, days in (*(("lag", lag) for lag in lags), *(("age", age) for age in ages)):
        lag = days if what == "lag" else 1 + days
        lagged = Examples(examples(lag))
        if lag == 1:
            aucs = best
        else:
            outcomes = freshest if what == "age" else train("interactrank", lag)
            aucs = [aged_auc(outcome, lagged) for outcome in outcomes]
        rows.append(
            summary("interactrank", what, days, aucs, best) | {"iqp_auc": iqp_auc(lagged, rule)}
        )
        print(rows[-1], flush=True)
    fresh = Examples(examples(1))
    without = [aged_auc(outcome, fresh) for outcome in train("two_tower", 1)]
    return [*rows, summary("two_tower", "none", 0, without, best)]


def summary(
    model: str, what: str, days: int, aucs: Sequence[float], best: Sequence[float]
) -> dict[str, Any]:
    """Returns a row: AUC, and its difference to that with the freshest counts, seed by seed."""
    differences = [auc - freshest for auc, freshest in zip(aucs, best, strict=True)]
    moments: dict[str, float | None] = {}
    for name, values in zip(MEASURED, (aucs, differences), strict=True):
        moments[f"{name}_mean"] = statistics.fmean(values)
        moments[f"{name}_std"] = cells.deviation(values)
    return {"model": model, "what": what, "days": days, "seeds": len(aucs), **moments}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table; differences are to lag_days 1, their deviations over seeds."""
    lines = ["| | days | InteractRank | difference | IQP alone |", "|---|---|---|---|---|"]
    names = {"lag": "lag_days", "age": "snapshot older by"}
    for row in rows:
        # Older files have a deviation of 0 where there is one seed.
        auc, difference = (row[f"{name}_std"] if row["seeds"] > 1 else None for name in MEASURED)
        value = cells.spread(row["auc_mean"], auc)
        value += " | " + cells.spread(row["difference_mean"], difference, "+")
        if row["model"] == "two_tower":
            lines.append(f"| two-tower | | {value} | |")
        else:
            lines.append(
                f"| {names[row['what']]} | {row['days']} | {value} | {row['iqp_auc']:.4f} |"
            )
    return "\n".join(lines)


def draw(content: Mapping[str, Any], directory: Path) -> list[Path]:
    """Saves the figure, AUC against days; returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows, path = content["rows"], directory / "freshness.png"
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for what, label in (("lag", "InteractRank, lag_days"), ("age", "InteractRank, older snapshot")):
        chosen = [row for row in rows if row["what"] == what]
        days = [row["days"] + (what == "age") for row in chosen]
        mean = [row["auc_mean"] for row in chosen]
        spread = [row["auc_std"] or 0.0 for row in chosen]
        axis.errorbar(days, mean, yerr=spread, marker="o", capsize=3, label=label)
    line = [row for row in rows if row["what"] == "none"]
    axis.axhline(line[0]["auc_mean"], color="gray", linestyle="--", label="two-tower")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("days from the last day counted to the request's")
    axis.set_ylabel("test AUC")
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return [path]


def main(argv: list[str] | None = None) -> int:
    """Parses the command line and runs the experiment."""
    parser = simulated.parser(__doc__)
    for flag, kind, days in (("--lags", count, LAGS), ("--ages", natural, AGES)):
        which = f"days ({' '.join(map(str, days))}; with --quick the first two)"
        parser.add_argument(flag, type=kind, nargs="+", help=which)
    arguments = parser.parse_args(argv)
    first = 2 if arguments.quick else None
    lags, ages = arguments.lags or LAGS[:first], arguments.ages or AGES[:first]

    def make() -> tuple[str, dict[str, Any]]:
        setting = simulated.setting(arguments)
        rows = measure(setting, lags, ages)
        configs = {model: setting.config(model) for model in ("two_tower", "interactrank")}
        return table(rows), {"rows": rows, "configs": configs}

    return exit_status("freshness", lambda: simulated.publish(arguments, "freshness", make, draw))


if __name__ == "__main__":
    sys.exit(main())
