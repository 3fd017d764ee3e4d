"""Evaluation: exact over every row, of the one ranked score, for models and baselines alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interactrank_jax import metrics
from interactrank_jax.config import fields
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation import calibration, uncertainty
from interactrank_jax.evaluation.scorers import IQPScorer, ModelScorer, Scorer, baseline
from interactrank_jax.examples.format import NO_GROUP, PADDING, Examples
from interactrank_jax.examples.input import (
    EVALUATION_COLUMNS,
    evaluation_batches,
    request_batches,
    train_columns,
)
from interactrank_jax.io import files, interrupts, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.printable import cell
from interactrank_jax.log.contract import STAGES
from interactrank_jax.losses.labels import ENGAGED, LabelRule
from interactrank_jax.runs.run import Run

RECALL_AT = (10, 100, 1000)
STAGE_METRICS = ("roc_auc", "request_auc", "pooled_request_auc", "hit_at_3", "ndcg_at_10")


class Rows:
    """Every scored candidate of a split, flat: request `[n]`, item, logits `[n, H]`, actions.

    And stage: 1 (shown) everywhere if the log knows none.
    """

    def __init__(self, scorer: Scorer, examples: Examples, split: str, batch_size: int):
        parts = []
        has_stages = "stage" in examples.metadata.candidate_columns
        extra = ("stage",) if has_stages else ()
        names = (*train_columns(examples), *EVALUATION_COLUMNS, *extra)
        for batch in evaluation_batches(examples, split, batch_size, names=names):
            interrupts.check()
            mask = batch["mask"]
            request = np.broadcast_to(batch["request_index"][:, None], mask.shape)
            stage = batch["stage"] if has_stages else np.ones_like(batch["item"])
            columns = (request, batch["item"], scorer.slate(batch), batch["actions"], stage)
            parts.append([column[mask] for column in columns])
        self.request, self.item, self.logits, self.actions, self.stage = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        expected = examples.split(split).candidates
        if len(self.request) != expected:
            raise InputError(
                f"{examples.path / split} holds {len(self.request)} candidates, the metadata says "
                f"{expected}: prepare the examples again."
            )
        self.score = self.logits @ np.asarray(scorer.utility, np.float32)

    def corrected_logits(self, scorer: Scorer) -> np.ndarray | None:
        """Returns logits `[n, H]` after the prior correction, None for a score that is no logit."""
        return self.logits - np.asarray(scorer.offsets, np.float32) if scorer.heads else None


def validate(scorer: ModelScorer) -> dict[str, float]:
    """Returns `metrics.METRICS` on the scorer's split, without intervals: what training watches."""
    rows = Rows(scorer, scorer.examples, scorer.split, scorer.batch_size)
    return slate_figures(scorer, rows, scorer.rule)


def slate_figures(scorer: Scorer, rows: Rows, rule: LabelRule) -> dict[str, float]:
    """Returns `metrics.METRICS` of the ranked score: all that validation in training looks at."""
    return metrics.evaluate_all(
        rows.request, rows.score, rule.engaged(rows.actions), _ranked_logits(scorer, rows)
    )


def _ranked_logits(scorer: Scorer, rows: Rows) -> np.ndarray | None:
    # The ranked score is a logit of engagement only where engagement is all it consists of.
    logits = rows.corrected_logits(scorer)
    if logits is None or ENGAGED not in scorer.heads:
        return None
    return logits[:, scorer.heads.index(ENGAGED)]


def evaluate_scorer(
    scorer: Scorer, rule: LabelRule, examples: Examples, split: str, config: Any
) -> tuple[dict[str, Any], Rows]:
    """Returns every figure of one scorer on one split, with intervals over requests, and its rows.

    Args:
      scorer: what ranks.
      rule: what counts as engaged.
      examples, split: on which requests.
      config: `config.evaluate`: batch_size, bootstrap (replicates), corpus_requests (0 = all).

    Raises:
      InputError: no engaged candidate in the split.
    """
    rows = Rows(scorer, examples, split, int(config.batch_size))
    engaged = rule.engaged(rows.actions)
    if not engaged.any():
        raise InputError(
            f"no candidate of split '{split}' counts as engaged: look at config.label.positive."
        )
    logits = _ranked_logits(scorer, rows)
    values: dict[str, float] = slate_figures(scorer, rows, rule)
    bounds = uncertainty.intervals(
        rows.request, rows.score, engaged, logits, replicates=int(config.bootstrap)
    )
    corpus_requests = 0
    if examples.has_corpus(split):
        request, ranks = corpus_ranks(scorer, rows, engaged, examples, split, config)
        corpus_requests = len(np.unique(request))
        # Of the requests whose cross features were prepared none may have an engaged item.
        for k in RECALL_AT if corpus_requests else ():
            recall = metrics.corpus_recall_by_request(ranks, request, k)
            values[f"recall_at_{k}"] = float(recall.mean())
            bounds[f"recall_at_{k}"] = uncertainty.mean_interval(
                recall, replicates=int(config.bootstrap)
            )
    result = {
        "name": scorer.name,
        "split": split,
        "protocol": examples.metadata.protocol,
        "requests": examples.split(split).requests,
        "candidates": len(rows.request),
        "engaged": int(engaged.sum()),
        "corpus": examples.num_items - 1,
        "corpus_requests": corpus_requests,
        "metrics": values,
        "intervals": {name: list(bound) for name, bound in bounds.items()},
        "heads": head_figures(scorer, rows, rule, int(config.bootstrap)),
        "stages": stage_figures(rows, engaged, int(config.bootstrap)),
    }
    return result, rows


def head_figures(
    scorer: Scorer, rows: Rows, rule: LabelRule, replicates: int
) -> dict[str, dict[str, list[float]]]:
    """Returns [value, low, high] of AUC, log loss and calibration of each head.

    Of unweighted rows, after the prior correction; intervals over requests.
    """
    logits = rows.corrected_logits(scorer)
    if logits is None:
        return {}
    labels = rule.labels(rows.actions)
    figures = {}
    for head, name in enumerate(scorer.heads):
        own, label = logits[:, head], labels[:, head]
        prepared, requests = metrics.statistics(rows.request, own, label, own)
        chosen = {metric: prepared[metric] for metric in ("roc_auc", "pr_auc", "logloss")}
        probability = 1 / (1 + np.exp(-own.astype(np.float64)))
        chosen |= calibration.calibration_statistics(rows.request, probability, label)
        bounds = uncertainty.bootstrap(chosen, requests, replicates=replicates)
        once = np.ones(requests)
        figures[name] = {
            metric: [float(statistic(once)), *bounds[metric]]
            for metric, statistic in chosen.items()
        }
    return figures


def stage_figures(
    rows: Rows, engaged: np.ndarray, replicates: int
) -> dict[str, dict[str, list[float]]]:
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
        bounds = uncertainty.bootstrap(prepared, requests, replicates=replicates)
        once = np.ones(requests)
        figures[name] = {
            metric: [float(statistic(once)), *bounds[metric]]
            for metric, statistic in prepared.items()
        }
    return figures


def corpus_ranks(
    scorer: Scorer, rows: Rows, engaged: np.ndarray, examples: Examples, split: str, config: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks every engaged item among all items, for requests that have one.

    Returns:
      request `[n]` and rank `[n]` from 1, ties against the model. With `config.corpus_requests`
      only that many requests, the same for every scorer, of those with cross features beyond their
      slate.
    """
    relevant_request, relevant_item = rows.request[engaged], rows.item[engaged]
    wanted = np.unique(relevant_request)
    wanted = wanted[examples.sparse_cross(split).group[wanted] != NO_GROUP]
    limit = int(config.corpus_requests)
    if limit and len(wanted) > limit:
        wanted = np.sort(np.random.default_rng(0).choice(wanted, limit, replace=False))
    is_wanted = np.zeros(examples.split(split).requests + 1, bool)
    is_wanted[wanted] = True
    order = np.argsort(relevant_request, kind="stable")
    relevant_request, relevant_item = relevant_request[order], relevant_item[order]

    requests, ranks = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in request_batches(examples, split, int(config.corpus_batch_size)):
        interrupts.check()
        if not is_wanted[batch["request_index"]].any():
            continue
        scores = scorer.corpus(batch)
        scores[:, PADDING] = -np.inf
        for row, request in enumerate(batch["request_index"]):
            if request < 0 or not is_wanted[request]:
                continue
            first, last = np.searchsorted(relevant_request, [request, request + 1])
            own = scores[row, relevant_item[first:last]]
            ranks.append((scores[row] >= own[:, None]).sum(1))
            requests.append(np.full(last - first, request))
    return np.concatenate(requests), np.concatenate(ranks)


def evaluate(
    workdir: files.PathLike,
    examples_path: files.PathLike,
    split: str = "test",
    config: Any = None,
) -> dict[str, Any]:
    """Evaluates a run's best model; writes RUN/eval/SPLIT.json and the scores, RUN/eval/SPLIT.npz.

    The scores (request_index, item, score, engaged; a row per candidate; and the hash of the
    examples) are what paired comparisons of models need.

    Args:
      workdir: the run.
      examples_path: examples it was trained on, or later ones that extend them.
      split: which of their splits.
      config: the `evaluate` part of a config; the run's by default.

    Raises:
      InputError: no run, no such split, examples of another encoder.
    """
    run, examples = Run.open(workdir), Examples(examples_path)
    config = run.config.evaluate if config is None else config
    fields.check(config, "evaluate")
    examples = run.check_examples(examples)
    examples.split(split)
    model, step = run.restore_model()
    parallel = DataParallel(run.config.train.parallel)
    scorer = ModelScorer(run, examples, split, parallel).use(parallel.replicate(model))
    with interrupts.deferred():
        result, rows = evaluate_scorer(scorer, run.rule, examples, split, config)
    result |= {"step": step, "examples_digest": examples.metadata.digest}
    directory = Path(workdir) / "eval"
    with outputs.new_file(directory / f"{split}.npz") as partial, partial.open("wb") as file:
        np.savez(
            file,
            request_index=rows.request,
            item=rows.item,
            score=rows.score,
            engaged=run.rule.engaged(rows.actions),
            examples=np.array(examples.metadata.digest),
        )
    write_result(directory / f"{split}.json", result)
    return result


def evaluate_baseline(
    name: str, config: Any, examples_path: files.PathLike, split: str = "test"
) -> dict[str, Any]:
    """Evaluates 'bm25', 'iqp' or 'iqp:FEATURE' as if it were a model.

    Returns:
      As `evaluate_scorer`; of iqp with the `feature` that it ranks by.

    Raises:
      InputError: no such baseline, feature or split, or no text or history to rank by.
    """
    fields.check(config)
    examples = Examples(examples_path)
    examples.split(split)
    rule = LabelRule.from_config(config.label, examples.metadata.actions)
    scorer = baseline(name, rule, examples, split)
    with interrupts.deferred():
        result, _ = evaluate_scorer(scorer, rule, examples, split, config.evaluate)
    if isinstance(scorer, IQPScorer):
        result["feature"] = scorer.feature
    return result


def write_result(path: files.PathLike, result: dict[str, Any]) -> None:
    """Writes a result as JSON; NaN (an undefined metric) becomes null."""
    files.write_json(path, _nan_to_none(result))


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(entry) for entry in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def part_table(result: dict[str, Any], part: str) -> str:
    """Returns a Markdown table of a result's 'heads' or 'stages'; '' where there are none."""
    if not result[part]:
        return ""
    names = list(next(iter(result[part].values())))
    lines = [f"| {part.removesuffix('s')} | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for name, figures in result[part].items():
        cells = [_figure(*figures[metric]) for metric in names]
        lines.append(f"| {cell(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or np.isnan(value):
        return ""
    if low is None or high is None or np.isnan(low):
        return f"{value:.4f}"
    return f"{value:.4f} ±{(high - low) / 2:.4f}"


def table(results: list[dict[str, Any]], names: Sequence[str] = ()) -> str:
    """Returns a Markdown table of several results: value and half the interval's width.

    `names` are the metrics to show, by default all.
    """
    names = list(names or results[0]["metrics"])
    lines = ["| model | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for result in results:
        cells = [
            _figure(result["metrics"].get(name), *result["intervals"].get(name, (None, None)))
            for name in names
        ]
        lines.append(f"| {cell(result['name'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
