"""How features fare: what they cover, how old they are, and how far they drifted since training.

Reads what `state features` wrote, of the days to look at and of those that a model was trained on.

    coverage    share of requests (with a value for any of their candidates), of candidates and of
                engagements (candidates with any action) that have a value other than 0
    null rate   share of candidates with exactly 0: without history
    PSI         population stability index over the shares (p now, q in training) of 0 and of the
                bins between training's deciles:  sum_b (p_b - q_b) ln(p_b / q_b)
    staleness   days from the last day whose engagements a value may know of to the last request's:
                lag_days, or more where the values are those that an older snapshot served
    ROC-AUC     of the value alone as a score, for the action that it counts (of impressions: for
                any action); below .5 its opposite ranks better. A model must pass the best of them
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from interactrank_jax.io import files, outputs
from interactrank_jax.io.artifact import Artifact
from interactrank_jax.io.errors import InputError
from interactrank_jax.state.as_of import open_features, read
from interactrank_jax.state.days import date

BINS = 10
QUANTILES = (0.1, 0.5, 0.9, 0.99)
SMALLEST_SHARE = 1e-4  # of a bin: an empty one would make the index infinite


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What is still in order.

    Attributes:
      psi: largest population stability index of a feature.
      null_rate: largest change of a null rate, up or down.
      staleness: most days, see above.
    """

    psi: float = 0.25
    null_rate: float = 0.1
    staleness: int = 7


@dataclasses.dataclass(frozen=True)
class FeatureReport:
    """One feature.

    Attributes:
      name: of the feature.
      requests, candidates, engagements: coverage of each.
      null_rate, training_null_rate: now and in training.
      psi: see above.
      action: that the value is a score for, '' for any.
      roc_auc, training_roc_auc: see above; None where all candidates have the action, or none has.
      mean: over candidates.
      quantiles: of values other than 0, at `QUANTILES`; None where there are none.
      shares, training_shares: of 0, then of each bin.
    """

    name: str
    requests: float
    candidates: float
    engagements: float
    null_rate: float
    training_null_rate: float
    psi: float
    action: str
    roc_auc: float | None
    training_roc_auc: float | None
    mean: float
    quantiles: tuple[float | None, ...]
    shares: tuple[float, ...]
    training_shares: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """All features.

    Attributes:
      features: each one's.
      rows: candidates looked at.
      days: first and last day of the requests.
      known: the last day whose engagements a value may know of.
      staleness: in days.
      counts: rows, duplicates, late and early events of the counts.
      problems: what is past its bound.
    """

    features: tuple[FeatureReport, ...]
    rows: int
    days: tuple[str, str]
    known: str
    staleness: int
    counts: dict[str, Any]
    problems: tuple[str, ...]


def make(
    current: files.PathLike,
    training: files.PathLike,
    backend: ibis.BaseBackend,
    bounds: Bounds | None = None,
) -> Report:
    """Compares features with those of training.

    Args:
      current, training: directories that `state features` wrote.
      backend: where they are read.
      bounds: see `Bounds`.

    Raises:
      InputError: no such directory, or they hold other features.
    """
    bounds = bounds or Bounds()
    opened = [_open(directory) for directory in (current, training)]
    record, before = (features.record for features in opened)
    _check_alike(current, record, training, before)
    names, actions = record["description"]["specs"], record["description"]["actions"]
    now, then = (read(features, backend) for features in opened)
    edges = _edges(then, names, backend)
    shares, training_shares = (_shares(table, names, edges, backend) for table in (now, then))
    figures = _figures(now, names, actions, backend)
    aucs, training_aucs = (_aucs(table, names, actions, backend) for table in (now, then))
    features = tuple(
        FeatureReport(
            name=name,
            **figures[name],
            action=_action(name, actions),
            roc_auc=aucs[name],
            training_roc_auc=training_aucs[name],
            null_rate=shares[name][0],
            training_null_rate=training_shares[name][0],
            psi=stability_index(shares[name], training_shares[name]),
            shares=shares[name],
            training_shares=training_shares[name],
        )
        for name in names
    )
    last_day, known_day = record["last_day"], record["known"]
    return Report(
        features=features,
        rows=record["rows"],
        days=(date(record["first_day"]), date(last_day)),
        known=date(known_day),
        staleness=last_day - known_day,
        counts=record["counts"],
        problems=_problems(features, last_day - known_day, bounds),
    )


def _check_alike(
    current: files.PathLike, record: Any, training: files.PathLike, before: Any
) -> None:
    """Refuses features that are made otherwise than those of training."""
    for field, value in record["description"].items():
        if before["description"][field] != value:
            raise InputError(
                f"{current} and {training} differ in {field}: {value}, in training "
                f"{before['description'][field]}. Expected features of one recipe."
            )
    for action, mean in record["mean_rates"].items():
        if before["mean_rates"][action] != mean:
            raise InputError(
                f"{current} and {training} differ in the mean rate of {action}: {mean:.6g}, in "
                f"training {before['mean_rates'][action]:.6g}. Make both with one --encoder."
            )


def _open(directory: files.PathLike) -> Artifact:
    features = open_features(directory)
    if not features.record["rows"]:
        raise InputError(f"{directory} holds no rows: write features of other days.")
    return features


def _edges(
    table: ir.Table, names: list[str], backend: ibis.BaseBackend
) -> dict[str, tuple[float, ...]]:
    """Returns the distinct deciles of each feature's values other than 0."""
    quantiles = {
        # float64: engines interpolate in the type that they are given.
        f"q{k}_{i}": table[name].cast("float64").quantile(i / BINS, where=table[name] != 0)
        for k, name in enumerate(names)
        for i in range(1, BINS)
    }
    totals = backend.to_pyarrow(table.aggregate(**quantiles)).to_pylist()[0]
    return {
        name: tuple(sorted({v for i in range(1, BINS) if (v := totals[f"q{k}_{i}"]) is not None}))
        for k, name in enumerate(names)
    }


def _shares(
    table: ir.Table, names: list[str], edges: dict[str, tuple[float, ...]], backend: Any
) -> dict[str, tuple[float, ...]]:
    """Returns the share of rows at 0 and in each bin: up to the first edge, ..., past the last."""
    counts: dict[str, Any] = {"rows": table.count()}
    for k, name in enumerate(names):
        value, bounds = table[name], edges[name]
        counts[f"n{k}"] = value.count(where=value == 0)
        for i, (low, high) in enumerate(zip((None, *bounds), (*bounds, None), strict=True)):
            inside = value != 0
            if low is not None:
                inside &= value > ibis.literal(low, "float64")
            if high is not None:
                inside &= value <= ibis.literal(high, "float64")
            counts[f"n{k}_{i}"] = value.count(where=inside)
    totals = backend.to_pyarrow(table.aggregate(**counts)).to_pylist()[0]
    return {
        name: tuple(
            totals[key] / totals["rows"]
            for key in (f"n{k}", *(f"n{k}_{i}" for i in range(len(edges[name]) + 1)))
        )
        for k, name in enumerate(names)
    }


def stability_index(shares: tuple[float, ...], before: tuple[float, ...]) -> float:
    """Returns the population stability index of two distributions over the same bins."""
    floor = [
        (max(p, SMALLEST_SHARE), max(q, SMALLEST_SHARE))
        for p, q in zip(shares, before, strict=True)
    ]
    return sum((p - q) * math.log(p / q) for p, q in floor)


def _figures(
    table: ir.Table, names: list[str], actions: list[str], backend: ibis.BaseBackend
) -> dict[str, dict[str, Any]]:
    engaged = ibis.or_(*(table[action].cast("boolean") for action in actions))
    sums: dict[str, Any] = {"rows": table.count(), "engaged": table.count(where=engaged)}
    per_request = table.group_by("request_id").aggregate(
        **{f"any{k}": (table[name] != 0).any() for k, name in enumerate(names)}
    )
    requests: dict[str, Any] = {"requests": per_request.count()}
    for k, name in enumerate(names):
        value, has = table[name], table[name] != 0
        sums[f"mean{k}"] = value.cast("float64").mean()
        sums[f"has{k}"] = table.count(where=has)
        sums[f"engaged{k}"] = table.count(where=has & engaged)
        for i, q in enumerate(QUANTILES):
            sums[f"q{k}_{i}"] = value.cast("float64").quantile(q, where=has)
        requests[f"any{k}"] = per_request.count(where=per_request[f"any{k}"])
    totals = backend.to_pyarrow(table.aggregate(**sums)).to_pylist()[0]
    totals |= backend.to_pyarrow(per_request.aggregate(**requests)).to_pylist()[0]
    return {
        name: {
            "requests": totals[f"any{k}"] / totals["requests"],
            "candidates": totals[f"has{k}"] / totals["rows"],
            "engagements": totals[f"engaged{k}"] / max(totals["engaged"], 1),
            "mean": totals[f"mean{k}"],
            "quantiles": tuple(totals[f"q{k}_{i}"] for i in range(len(QUANTILES))),
        }
        for k, name in enumerate(names)
    }


def _action(name: str, actions: Sequence[str]) -> str:
    """Returns the action that a feature counts, '' if it counts impressions."""
    action = name.split(":")[1]
    return action if action in actions else ""


def _aucs(
    table: ir.Table, names: Sequence[str], actions: Sequence[str], backend: ibis.BaseBackend
) -> dict[str, float | None]:
    """Returns the ROC-AUC of each feature alone: over pairs of candidates, a tie counts a half."""
    engaged = ibis.or_(*(table[action].cast("boolean") for action in actions))
    result = {}
    for name in names:
        action = _action(name, actions)
        label = table[action].cast("boolean") if action else engaged
        rows = table.select(value=table[name], label=label)
        by_value = rows.group_by("value").aggregate(
            positive=rows.count(where=rows.label).cast("float64"),
            negative=rows.count(where=~rows.label).cast("float64"),
        )
        below = by_value.negative.cumsum(order_by="value") - by_value.negative / 2
        of_values = by_value.mutate(won=by_value.positive * below)
        sums = {column: of_values[column].sum() for column in ("won", "positive", "negative")}
        total = backend.to_pyarrow(of_values.aggregate(**sums)).to_pylist()[0]
        pairs = total["positive"] * total["negative"]
        result[name] = total["won"] / pairs if pairs else None
    return result


def best_alone(features: Sequence[FeatureReport]) -> dict[str, FeatureReport]:
    """Returns by action the feature that ranks best in training, up or down."""
    by_action: dict[str, list[FeatureReport]] = {}
    for feature in features:
        by_action.setdefault(feature.action, []).append(feature)
    return {action: max(group, key=_strength) for action, group in by_action.items()}


def _strength(feature: FeatureReport) -> float:
    return -1.0 if feature.training_roc_auc is None else abs(feature.training_roc_auc - 0.5)


def _problems(
    features: tuple[FeatureReport, ...], staleness: int, bounds: Bounds
) -> tuple[str, ...]:
    problems = []
    if staleness > bounds.staleness:
        problems.append(f"values are {staleness} days old (bound {bounds.staleness})")
    for feature in features:
        if feature.psi > bounds.psi:
            problems.append(f"{feature.name}: PSI {feature.psi:.3f} (bound {bounds.psi:g})")
        change = feature.null_rate - feature.training_null_rate
        if abs(change) > bounds.null_rate:
            problems.append(
                f"{feature.name}: null rate {feature.null_rate:.3f}, in training "
                f"{feature.training_null_rate:.3f} (bound {bounds.null_rate:g} apart)"
            )
    return tuple(problems)


def table(report: Report) -> str:
    """Returns the report as text, with a Markdown table."""
    marks = [f"p{100 * q:g}" for q in QUANTILES]
    header = ["feature", "requests", "candidates", "engagements", "null rate", "in training"]
    header += ["PSI", "ROC-AUC", "in training", "mean", *marks]
    counts = ", ".join(f"{name} {value}" for name, value in report.counts.items())
    lines = [
        f"{report.rows:,} candidates of {report.days[0]} to {report.days[1]}, with what was "
        f"known of {report.known} (staleness {report.staleness} days); counted: {counts}",
        "",
        "| " + " | ".join(header) + " |",
        "|---" * len(header) + "|",
    ]
    for row in report.features:
        shares = (row.requests, row.candidates, row.engagements, row.null_rate)
        cells = [row.name, *(f"{share:.3f}" for share in (*shares, row.training_null_rate))]
        cells += [f"{row.psi:.3f}", _auc(row.roc_auc), _auc(row.training_roc_auc)]
        cells += [f"{row.mean:.4g}"]
        cells += ["" if value is None else f"{value:.4g}" for value in row.quantiles]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "quantiles are of values other than 0; ROC-AUC is of the value alone"]
    for action, best in best_alone(report.features).items():
        if best.training_roc_auc is not None:
            lines.append(
                f"{action or 'any action'}: best alone is {best.name}, with ROC-AUC "
                f"{_auc(best.roc_auc) or 'undefined'} ({_auc(best.training_roc_auc)} in training): "
                f"a model of these features must rank better"
            )
    return "\n".join(lines)


def _auc(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def draw(report: Report, path: Path) -> None:
    """Saves a figure: the distribution of each feature, now and in training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(3, len(report.features))
    lines = math.ceil(len(report.features) / columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.5 * columns, 2.8 * lines), layout="constrained", squeeze=False
    )
    for axis, feature in zip(axes.flat, report.features, strict=False):
        places = range(len(feature.shares))
        axis.bar([x - 0.2 for x in places], feature.training_shares, 0.4, label="training")
        axis.bar([x + 0.2 for x in places], feature.shares, 0.4, label="now")
        axis.set_title(f"{feature.name}, PSI {feature.psi:.3f}", fontsize=9)
        axis.set_xticks(list(places), ["0", *(str(x) for x in places[1:])])
    for axis in axes.flat[len(report.features) :]:
        axis.set_axis_off()
    axes.flat[0].legend()
    figure.supxlabel("0, then bins between training's deciles")
    figure.supylabel("share of candidates")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(report: Report, out: files.PathLike) -> None:
    """Writes report.json, report.md and report.png into a new directory."""
    with outputs.new_directory(out) as directory:
        files.write_json(directory / "report.json", dataclasses.asdict(report))
        (directory / "report.md").write_text(table(report) + "\n", encoding="utf-8")
        draw(report, directory / "report.png")
