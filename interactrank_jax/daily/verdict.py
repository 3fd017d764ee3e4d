"""Whether a day's model may be published: what its evaluation and its features say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interactrank_jax import metrics
from interactrank_jax.daily.plan import Plan
from interactrank_jax.daily.root import PUBLISHED, REFUSED
from interactrank_jax.daily.steps import EVALUATION, PROGRESSIVE, REPORT
from interactrank_jax.io import files


def judge(plan: Plan, version: Path) -> dict[str, Any]:
    """Returns the line of a day in the history; see `docs/daily.md`.

    Args:
      plan: the day.
      version: its directory, with what the steps before `export` wrote.
    """
    metric = str(plan.config["train"]["select_by"])
    evaluation = files.read_json(version / EVALUATION)
    drift = _drift(version / REPORT / "report.json")
    reasons = [*_falls(plan, metric, evaluation), *_drifts(drift)]
    difference = evaluation[0].get("differences")
    progressive = version / PROGRESSIVE
    return {
        "day": plan.day,
        "outcome": REFUSED if reasons else PUBLISHED,
        "reasons": reasons,
        "base": plan.base,
        "since": plan.since,
        "metric": metric,
        "progressive": _figures(files.read_json(progressive)[0]) if progressive.exists() else None,
        "held_out": _figures(evaluation[0]),
        "difference": difference,
        "drift": drift,
        "bounds": vars(plan.bounds),
    }


def _figures(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("requests", "candidates", "metrics", "intervals")}


def _falls(plan: Plan, metric: str, evaluation: list[dict[str, Any]]) -> list[str]:
    """Returns why the new model is too bad, if it is."""
    new = evaluation[0]
    where = f"on the {new['requests']:,} held-out requests of {plan.day}"
    if new["metrics"].get(metric) is None:
        return [f"{metric} is not defined {where}"]
    if not plan.base:
        return []
    difference, low, high = new["differences"].get(metric, (None, None, None))
    if difference is None:
        return [f"{metric} of the published model is not defined {where}"]
    fall = difference if metric in metrics.LOWER_IS_BETTER else -difference
    if fall <= plan.bounds.fall:
        return []
    return [
        f"{metric} {where} is {new['metrics'][metric]:.4f}, that of the published model "
        f"({plan.base}) {evaluation[1]['metrics'][metric]:.4f}: worse by {fall:.4f}, bound "
        f"{plan.bounds.fall:g} (95% interval of the difference {low:+.4f} to {high:+.4f})"
    ]


def _drift(file: Path) -> dict[str, Any] | None:
    """Returns what a report of features comes to, None where there is none."""
    if not file.exists():
        return None
    report = files.read_json(file)
    by_psi = max(report["features"], key=lambda feature: feature["psi"])
    changes = {f["name"]: f["null_rate"] - f["training_null_rate"] for f in report["features"]}
    by_nulls = max(changes, key=lambda name: abs(changes[name]))
    return {
        "psi": by_psi["psi"],
        "psi_of": by_psi["name"],
        "null_rate_change": changes[by_nulls],
        "null_rate_change_of": by_nulls,
        "staleness": report["staleness"],
        "problems": report["problems"],
    }


def _drifts(drift: Mapping[str, Any] | None) -> list[str]:
    return [f"drift: {problem}" for problem in drift["problems"]] if drift else []
