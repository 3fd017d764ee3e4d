"""Reference lines: what a model has to pass to be worth its cost, on the same rows, in every table.

constant        the share of training that was engaged with
popularity      how much an item was engaged with before the request, see `popularity.py`
best_feature    the one cross feature, and its sign, with the best ROC-AUC on validation
regression      a logistic regression over all cross features and rates, see `regression.py`
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interactrank_jax import metrics
from interactrank_jax.evaluation import uncertainty
from interactrank_jax.evaluation.baseline_scorers import baseline
from interactrank_jax.evaluation.rows import Rows
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import LabelRule

REFERENCES = ("constant", "popularity", "best_feature", "regression")


@dataclasses.dataclass(frozen=True)
class Reference:
    """A reference line on the rows of a split.

    Attributes:
      name: of `REFERENCES`.
      feature: what it ranks by, '' where the name says it.
      request, engaged, score: `[n]` in the order of `Rows`.
      is_logit: whether it has a log loss.
    """

    name: str
    feature: str
    request: np.ndarray
    engaged: np.ndarray
    score: np.ndarray
    is_logit: bool


@functools.lru_cache(maxsize=8)
def reference_lines(
    examples: Examples, rule: LabelRule, split: str, batch_size: int
) -> tuple[Reference, ...]:
    """Returns the reference lines that examples have; one that they lack inputs for is left out."""
    lines = []
    for name in REFERENCES:
        try:
            scorer = baseline(name, rule, examples, split)
        except InputError:
            continue
        rows = Rows(scorer, examples, split, batch_size)
        engaged = rule.engaged(rows.actions)
        arrays = (rows.request, engaged, rows.score)
        lines.append(Reference(name, scorer.feature, *arrays, bool(scorer.heads)))
    return tuple(lines)


def reference_figures(
    examples: Examples, rule: LabelRule, split: str, batch_size: int
) -> dict[str, dict[str, float]]:
    """Returns `metrics.METRICS` of each reference line by its name; log loss of logits alone."""
    result = {}
    for line in reference_lines(examples, rule, split, batch_size):
        logits = line.score if line.is_logit else None
        values = metrics.evaluate_all(line.request, line.score, line.engaged, logits)
        result[line.name] = {name: value for name, value in values.items() if np.isfinite(value)}
    return result


def compare(
    lines: Sequence[Reference],
    rows: Rows,
    engaged: np.ndarray,
    ranked_logits: np.ndarray | None,
    replicates: int,
) -> dict[str, dict[str, Any]]:
    """Returns the figures of reference lines, and how a model differs from them.

    Args:
      lines: of the rows' split.
      rows: the model's.
      engaged: `[n]`.
      ranked_logits: `[n]` calibrated logits of engagement; None without any.
      replicates: of the bootstrap.

    Returns:
      By name: `feature`, `metrics`, and `differences`: by metric the model minus the line, with its
      interval, paired over requests.
    """
    result = {}
    for line in lines:
        values = metrics.evaluate_all(
            rows.request, line.score, engaged, line.score if line.is_logit else None
        )
        names = [name for name in values if name != "logloss"]
        differences = uncertainty.paired_differences(
            rows.request, rows.score, line.score, engaged, names, replicates=replicates
        )
        if line.is_logit and ranked_logits is not None:
            differences |= uncertainty.paired_differences(
                *(rows.request, ranked_logits, line.score, engaged, ["logloss"]),
                replicates=replicates,
            )
        result[line.name] = {
            "feature": line.feature,
            "metrics": values,
            "differences": {name: list(values) for name, values in differences.items()},
        }
    return result


def lines_above(references: Mapping[str, Mapping[str, Any]], *names: str) -> list[str]:
    """Returns in words each reference line that is better than a model by more than its interval.

    Args:
      references: of `compare`.
      names: the metrics to look at. Of one that is better where it is lower, such as the log loss,
        the words are that the model lies above.
    """
    words = []
    for metric in dict.fromkeys(names):
        for name, line in references.items():
            value, low, high = line["differences"].get(metric, (0.0, 0.0, 0.0))
            is_lower_better = metric in metrics.LOWER_IS_BETTER
            if low > 0 if is_lower_better else high < 0:
                side = "above" if is_lower_better else "below"
                feature = f" ({line['feature']})" if line["feature"] else ""
                interval = f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"
                has = f"which has {metric} {line['metrics'][metric]:.4f}"
                words.append(f"{side} {name}{feature}, {has}: {interval}")
    return words
