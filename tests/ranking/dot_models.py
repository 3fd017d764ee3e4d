"""Models whose scores are sums of whole numbers, exact in any order, and what ranks them is."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.ranking.corpus import CorpusScorer

K = 2  # cross features


class Dot(PreRanker):
    """A dot product."""

    uses_cross: ClassVar[bool] = False

    def score(self, query, items, cross):
        return jnp.einsum("rd,rcd->rc", query, items)[..., None]

    def score_all(self, query, items):
        return (query @ items.T)[..., None]


class CrossDot(Dot):
    """A dot product and the sum of the cross features."""

    uses_cross: ClassVar[bool] = True

    def score(self, query, items, cross):
        return super().score(query, items, cross) + cross.sum(-1, keepdims=True)


def make_scorer(case, kind=CrossDot, **options) -> CorpusScorer:
    model = kind(config=FrozenConfigDict({}), inputs=None)
    return CorpusScorer(model, {}, case["items"], (2.0,), **options)


def make_case(requests: int, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns vectors of requests and items, and cross features of some of each request's."""
    rng = np.random.default_rng(seed)
    count = min(rows - 1, 7)
    chosen = [np.sort(1 + rng.permutation(rows - 1)[:count]) for _ in range(requests)]
    cross_items = np.full((requests, count + 2), rows)  # padded with the number of rows
    cross_items[:, :count] = np.array(chosen).reshape(requests, count)
    return {
        "query": rng.integers(-3, 4, (requests, 4)).astype(np.float32),
        "items": rng.integers(-3, 4, (rows, 4)).astype(np.float32),
        "cross_items": cross_items.astype(np.int32),
        "cross": rng.integers(-9, 9, (*cross_items.shape, K)).astype(np.float32),
        "barred": rng.random((requests, rows)) < 0.4,
    }


def cross_of(case) -> tuple[np.ndarray, np.ndarray]:
    return case["cross_items"], case["cross"]


def brute_force(case, has_cross: bool = True) -> np.ndarray:
    """Returns the ranked scores `[R, I]` in float64; -inf of the padding row."""
    query, items = (case[name].astype(np.float64) for name in ("query", "items"))
    score = query @ items.T
    if has_cross:
        for request, rows in enumerate(case["cross_items"]):
            real = rows < len(items)
            score[request, rows[real]] += case["cross"][request, real].sum(-1)
    score *= 2
    score[:, 0] = -np.inf
    return score


def best_of(score: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores and rows `[R, k]`, of equal scores the first row first; row 0 of -inf."""
    row = np.argsort(-score, axis=1, kind="stable")[:, :k]
    score = np.take_along_axis(score, row, 1)
    return score, np.where(np.isneginf(score), 0, row)


def assert_best(top, expected) -> None:
    for array, other in zip(top, expected, strict=True):
        np.testing.assert_array_equal(array, other)
