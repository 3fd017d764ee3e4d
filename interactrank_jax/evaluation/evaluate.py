"""Evaluation: exact over every row, of the one ranked score, for models and baselines alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interactrank_jax import metrics
from interactrank_jax.config import fields
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation import references, uncertainty
from interactrank_jax.evaluation.baseline_scorers import baseline
from interactrank_jax.evaluation.corpus_ranks import CorpusRanks, corpus_ranks
from interactrank_jax.evaluation.external_scores import ExternalScorer
from interactrank_jax.evaluation.figures import (
    head_figures,
    measured,
    reliability_figures,
    slate_figures,
    stage_figures,
)
from interactrank_jax.evaluation.platt import fit_calibration
from interactrank_jax.evaluation.rows import Rows
from interactrank_jax.evaluation.scorers import ModelScorer, Scorer
from interactrank_jax.evaluation.slices import slice_figures, slicings
from interactrank_jax.examples import warnings
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files, interrupts, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.contract import STAGES
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.runs.run import Run
from interactrank_jax.serving.probabilities import Calibration


def validate(scorer: ModelScorer) -> tuple[dict[str, float], Calibration]:
    """Calibrates a model on the scorer's split, which must be validation.

    Returns:
      (`metrics.METRICS`, without intervals: what training watches; what was fitted). The log loss
      is that of the fit, so that it is what `evaluate` will say of the model.
    """
    rows = Rows(scorer, scorer.examples, scorer.split, scorer.batch_size)
    labels = scorer.rule.labels(rows.actions)
    scorer.calibration = fit_calibration(rows.logits, labels, scorer.prior)
    return slate_figures(scorer, rows, scorer.rule), scorer.calibration


def evaluate_scorer(
    scorer: Scorer,
    rule: LabelRule,
    examples: Examples,
    split: str,
    config: Any,
    by: Sequence[str] = (),
) -> tuple[dict[str, Any], Rows]:
    """Returns every figure of one scorer on one split, with intervals over requests, and its rows.

    Args:
      scorer: what ranks.
      rule: what counts as engaged.
      examples, split: on which requests.
      config: `config.evaluate`: batch_size, bootstrap (replicates), corpus_requests (0 = all).
      by: how to cut the split, see `slices.slicings`.

    Raises:
      InputError: no engaged candidate in the split, or nothing to cut it by.
    """
    cuts, replicates = slicings(by, examples, split), int(config.bootstrap)
    rows = Rows(scorer, examples, split, int(config.batch_size))
    engaged = rule.engaged(rows.actions)
    if not engaged.any():
        raise InputError(
            f"no candidate of split '{split}' counts as engaged: look at config.label.positive."
        )
    logits = rows.ranked_logits(scorer)
    prepared, requests = metrics.statistics(rows.request, rows.score, engaged, logits)
    figures = measured(prepared, requests, replicates)
    ranks: CorpusRanks | None = None
    if scorer.has_corpus and examples.has_corpus(split):
        ranks = corpus_ranks(scorer, rows, engaged, examples, split, config)
        figures |= ranks.figures(replicates)
    result = {
        "name": scorer.name,
        "split": split,
        "protocol": examples.metadata.protocol,
        "negatives": _negatives(rows, examples),
        "requests": examples.split(split).requests,
        "candidates": len(rows.request),
        "engaged": int(engaged.sum()),
        "corpus": examples.num_items - 1,
        "corpus_requests": 0 if ranks is None else len(np.unique(ranks.request)),
        "corpus_as_of_request": ranks is not None and ranks.is_dated,
        "metrics": {name: value for name, (value, _, _) in figures.items()},
        "intervals": {name: bounds for name, (_, *bounds) in figures.items()},
        "bootstrap": replicates,
        "heads": head_figures(scorer, rows, rule, replicates),
        "reliability": reliability_figures(scorer, rows, rule, replicates),
        "stages": stage_figures(rows, engaged, replicates),
        "slices": {
            cut.name: slice_figures(cut, rows, engaged, logits, ranks, replicates) for cut in cuts
        },
        "warnings": warnings.of_requests(rows.request, split),
    }
    return result, rows


def _negatives(rows: Rows, examples: Examples) -> dict[str, Any] | None:
    """Returns how negatives were sampled, and the number of `sampled` rows; None if they were not.

    They are the rows of stage 'random' of a log that declares so.
    """
    negatives = examples.metadata.negatives
    if negatives is None:
        return None
    sampled = int((rows.stage == 1 + STAGES.index("random")).sum())
    return {**negatives.to_json(), "sampled": sampled}


def evaluate(
    workdir: files.PathLike,
    examples_path: files.PathLike,
    split: str = "test",
    config: Any = None,
    by: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluates a run's best model; writes RUN/eval/SPLIT.json and the scores, RUN/eval/SPLIT.npz.

    The scores (request_index, item, score, engaged; a row per candidate; the hash of the examples
    and the step of the model) are what paired comparisons of models need. Beside them is the
    `probability` of each of `heads`, `[n, H]`.

    Args:
      workdir: the run.
      examples_path: examples it was trained on, or later ones that extend them.
      split: which of their splits.
      config: the `evaluate` part of a config; the run's by default.
      by: how to cut the split, see `slices.slicings`.

    Raises:
      InputError: no run, no such split, examples of another encoder.
    """
    return _evaluate_run(workdir, examples_path, split, config, by)[0]


def _evaluate_run(
    workdir: files.PathLike,
    examples_path: files.PathLike,
    split: str,
    config: Any,
    by: Sequence[str],
) -> tuple[dict[str, Any], Rows, np.ndarray | None]:
    """Returns what `evaluate` does, the rows, and the logits `[n]` of engagement, if any."""
    run, examples = Run.open(workdir), Examples(examples_path)
    config = run.config.evaluate if config is None else config
    fields.check(config, "evaluate")
    examples = run.check_examples(examples)
    examples.split(split)
    model, step = run.restore_model()
    parallel = DataParallel(run.config.train.parallel)
    scorer = ModelScorer(run, examples, split, parallel, examples.has_corpus(split))
    scorer.use(parallel.replicate(model), run.calibration(step))
    with interrupts.deferred():
        result, rows = evaluate_scorer(scorer, run.rule, examples, split, config, by)
    result |= {"step": step, "examples_digest": examples.metadata.digest}
    result["calibration"] = scorer.calibration.to_json()
    result |= _references(run, rows, scorer, examples, split, config)
    directory = Path(workdir) / "eval"
    with outputs.new_file(directory / f"{split}.npz") as partial, partial.open("wb") as file:
        np.savez(
            file,
            request_index=rows.request,
            item=rows.item,
            score=rows.score,
            engaged=run.rule.engaged(rows.actions),
            heads=np.array(scorer.heads),
            probability=scorer.calibration.probabilities(rows.logits).astype(np.float32),
            examples=np.array(examples.metadata.digest),
            step=np.array(step),
        )
    write_result(directory / f"{split}.json", result)
    return result, rows, rows.ranked_logits(scorer)


def evaluate_pair(
    workdir: files.PathLike,
    against: files.PathLike,
    examples_path: files.PathLike,
    split: str = "test",
    config: Any = None,
    by: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Evaluates two runs on the same requests.

    Args:
      workdir, against: the runs; each is evaluated as by `evaluate`, and writes what that writes.
      examples_path, split: whose requests; they must fit both.
      config: the `evaluate` part of a config; by default that of `workdir`, for both.
      by: how to cut the split, see `slices.slicings`.

    Returns:
      The result of either. The first has `differences` too: by metric, itself minus the other with
      its interval, over the same resamples of requests.

    Raises:
      InputError: as `evaluate` raises, or what counts as engaged differs between them.
    """
    config = Run.open(workdir).config.evaluate if config is None else config
    rules = [Run.open(path).rule for path in (workdir, against)]
    runs = [_evaluate_run(path, examples_path, split, config, by) for path in (workdir, against)]
    (result, rows, logits), (other, other_rows, other_logits) = runs
    engaged = rules[0].engaged(rows.actions)
    if not np.array_equal(engaged, rules[1].engaged(rows.actions)):
        raise InputError(
            f"what counts as engaged in {workdir} is something else in {against}, so that their "
            f"metrics cannot be compared: name runs of one config.label."
        )
    names = list(metrics.METRICS)
    if logits is None or other_logits is None:
        names.remove("logloss")
    differences = uncertainty.paired_differences(
        *(rows.request, rows.score, other_rows.score, engaged, names),
        logits=(logits, other_logits),
        replicates=int(config.bootstrap),
    )
    result["differences"] = {name: list(values) for name, values in differences.items()}
    for each, path in ((result, workdir), (other, against)):
        each["name"] = f"{each['name']} in {path}"
    return [result, other]


def _references(
    run: Run, rows: Rows, scorer: ModelScorer, examples: Examples, split: str, config: Any
) -> dict[str, Any]:
    """Returns the reference lines beside a model, and in words those that it lies below."""
    with interrupts.deferred():
        lines = references.reference_lines(examples, run.rule, split, int(config.batch_size))
        figures = references.compare(
            lines,
            rows,
            run.rule.engaged(rows.actions),
            rows.ranked_logits(scorer),
            int(config.bootstrap),
        )
    below = references.lines_above(figures, run.config.train.select_by, "logloss")
    return {"references": figures, "below": below}


def evaluate_baseline(
    name: str,
    config: Any,
    examples_path: files.PathLike,
    split: str = "test",
    by: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluates a baseline, 'NAME' or 'NAME:FEATURE' of `BASELINES`, as if it were a model.

    Returns:
      As `evaluate_scorer`; with the `feature` that it ranks by, where the name does not say it.

    Raises:
      InputError: no such baseline, feature or split, or no text or history to rank by.
    """
    fields.check(config)
    examples = Examples(examples_path)
    examples.split(split)
    rule = LabelRule.from_config(config.label, examples.metadata.actions)
    scorer = baseline(name, rule, examples, split)
    with interrupts.deferred():
        result, _ = evaluate_scorer(scorer, rule, examples, split, config.evaluate, by)
    if scorer.feature:
        result["feature"] = scorer.feature
    return result


def evaluate_scores(
    scores: str,
    examples_path: files.PathLike,
    split: str = "test",
    config: Any = None,
    workdir: files.PathLike | None = None,
    by: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Evaluates scores made elsewhere, and a run beside them, on the same requests.

    Args:
      scores: a file, a directory, or several with commas between, see `external_scores.py`.
      examples_path, split: whose requests.
      config: a whole config, whose label and `evaluate` part count; with a run the `evaluate` part
        alone (the run's by default), for the label is the run's.
      workdir: the run, which is evaluated too, as by `evaluate`.
      by: how to cut the split, see `slices.slicings`.

    Returns:
      The result of the scores, with `extra` (pairs that the split does not have), and that of the
      run. With a run the former has `differences` too: by metric, scores minus run with its
      interval, over the same resamples of requests.

    Raises:
      InputError: as `evaluate` raises, or scores that do not fit the split.
    """
    examples = Examples(examples_path)
    examples.split(split)
    if workdir is None:
        if config is None:
            raise InputError("give a run by workdir, or a config, which names the label.")
        fields.check(config)
        rule, config = (
            LabelRule.from_config(config.label, examples.metadata.actions),
            config.evaluate,
        )
    else:
        run = Run.open(workdir)
        examples, rule = run.check_examples(examples), run.rule
        config = run.config.evaluate if config is None else config
        fields.check(config, "evaluate")
    scorer = ExternalScorer(scores, examples, split)
    with interrupts.deferred():
        result, rows = evaluate_scorer(scorer, rule, examples, split, config, by)
    result["extra"] = scorer.extra
    if workdir is None:
        return [result]
    of_run, run_rows, _ = _evaluate_run(workdir, examples_path, split, config, by)
    differences = uncertainty.paired_differences(
        rows.request,
        rows.score,
        run_rows.score,
        rule.engaged(rows.actions),
        [name for name in metrics.METRICS if name != "logloss"],  # a score is no logit
        replicates=int(config.bootstrap),
    )
    result["differences"] = {name: list(values) for name, values in differences.items()}
    return [result, of_run]


def write_result(path: files.PathLike, result: Any) -> None:
    """Writes a result, or several, as JSON; an undefined metric (NaN) or no limit becomes null."""
    files.write_json(path, _finite_or_none(result))


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_none(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_none(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
