"""The history, drawn: how the published model did on each new day, and what became of the next."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interactrank_jax.daily.root import REFUSED, Root
from interactrank_jax.io import outputs


def draw_if_older(root: Root) -> None:
    """Draws the history where the figure is older than it; nothing where matplotlib is missing."""
    file = root.path / "history.jsonl"
    if importlib.util.find_spec("matplotlib") is None or not file.exists():
        return
    if root.figure.exists() and root.figure.stat().st_mtime_ns > file.stat().st_mtime_ns:
        return
    with outputs.new_file(root.figure) as partial:
        draw(list(root.history().values()), partial)


def draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Saves a figure as PNG: metrics, the difference to the published model, and drift, by day.

    Args:
      lines: of the history, ascending.
      path: of the file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(8, 8), layout="constrained", sharex=True)
    metric = lines[-1]["metric"]
    days = np.array([line["day"] for line in lines], "datetime64[D]")
    for key, label in (
        ("progressive", "published model on the new day, before training"),
        ("held_out", "new model on the new day's held-out requests"),
    ):
        rows = [line[key] or {"metrics": {}, "intervals": {}} for line in lines]
        points = [
            (row["metrics"].get(metric), *(row["intervals"].get(metric) or (None, None)))
            for row in rows
        ]
        _draw_points(axes[0], days, points, label)
    differences = [(line["difference"] or {}).get(metric) or (None,) * 3 for line in lines]
    _draw_points(axes[1], days, differences, "new minus published, same requests")
    axes[1].axhline(0, color="gray", linewidth=0.8)
    drift = [line["drift"]["psi"] if line["drift"] else np.nan for line in lines]
    axes[2].plot(days, drift, "o-", label="largest PSI of a feature")
    axes[2].plot(days, [line["bounds"]["psi"] for line in lines], "--", label="its bound")
    for day, line in zip(days, lines, strict=True):
        if line["outcome"] == REFUSED:
            for axis in axes:
                axis.axvline(day, color="tab:red", alpha=0.4)
    for axis, title in zip(axes, (metric, f"{metric}, difference", "drift"), strict=True):
        axis.set_ylabel(title)
        axis.legend(fontsize=8)
    axes[2].tick_params(axis="x", rotation=45)
    figure.suptitle("days with a red line were refused", fontsize=9)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def _draw_points(
    axis: Any, days: np.ndarray, points: Sequence[Sequence[float | None]], label: str
) -> None:
    """Draws values with their intervals; days without a value keep their place."""
    values, lows, highs = np.array(points, float).T  # None becomes NaN
    (drawn,) = axis.plot(days, values, "o-", label=label)
    axis.fill_between(days, lows, highs, alpha=0.2, color=drawn.get_color())
