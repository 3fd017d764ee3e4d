"""Models compared on one test split: a row each, in a results file, a Markdown table and a figure.

A row is a dictionary of plain values, the keys of `experiments/results/public_datasets.json`.
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import cells
from interactrank_jax import metrics
from interactrank_jax.evaluation import uncertainty
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError

BASE = "two_tower"
KEY = ("dataset", "protocol", "model")
PART = "part"  # of a data set that comes in several, such as a policy and campaign; else absent
# What a model is held against beside the two-tower model: its parents, the peer in its place, and
# COLD, a whole network for each pair.
RIVALS = {
    "fit": ("dat", "inttower"),
    "interactfit": ("interactrank", "fit", "inttower", "cold"),
}
REPLICATES = 400

Row = dict[str, Any]


class Scored(NamedTuple):
    """What one trained model says of the test split.

    Attributes:
      request_index, item, engaged, score: `[n]`, a row per candidate.
      logloss: of calibrated probabilities.
    """

    request_index: np.ndarray
    item: np.ndarray
    engaged: np.ndarray
    score: np.ndarray
    logloss: float


def relative_improvement(auc: float, base: float) -> float:
    """Returns RelaImpr, (AUC - .5) / (AUC of the base - .5) - 1."""
    return (auc - 0.5) / (base - 0.5) - 1


def paired_difference(
    user: np.ndarray,
    ours: Sequence[Scored],
    base: Sequence[Scored],
    replicates: int = REPLICATES,
    metric: str = "roc_auc",
) -> uncertainty.PairedDifference:
    """Mean of a metric over the seeds of one model minus that of another, and its 95% interval.

    What is averaged over seeds is the metric, which is what a model that is trained once can be
    expected to reach; averaged scores would be those of an ensemble. A replicate draws users with
    all their rows, the same for both models, and of each model as many seeds as it has: so the
    interval holds for other users and for other seeds.

    Args:
      user: `[n]` whose row it is, as integers.
      ours, base: one per seed.
      replicates: number of resamples.
      metric: of `METRICS`. One that ranks requests needs `user` to be the request.

    Raises:
      InputError: they were not tested on the same rows.
    """
    first = base[0]
    prepared = []
    for runs in (ours, base):
        for run in runs:
            if not np.array_equal(run.request_index, first.request_index) or not np.array_equal(
                run.item, first.item
            ):
                raise InputError("the models were not tested on the same rows in the same order.")
        prepared.append(
            [metrics.statistics(user, run.score, run.engaged)[0][metric] for run in runs]
        )
    generator = np.random.default_rng(0)

    def mean(runs: Sequence[metrics.Statistic], users: np.ndarray, drawn: np.ndarray) -> float:
        values = {run: float(runs[run](users)) for run in set(drawn.tolist())}
        return float(np.mean([values[run] for run in drawn.tolist()]))

    def difference(users: np.ndarray) -> float:
        means = (
            mean(runs, users, generator.integers(len(runs), size=len(runs))) for runs in prepared
        )
        return next(means) - next(means)

    number = len(np.unique(user))
    # Each resample of users draws runs of its own.
    of_resamples = functools.partial(np.apply_along_axis, difference, -1)
    low, high = uncertainty.bootstrap({"": of_resamples}, number, replicates=replicates)[""]
    once = np.ones(number)
    value, other = (mean(runs, once, np.arange(len(runs))) for runs in prepared)
    return uncertainty.PairedDifference(value - other, low, high)


def make_row(
    key: tuple[str, str, str],
    tested: Sequence[Scored],
    base: Sequence[Scored] | None,
    user: np.ndarray,
    group: np.ndarray,
    rivals: Mapping[str, Sequence[Scored]],
    **further: Any,
) -> Row:
    """Returns a model's row.

    Args:
      key: data set, protocol, model.
      tested: one per seed.
      base: the two-tower model's; None for its own row.
      user: `[n]` by whom the interval resamples.
      group: `[n]` within what the grouped AUC is taken, the mean over groups with both classes.
      rivals: other models by name, for the row's `versus`.
      further: other values.
    """
    aucs = [metrics.roc_auc(run.score, run.engaged) for run in tested]
    grouped = [metrics.request_auc(group, run.score, run.engaged) for run in tested]
    auc, relaimpr, difference = statistics.fmean(aucs), 0.0, None
    if base is not None:
        base_auc = statistics.fmean(metrics.roc_auc(run.score, run.engaged) for run in base)
        relaimpr = relative_improvement(auc, base_auc)
        difference = paired_difference(user, tested, base)
    return {
        **dict(zip(KEY, key, strict=True)),
        "seeds": len(tested),
        "auc_mean": _rounded(auc),
        "auc_std": _deviation(aucs),
        "logloss_mean": _rounded(statistics.fmean(run.logloss for run in tested)),
        "logloss_std": _deviation([run.logloss for run in tested]),
        "relaimpr": _rounded(relaimpr),
        "grouped_auc_mean": _rounded(statistics.fmean(grouped)),
        "grouped_auc_std": _deviation(grouped),
        "diff_vs_two_tower": difference and _rounded(difference.difference),
        "diff_low": difference and _rounded(difference.low),
        "diff_high": difference and _rounded(difference.high),
        "versus": {
            name: [_rounded(value) for value in paired_difference(user, tested, rival)]
            for name, rival in rivals.items()
        },
        **further,
    }


def _rounded(value: float) -> float | None:
    """Returns a figure of a row; None where it is undefined, which JSON has no number for."""
    return round(value, 6) if math.isfinite(value) else None


def _deviation(values: Sequence[float]) -> float | None:
    deviation = cells.deviation(values) if all(map(math.isfinite, values)) else None
    return None if deviation is None else round(deviation, 6)


def merge(path: files.PathLike, rows: Sequence[Row]) -> None:
    """Writes rows into a results file: in place of those of the same key and part, or at its end.

    A row of the same figures as the one it replaces keeps that one's intervals with rivals that it
    has none with itself.

    Raises:
      InputError: the file holds something else.
    """
    path = Path(path)
    before = files.read_json(path) if path.exists() else []
    if not isinstance(before, list) or not all(isinstance(row, dict) for row in before):
        raise InputError(f"{path} holds no list of rows. Name another file.")
    by_key = {_key(row): row for row in before}
    for row in rows:
        key = _key(row)
        old = by_key.get(key, {})
        if all(old.get(name) == row.get(name) for name in ("seeds", "auc_mean", "auc_std")):
            row = {**row, "versus": {**old.get("versus", {}), **row["versus"]}}
        by_key[key] = row
    files.write_json(path, list(by_key.values()))


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in (*KEY, PART))


def refuse_quick(is_quick: bool, path: files.PathLike | None) -> None:
    """Raises InputError if rows of a quick run were to replace those of full ones in a file."""
    if is_quick and path is not None:
        raise InputError(
            f"--json={path} with --quick: rows of the smallest sizes would replace those of full "
            f"runs. Leave one of the two out; a quick run has its rows below --out."
        )


def table(rows: Sequence[Row]) -> str:
    """Returns the Markdown table of rows of one data set and protocol.

    Raises:
      InputError: they are of several.
    """
    if len({(row["dataset"], row["protocol"], row.get(PART)) for row in rows}) > 1:
        raise InputError("rows of several data sets or protocols do not belong in one table.")
    has_published = any(row.get("published_auc") for row in rows)
    columns = [
        "model",
        "seeds",
        "AUC",
        "logloss",
        "RelaImpr",
        rows[0]["grouped_metric"],
        "parameters",
        "FLOPs per candidate",
        "training examples/s",
        "AUC minus two-tower's [95%]",
        *(["published AUC / logloss"] if has_published else []),
    ]
    lines = cells.header(columns)
    for row in rows:
        texts = [
            row["model"],
            str(row["seeds"]),
            cells.spread(row["auc_mean"], row["auc_std"]),
            cells.spread(row["logloss_mean"], row["logloss_std"]),
            "" if row["relaimpr"] is None else f"{row['relaimpr']:+.2%}",
            cells.spread(row["grouped_auc_mean"], row["grouped_auc_std"]),
            cells.number(row["parameters"]),
            cells.number(row["serving_flops_per_candidate"]),
            cells.number(row["examples_per_s"]),
            _interval(row),
        ]
        if has_published:
            published = (row.get("published_auc"), row.get("published_logloss"))
            texts.append(" / ".join(f"{value:.4f}" for value in published if value is not None))
        lines.append(cells.row(texts))
    return "\n".join(lines)


def _interval(row: Row) -> str:
    difference = (row["diff_vs_two_tower"], row["diff_low"], row["diff_high"])
    return "" if None in difference else cells.difference(difference)


def versus(rows: Sequence[Row]) -> list[str]:
    """Returns a line per model and rival: AUC minus the rival's, with its interval."""
    return [
        f"{row['model']} minus {rival}: {cells.difference(difference)}"
        for row in rows
        for rival, difference in row.get("versus", {}).items()
        if None not in difference
    ]


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Saves the figure: AUC of every model, and against what a candidate costs to serve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    height = max(4.0, 0.35 * len(rows) + 1)
    figure, (all_, cost) = plt.subplots(1, 2, figsize=(12, height), layout="constrained")
    for position, row in enumerate(rows):
        color = plt.get_cmap("tab20")(position % 20)
        mean, deviation = row["auc_mean"], row["auc_std"]
        all_.errorbar(mean, position, xerr=deviation, fmt="o", color=color, capsize=3)
        flops = row["serving_flops_per_candidate"]
        if flops is None:
            cost.axhline(mean, color=color, linestyle="--", label=row["model"])
        else:
            cost.errorbar(flops, mean, yerr=deviation, fmt="o", color=color)
            where = {"textcoords": "offset points", "xytext": (4, 4), "fontsize": 8}
            cost.annotate(row["model"], (flops, mean), **where)
    all_.set_yticks(range(len(rows)), [row["model"] for row in rows])
    all_.invert_yaxis()
    all_.set_xlabel("test AUC, ± standard deviation over seeds")
    if cost.get_legend_handles_labels()[0]:
        cost.legend(loc="lower right")
    cost.set_xscale("log")
    cost.margins(x=0.25)
    cost.set_xlabel("serving FLOPs per candidate")
    cost.set_ylabel("test AUC")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
