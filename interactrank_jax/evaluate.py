"""Evaluation: exact over every row, of the one ranked score, for models and baselines alike.

A `Scorer` gives scores of slates `[R, C]` and of the corpus `[R, I]`; everything after that is the
same code, so figures of a model and of BM25 can stand in one table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from interactrank_jax import baselines, files, metrics, uncertainty
from interactrank_jax.data.examples import PADDING, Examples
from interactrank_jax.data.pipeline import Batch, evaluation_batches, request_batches
from interactrank_jax.errors import InputError, did_you_mean
from interactrank_jax.labels import ENGAGED, LabelRule
from interactrank_jax.models.embeddings import item_store
from interactrank_jax.parallel import DataParallel
from interactrank_jax.runs import Run
from interactrank_jax.scoring.corpus import CorpusScorer
from interactrank_jax.scoring.index import encode_items
from interactrank_jax.scoring.score import QueryEncoder
from interactrank_jax.steps import make_score_step

RECALL_AT = (10, 100, 1000)


class Scorer(Protocol):
    """Anything that ranks.

    Attributes:
      name: how it is called in tables.
      heads: names of its logits, or () where its score is no logit.
      offsets: per head, what the prior correction subtracts.
      utility: weight of each of its outputs in the ranked score.
    """

    name: str
    heads: tuple[str, ...]
    offsets: tuple[float, ...]
    utility: tuple[float, ...]

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, H]` logits, or `[R, C, 1]` scores."""

    def corpus(self, batch: Batch) -> np.ndarray:
        """Returns the ranked score of every store row, `[R, I]`."""


class ModelScorer:
    """A trained or training model; see `Scorer`. Give it parameters with `use` first."""

    def __init__(self, run: Run, examples: Examples, split: str, parallel: DataParallel):
        self.name = run.config.model.name
        self.heads = run.rule.heads
        self.utility = run.rule.utility
        self.offsets = prior_offsets(run, examples)
        self.rule, self.examples, self.split = run.rule, examples, split
        self.batch_size = int(run.config.evaluate.batch_size)
        self._run, self._parallel = run, parallel
        self._step = parallel.map_rows(make_score_step(run.model))
        self._store = parallel.replicate(item_store(examples.items))
        self._replicated: dict[str, Any] = {}
        self._corpus: tuple[QueryEncoder, CorpusScorer] | None = None

    def use(self, replicated: dict[str, Any]) -> "ModelScorer":
        """Scores with {'params', 'tables'}, replicated, from now on."""
        self._replicated, self._corpus = replicated, None
        return self

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns logits `[R, C, H]`."""
        return self._step(self._replicated, batch, self._store)

    def corpus(self, batch: Batch) -> np.ndarray:
        """Returns `[R, I]`, cross features included where the request has them."""
        if self._corpus is None:
            model = self._parallel.unreplicate(self._replicated)
            items = encode_items(self._run, model, item_store(self.examples.items))
            self._corpus = (
                QueryEncoder(self._run, model, self.examples),
                CorpusScorer(self._run.model, model["params"], items, self.utility),
            )
        encoder, scorer = self._corpus
        request = np.maximum(batch["request_index"], 0)
        cross = self.examples.sparse_cross(self.split).padded(request, scorer.num_items)
        return np.array(scorer.scores(encoder(batch), *cross))


class BM25Scorer:
    """BM25 of the query's text against the items' texts; see `Scorer`."""

    name = "bm25"
    heads: tuple[str, ...] = ()
    offsets: tuple[float, ...] = ()
    utility = (1.0,)

    def __init__(self, examples: Examples, split: str):
        items, requests = examples.raw_items(), examples.raw_requests(split)
        item_fields = _text_fields(examples, ("item",))
        query_fields = _text_fields(examples, ("user", "request"))
        if not item_fields or not query_fields:
            raise InputError("BM25 needs a text feature of items and one of requests.")
        self._queries = _join_texts(requests, query_fields)
        self._bm25 = baselines.BM25(_join_texts(items, item_fields))

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]`."""
        return np.take_along_axis(self.corpus(batch), batch["item"], 1)[..., None]

    def corpus(self, batch: Batch) -> np.ndarray:
        """Returns `[R, I]`."""
        return self._bm25.scores(
            [self._queries[index] if index >= 0 else "" for index in batch["request_index"]]
        )


class IQPScorer:
    """One cross feature alone: what history knows, without a model; see `Scorer`."""

    name = "iqp"
    heads: tuple[str, ...] = ()
    offsets: tuple[float, ...] = ()
    utility = (1.0,)

    def __init__(self, examples: Examples, split: str, feature: str = ""):
        self._column = baselines.iqp_column(examples.metadata.cross, feature)
        self._cross = examples.sparse_cross(split)
        self._num_items = examples.num_items

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]`."""
        return baselines.iqp_scores(batch["cross"], self._column)[..., None]

    def corpus(self, batch: Batch) -> np.ndarray:
        """Returns `[R, I]`; most of it zero."""
        items, values = self._cross.padded(np.maximum(batch["request_index"], 0), self._num_items)
        scores = np.zeros((len(items), self._num_items + 1), np.float32)
        np.put_along_axis(scores, items, baselines.iqp_scores(values, self._column), 1)
        return scores[:, : self._num_items]


BASELINES = {"bm25": BM25Scorer, "iqp": IQPScorer}


def _text_fields(examples: Examples, entities: tuple[str, ...]) -> list[str]:
    return [feature.name for feature in examples.metadata.select(entities, "text")]


def _join_texts(table, fields: list[str]) -> list[str]:
    columns = [table[field].to_pylist() for field in fields]
    return [" ".join(text or "" for text in texts) for texts in zip(*columns, strict=True)]


def prior_offsets(run: Run, examples: Examples) -> tuple[float, ...]:
    """Returns per head what weighting and sampling added to the logits in training."""
    sampling = float(run.config.train.loss.impression_sampling)
    weights = run.rule.class_weights(examples.split("train"), sampling)
    return tuple(metrics.prior_correction(*pair) for pair in weights)


class Rows:
    """Every scored candidate of a split, flat: request `[n]`, item, logits `[n, H]`, actions."""

    def __init__(self, scorer: Scorer, examples: Examples, split: str, batch_size: int):
        parts = []
        for batch in evaluation_batches(examples, split, batch_size):
            mask = batch["mask"]
            request = np.broadcast_to(batch["request_index"][:, None], mask.shape)
            logits = scorer.slate(batch)
            parts.append((request[mask], batch["item"][mask], logits[mask], batch["actions"][mask]))
        self.request, self.item, self.logits, self.actions = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        expected = examples.split(split).candidates
        if len(self.request) != expected:
            raise AssertionError(
                f"evaluated {len(self.request)} candidates of {split}, metadata says {expected}."
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
) -> dict[str, Any]:
    """Returns every figure of one scorer on one split, with intervals over requests.

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
    request, ranks = corpus_ranks(scorer, rows, engaged, examples, split, config)
    for k in RECALL_AT:
        recall = metrics.corpus_recall_by_request(ranks, request, k)
        values[f"recall_at_{k}"] = float(recall.mean())
        bounds[f"recall_at_{k}"] = uncertainty.mean_interval(
            recall, replicates=int(config.bootstrap)
        )
    return {
        "name": scorer.name,
        "split": split,
        "requests": examples.split(split).requests,
        "candidates": len(rows.request),
        "engaged": int(engaged.sum()),
        "corpus": examples.num_items - 1,
        "corpus_requests": len(np.unique(request)),
        "metrics": values,
        "intervals": {name: list(bound) for name, bound in bounds.items()},
        "heads": head_figures(scorer, rows, rule),
    }


def head_figures(scorer: Scorer, rows: Rows, rule: LabelRule) -> dict[str, dict[str, float]]:
    """Returns AUC, log loss and calibration of each head, after the prior correction."""
    logits = rows.corrected_logits(scorer)
    if logits is None:
        return {}
    labels = rule.labels(rows.actions)
    figures = {}
    for head, name in enumerate(scorer.heads):
        probability = 1 / (1 + np.exp(-logits[:, head].astype(np.float64)))
        label = labels[:, head]
        figures[name] = {
            "roc_auc": metrics.roc_auc(logits[:, head], label),
            "pr_auc": metrics.pr_auc(logits[:, head], label),
            "logloss": metrics.logloss(logits[:, head], label),
            "ece": metrics.expected_calibration_error(probability, label),
            "predicted_over_observed": metrics.predicted_over_observed(probability, label),
        }
    return figures


def corpus_ranks(
    scorer: Scorer, rows: Rows, engaged: np.ndarray, examples: Examples, split: str, config: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks every engaged item among all items, for requests that have one.

    Returns:
      request `[n]` and rank `[n]` from 1, ties against the model. With `config.corpus_requests`
      only that many requests, the same for every scorer.
    """
    relevant_request, relevant_item = rows.request[engaged], rows.item[engaged]
    wanted = np.unique(relevant_request)
    limit = int(config.corpus_requests)
    if limit and len(wanted) > limit:
        wanted = np.sort(np.random.default_rng(0).choice(wanted, limit, replace=False))
    is_wanted = np.zeros(examples.split(split).requests + 1, bool)
    is_wanted[wanted] = True
    order = np.argsort(relevant_request, kind="stable")
    relevant_request, relevant_item = relevant_request[order], relevant_item[order]

    requests, ranks = [], []
    for batch in request_batches(examples, split, int(config.corpus_batch_size)):
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
    workdir: files.PathLike, examples_path: files.PathLike, split: str = "test"
) -> dict[str, Any]:
    """Evaluates a run's best model and writes RUN/eval/SPLIT.json.

    Raises:
      InputError: no run, no such split, examples it was not trained on.
    """
    run, examples = Run.open(workdir), Examples(examples_path)
    run.check_examples(examples)
    examples.split(split)
    model, step = run.restore_model()
    parallel = _evaluation_devices(run)
    scorer = ModelScorer(run, examples, split, parallel).use(parallel.replicate(model))
    result = evaluate_scorer(scorer, run.rule, examples, split, run.config.evaluate)
    result["step"] = step
    write_result(Path(workdir) / "eval" / f"{split}.json", result)
    return result


def evaluate_baseline(
    name: str, config: Any, examples_path: files.PathLike, split: str = "test"
) -> dict[str, Any]:
    """Evaluates 'bm25' or 'iqp' as if it were a model.

    Raises:
      InputError: no such baseline or split, or no text or history to rank by.
    """
    if name not in BASELINES:
        raise InputError(f"--baseline={name}." + did_you_mean(name, BASELINES))
    examples = Examples(examples_path)
    examples.split(split)
    rule = LabelRule.from_config(config.label, examples.metadata.actions)
    return evaluate_scorer(BASELINES[name](examples, split), rule, examples, split, config.evaluate)


def _evaluation_devices(run: Run) -> DataParallel:
    devices = jax.local_devices()
    batch_size = int(run.config.evaluate.batch_size)
    return DataParallel(run.config.train.parallel, devices[: np.gcd(len(devices), batch_size)])


def write_result(path: files.PathLike, result: dict[str, Any]) -> None:
    """Writes a result as JSON; NaN (an undefined metric) becomes null."""
    files.write_json(path, _nan_to_none(result))


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(entry) for entry in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def table(results: list[dict[str, Any]], names: Sequence[str] = ()) -> str:
    """Returns a Markdown table of several results: value and half the interval's width.

    `names` are the metrics to show, by default all.
    """
    names = list(names or results[0]["metrics"])
    lines = ["| model | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for result in results:
        cells = []
        for name in names:
            value, bound = result["metrics"][name], result["intervals"].get(name)
            if value is None or np.isnan(value):
                cells.append("")
            else:
                half = (bound[1] - bound[0]) / 2 if bound and None not in bound else 0.0
                cells.append(f"{value:.4f} ±{half:.4f}")
        lines.append(f"| {result['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
