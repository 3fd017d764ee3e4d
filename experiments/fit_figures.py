"""Figures of FIT's ablation, drawn of what `fit_ablation.py` wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.ablation import WHOLE

PANELS = 4  # meta matrices of a log
CANDIDATES = 10_000  # of the request whose cost is drawn
FEWEST_POINTS = 2  # of a line
LEAST_NAMED = 0.04  # usage of a meta query whose category and usage are written beside it


def draw(content: Mapping[str, Any], directory: Path) -> list[Path]:
    """Saves the figures that the rows have data for; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    rows = [row for row in content["rows"] if "error" not in row]
    drawn = {
        "auc_against_queries.png": _draw_queries(rows),
        "query_similarity.png": _draw_similarity(content["meta_queries"]),
        "meta_queries.png": _draw_matrices(content["meta_queries"]),
        "pareto.png": _draw_pareto(rows),
    }
    paths = []
    for name, figure in drawn.items():
        if figure is not None:
            paths.append(directory / name)
            figure.savefig(paths[-1], dpi=120)
    return paths


def _figure(columns: int, rows: int = 1) -> tuple[Any, Any]:
    """Returns a figure and its panels `[rows, columns]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * columns + 1, 4.5 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _logs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["log"] for row in rows))


def _draw_queries(rows: Sequence[Mapping[str, Any]]) -> Any:
    """ROC-AUC against N, a panel for each log; None where fewer than two N were trained."""
    counts = [row for row in rows if _query_count(row)]
    logs = [log for log in _logs(counts) if sum(r["log"] == log for r in counts) >= FEWEST_POINTS]
    if not logs:
        return None
    figure, panels = _figure(len(logs))
    for axis, log in zip(panels[0], logs, strict=True):
        log_rows = sorted((row for row in counts if row["log"] == log), key=_query_count)
        for split in ("validation", "test"):
            values = [row[split]["roc_auc"] for row in log_rows]
            axis.errorbar(
                [_query_count(row) for row in log_rows],
                [value["mean"] for value in values],
                yerr=[value["std"] or 0 for value in values],
                marker="o",
                capsize=3,
                label=split,
            )
        axis.set_xscale("log", base=2)
        axis.set(xlabel="meta queries N", ylabel="ROC-AUC, ± deviation over seeds", title=log)
        axis.legend()
    return figure


def _query_count(row: Mapping[str, Any]) -> int:
    """Returns N of FIT as configured but for N; 0 of another row."""
    plain = row["model"] == "fit" and set(row["overrides"]) <= {"model.meta.vectors"}
    return int(row.get("meta_vectors", 0)) if plain else 0


def _draw_similarity(details: Sequence[Mapping[str, Any]]) -> Any:
    """QS against the step, a panel for each log, a line for each way the temperature falls."""
    lines = [one for one in details if one["change"] == WHOLE or one["group"] == "temperature"]
    if not lines:
        return None
    figure, panels = _figure(len(_logs(lines)))
    for axis, log in zip(panels[0], _logs(lines), strict=True):
        for one in lines:
            if one["log"] == log:
                axis.plot(*zip(*one["steps"], strict=True), marker=".", label=one["change"])
        axis.set(xlabel="step", ylabel="QS, cosine of soft and hard query", title=log)
        axis.legend(fontsize=8)
    return figure


def _draw_matrices(details: Sequence[Mapping[str, Any]]) -> Any:
    """Meta matrices in 2-D, a line of panels for each log; None where there is none to draw."""
    by_log = {log: _matrices(details, log) for log in _logs(details)}
    by_log = {log: matrices for log, matrices in by_log.items() if matrices}
    if not by_log:
        return None
    figure, panels = _figure(max(map(len, by_log.values())), len(by_log))
    for axes, matrices in zip(panels, by_log.values(), strict=True):
        categories = {name for one in matrices for name in one["matrix"]["category"] if name}
        for axis, one in zip(axes, matrices, strict=False):  # some logs have fewer
            _draw_matrix(axis, one, sorted(categories))
        for axis in axes[len(matrices) :]:
            axis.set_axis_off()
    return figure


def _matrices(details: Sequence[Mapping[str, Any]], log: str) -> list[Mapping[str, Any]]:
    """Returns the meta matrices of a log to draw: as configured first, then the largest."""
    matrices = [
        one
        for one in details
        if one["log"] == log
        and (one["change"] == WHOLE or one["group"] == "queries")
        and len(one["matrix"]["points"]) >= FEWEST_POINTS
    ]
    matrices = sorted(matrices, key=lambda one: one["change"] != WHOLE)
    return matrices if len(matrices) <= PANELS else [matrices[0], *matrices[-(PANELS - 1) :]]


def _draw_matrix(axis: Any, one: Mapping[str, Any], categories: Sequence[str]) -> None:
    """Draws a meta matrix: colour by the commonest category, area by usage, unused crossed."""
    from matplotlib import pyplot as plt

    matrix = one["matrix"]
    colors = {name: plt.get_cmap("tab20")(number % 20) for number, name in enumerate(categories)}
    for point, usage, name in zip(
        matrix["points"], matrix["usage"], matrix["category"], strict=True
    ):
        if usage:
            color = colors.get(name, "gray")
            axis.scatter(*point, s=30 + 2_000 * usage, color=color, alpha=0.7)
            if usage >= LEAST_NAMED:
                axis.annotate(f"{name} {usage:.0%}", point, fontsize=7, ha="center")
        else:
            axis.scatter(*point, s=30, color="gray", marker="x")
    used = sum(usage > 0 for usage in matrix["usage"])
    title = f"{one['change']}, {one['log']}: {used} of {len(matrix['usage'])} used"
    axis.set(xlabel="first principal axis", ylabel="second", title=title)
    axis.margins(0.2)
    axis.set_aspect("equal", adjustable="datalim")


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the Pareto front of (cost, value): what nothing of no more cost is as good as."""
    best: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or value > best[-1][1]:
            best.append((cost, value))
    return best


def cost(row: Mapping[str, Any]) -> float:
    """Returns the FLOPs of a request with `CANDIDATES` candidates: encoded once, each scored.

    Those of a candidate alone would not show what meta queries cost: that is spent on the request.
    """
    return float(row["flops_per_request"] + CANDIDATES * row["serving_flops_per_candidate"])


def _draw_pareto(rows: Sequence[Mapping[str, Any]]) -> Any:
    """ROC-AUC of the test against FLOPs of a request: models by name, FIT's changes in gray."""
    if len(rows) < FEWEST_POINTS:
        return None
    figure, panels = _figure(len(_logs(rows)))
    for axis, log in zip(panels[0], _logs(rows), strict=True):
        points = []
        for row in (row for row in rows if row["log"] == log):
            value = row["test"]["roc_auc"]
            point = (cost(row), value["mean"])
            points.append(point)
            is_model = row["group"] == "models" or row["change"] == WHOLE
            color = "tab:blue" if is_model else "lightgray"
            axis.errorbar(*point, yerr=value["std"] or 0, fmt="o", color=color, zorder=1 + is_model)
            if is_model:
                where = {"textcoords": "offset points", "xytext": (4, 4), "fontsize": 8}
                axis.annotate(row["model"], point, **where)
        axis.step(*zip(*front(points), strict=True), where="post", color="tab:red", label="front")
        axis.set_xscale("log")
        axis.set_xlabel(f"FLOPs of a request with {CANDIDATES:,} candidates")
        axis.set(ylabel="test ROC-AUC, ± deviation over seeds", title=log)
        axis.legend()
        axis.margins(x=0.2)
    return figure
