"""Baselines as scorers, see `scorers.Scorer`, and the registry of their names."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from interactrank_jax.evaluation import baselines
from interactrank_jax.evaluation.popularity import Popularity, popularity
from interactrank_jax.evaluation.regression import LEAST_SHARE, fit_regression
from interactrank_jax.examples.format import Examples, SparseCross
from interactrank_jax.examples.input import Batch
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.losses.labels import ENGAGED, LabelRule
from interactrank_jax.metrics import roc_auc
from interactrank_jax.serving.probabilities import Calibration


class BaselineScorer:
    """What baselines share: one score, no head.

    Attributes:
      name: how it is called in tables.
      feature: what it ranks by, '' where the name says it.
    """

    heads: tuple[str, ...] = ()
    calibration = Calibration()
    utility: tuple[float, ...] = (1.0,)
    has_corpus = True

    def __init__(self, name: str, feature: str = ""):
        self.name, self.feature = name, feature

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]`."""
        raise NotImplementedError

    def all_items(self, requests: np.ndarray) -> np.ndarray:
        """Returns `[R, I]` of some requests, by request_index."""
        raise NotImplementedError

    def corpus(self, batch: Batch, at_once: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields `[r, I]`, see `Scorer`."""
        requests = batch["request_index"]
        count = int((requests >= 0).sum())
        for start in range(0, count, at_once):
            yield start, self.all_items(requests[start : min(start + at_once, count)])


class BM25Scorer(BaselineScorer):
    """BM25 of the query's text against the items' texts."""

    def __init__(self, examples: Examples, split: str):
        super().__init__("bm25")
        items, requests = examples.raw_items(), examples.raw_requests(split)
        item_fields = _text_fields(examples, ("item",))
        query_fields = _text_fields(examples, ("user", "request"))
        if not item_fields or not query_fields:
            raise InputError("BM25 needs a text feature of items and one of requests.")
        self._queries = _join_texts(requests, query_fields)
        self._bm25 = baselines.BM25(_join_texts(items, item_fields))

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]`."""
        scores = self.all_items(batch["request_index"])
        return np.take_along_axis(scores, batch["item"], 1)[..., None]

    def all_items(self, requests: np.ndarray) -> np.ndarray:
        """Returns `[R, I]`."""
        return self._bm25.scores([self._queries[row] if row >= 0 else "" for row in requests])


class CrossFeatureScorer(BaselineScorer):
    """One cross feature alone: what history knows, without a model.

    Attributes:
      feature: the cross feature's name.
    """

    def __init__(self, name: str, examples: Examples, split: str, column: int):
        super().__init__(name, examples.metadata.cross[column])
        self._column, self._num_items = column, examples.num_items
        self._cross: SparseCross | None = None
        if examples.has_corpus(split):
            self._cross = examples.sparse_cross(split)

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]`."""
        return batch["cross"][..., self._column, None]

    def all_items(self, requests: np.ndarray) -> np.ndarray:
        """Returns `[R, I]`."""
        assert self._cross is not None
        items, values = self._cross.padded(requests, self._num_items)
        scores = np.zeros((len(items), self._num_items + 1), np.float32)
        np.put_along_axis(scores, items, values[..., self._column], 1)
        return scores[:, : self._num_items]


class CountedPopularity(BaselineScorer):
    """Counts of items that no cross feature has, see `popularity.Popularity`."""

    def __init__(self, counts: Popularity):
        super().__init__("popularity", counts.definition)
        self._counts = counts

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]`."""
        return self._counts.of(batch)[..., None]

    def all_items(self, requests: np.ndarray) -> np.ndarray:
        """Returns `[R, I]`."""
        return self._counts.of_all(requests)


class ConstantScorer(BaselineScorer):
    """The share of training that was engaged with, as a logit: it ranks nothing."""

    heads = (ENGAGED,)
    calibration = Calibration.unfitted((ENGAGED,), (0.0,))

    def __init__(self, examples: Examples, rule: LabelRule):
        super().__init__("constant")
        split = examples.split("train")
        share = rule.count_engaged(split) / max(split.candidates, 1)
        share = min(max(share, LEAST_SHARE), 1 - LEAST_SHARE)
        self._logit, self._num_items = float(np.log(share / (1 - share))), examples.num_items

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]`."""
        return np.full((*batch["item"].shape, 1), self._logit, np.float32)

    def all_items(self, requests: np.ndarray) -> np.ndarray:
        """Returns `[R, I]`."""
        return np.full((len(requests), self._num_items), self._logit, np.float32)


class SignedFeatureScorer(CrossFeatureScorer):
    """One cross feature, or its opposite."""

    def __init__(self, name: str, examples: Examples, split: str, column: int, sign: int):
        super().__init__(name, examples, split, column)
        self._sign = sign
        self.feature = self.feature if sign > 0 else f"minus {self.feature}"

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]`."""
        return self._sign * super().slate(batch)

    def all_items(self, requests: np.ndarray) -> np.ndarray:
        """Returns `[R, I]`."""
        return self._sign * super().all_items(requests)


class RegressionScorer(BaselineScorer):
    """A logistic regression over cross features and rates, see `regression.py`."""

    heads = (ENGAGED,)
    calibration = Calibration.unfitted((ENGAGED,), (0.0,))

    def __init__(self, examples: Examples, split: str, rule: LabelRule):
        super().__init__("regression")
        one_head = dataclasses.replace(rule, heads=(ENGAGED,), utility=(1.0,))
        self._regression = fit_regression(examples, one_head)
        self._cross: SparseCross | None = None
        if examples.has_corpus(split):
            self._cross = examples.sparse_cross(split)
        self._num_items = examples.num_items

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns logits `[R, C, 1]`."""
        return self._regression.logits(batch).astype(np.float32)

    def all_items(self, requests: np.ndarray) -> np.ndarray:
        """Returns `[R, I]`: what the request has by itself moves no item, and is left out."""
        assert self._cross is not None
        items, values = self._cross.padded(requests, self._num_items)
        scores = np.zeros((len(items), self._num_items + 1), np.float32)
        np.put_along_axis(scores, items, self._regression.of_cross(values)[..., 0], 1)
        return scores[:, : self._num_items]


def best_feature(examples: Examples, rule: LabelRule) -> tuple[int, int]:
    """Returns column and sign of the cross feature with the best ROC-AUC on validation.

    Raises:
      InputError: the examples have no cross feature, or no validation split.
    """
    if not examples.metadata.cross:
        raise InputError("these examples have no cross feature: prepare with some, or take bm25.")
    parts = []
    for block in examples.blocks("validation", ("cross", "actions", "mask")):
        mask = block["mask"]
        parts.append((block["cross"][mask], rule.engaged(block["actions"][mask])))
    cross, engaged = (np.concatenate(part) for part in zip(*parts, strict=True))
    area = [roc_auc(values, engaged) for values in cross.T]
    distance = [abs(value - 0.5) if np.isfinite(value) else 0.0 for value in area]
    column = int(np.argmax(distance))
    return column, 1 if area[column] >= 0.5 else -1


def _constant(rule: LabelRule, examples: Examples, split: str, feature: str) -> BaselineScorer:
    del split
    _refuse_feature("constant", feature)
    return ConstantScorer(examples, rule)


def _best_feature(rule: LabelRule, examples: Examples, split: str, feature: str) -> BaselineScorer:
    _refuse_feature("best_feature", feature)
    return SignedFeatureScorer("best_feature", examples, split, *best_feature(examples, rule))


def _regression(rule: LabelRule, examples: Examples, split: str, feature: str) -> BaselineScorer:
    _refuse_feature("regression", feature)
    return RegressionScorer(examples, split, rule)


def _refuse_feature(name: str, feature: str) -> None:
    if feature:
        raise InputError(
            f"--baseline={name}:{feature}: '{name}' takes no feature. Give --baseline={name}."
        )


def _bm25(rule: LabelRule, examples: Examples, split: str, feature: str) -> BaselineScorer:
    del rule
    _refuse_feature("bm25", feature)
    return BM25Scorer(examples, split)


def _iqp(rule: LabelRule, examples: Examples, split: str, feature: str) -> BaselineScorer:
    column = baselines.iqp_column(examples.metadata.cross, rule.positive, feature)
    return CrossFeatureScorer(_full_name("iqp", feature), examples, split, column)


def _popularity(rule: LabelRule, examples: Examples, split: str, feature: str) -> BaselineScorer:
    column = baselines.popularity_column(examples.metadata.cross, rule.positive, feature)
    if column is None:
        return CountedPopularity(popularity(examples, split, rule))
    return CrossFeatureScorer(_full_name("popularity", feature), examples, split, column)


# From a name to what makes its scorer of a label, examples, a split, and what follows a colon.
BASELINES: dict[str, Callable[[LabelRule, Examples, str, str], BaselineScorer]] = {
    "bm25": _bm25,
    "popularity": _popularity,
    "iqp": _iqp,
    "constant": _constant,
    "best_feature": _best_feature,
    "regression": _regression,
}


def baseline(name: str, rule: LabelRule, examples: Examples, split: str) -> BaselineScorer:
    """Returns the scorer of a baseline, 'NAME' or 'NAME:FEATURE'.

    Raises:
      InputError: there is no such baseline or feature, or nothing to rank by.
    """
    kind, _, feature = name.partition(":")
    if kind not in BASELINES:
        raise InputError(f"--baseline={name}." + did_you_mean(kind, BASELINES))
    return BASELINES[kind](rule, examples, split, feature)


def _full_name(name: str, feature: str) -> str:
    return f"{name}:{feature}" if feature else name


def _text_fields(examples: Examples, entities: tuple[str, ...]) -> list[str]:
    return [feature.name for feature in examples.metadata.select(entities, "text")]


def _join_texts(table: Any, fields: Sequence[str]) -> list[str]:
    columns = [table[field].to_pylist() for field in fields]
    return [" ".join(text or "" for text in texts) for texts in zip(*columns, strict=True)]
