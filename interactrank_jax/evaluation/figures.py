"""Figures of scored rows with their intervals: of all rows, of each head, against each stage."""

from collections.abc import Mapping

import numpy as np

from interactrank_jax import metrics
from interactrank_jax.evaluation import calibration, uncertainty
from interactrank_jax.evaluation.rows import Rows
from interactrank_jax.evaluation.scorers import Scorer
from interactrank_jax.log.contract import STAGES
from interactrank_jax.losses.labels import LabelRule

STAGE_METRICS = ("roc_auc", "request_auc", "pooled_request_auc", "hit_at_3", "ndcg_at_10")
Figures = dict[str, list[float]]  # by metric: value, low, high


def measured(prepared: Mapping[str, metrics.Statistic], requests: int, replicates: int) -> Figures:
    """Returns [value, low, high] of prepared metrics, see `metrics.statistics`."""
    bounds = uncertainty.bootstrap(prepared, requests, replicates=replicates)
    once = np.ones(requests)
    return {name: [float(value(once)), *bounds[name]] for name, value in prepared.items()}


def slate_figures(scorer: Scorer, rows: Rows, rule: LabelRule) -> dict[str, float]:
    """Returns `metrics.METRICS` of the ranked score: all that validation in training looks at."""
    return metrics.evaluate_all(
        rows.request, rows.score, rule.engaged(rows.actions), rows.ranked_logits(scorer)
    )


def head_figures(
    scorer: Scorer, rows: Rows, rule: LabelRule, replicates: int
) -> dict[str, Figures]:
    """Returns [value, low, high] of AUC, log loss and calibration of each head.

    Of unweighted rows, by calibrated probabilities; intervals over requests.
    """
    if not scorer.heads:
        return {}
    logits, probabilities = (
        of(rows.logits) for of in (scorer.calibration.logits, scorer.calibration.probabilities)
    )
    labels = rule.labels(rows.actions)
    figures = {}
    for head, name in enumerate(scorer.heads):
        label = labels[:, head]
        prepared, requests = metrics.row_statistics(
            rows.request, rows.logits[:, head], label, logits[:, head]
        )
        prepared |= calibration.calibration_statistics(rows.request, probabilities[:, head], label)
        figures[name] = measured(prepared, requests, replicates)
    return figures


def reliability_figures(
    scorer: Scorer, rows: Rows, rule: LabelRule, replicates: int
) -> dict[str, list[dict[str, float]]]:
    """Returns the reliability diagram of each head, see `calibration.reliability`."""
    if not scorer.heads:
        return {}
    probabilities, labels = scorer.calibration.probabilities(rows.logits), rule.labels(rows.actions)
    return {
        name: calibration.reliability(
            rows.request, probabilities[:, head], labels[:, head], replicates=replicates
        )
        for head, name in enumerate(scorer.heads)
    }


def stage_figures(rows: Rows, engaged: np.ndarray, replicates: int) -> dict[str, Figures]:
    """Returns [value, low, high] of ranking metrics against the negatives of each stage alone.

    Engaged candidates of any stage against those of one stage that were not engaged with: shown,
    retrieved but not shown, random. Empty where there is one stage only.
    """
    if len(np.unique(rows.stage)) < 2:
        return {}
    figures = {}
    for code, name in enumerate(STAGES, start=1):
        chosen = engaged | (rows.stage == code)
        if not (chosen & ~engaged).any():
            continue
        prepared, requests = metrics.statistics(
            rows.request[chosen], rows.score[chosen], engaged[chosen]
        )
        prepared = {metric: prepared[metric] for metric in STAGE_METRICS}
        figures[name] = measured(prepared, requests, replicates)
    return figures
