"""The table of all losses: how each is called, and its value computed by hand, in plain loops."""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from interactrank_jax import losses
from interactrank_jax.losses.properties import BINARY, COLUMNS, LABELS, TEACHER, Case

GAMMA, TEMPERATURE = 2.0, 2.0
POSITIVE = np.array([[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
LOG_Q = np.log(np.array([0.3, 0.2, 0.3, 0.1, 0.05, 0.2], np.float32))
HARD = np.array([[1.0, 9.0], [0.5, -1.0], [0.0, 0.0]], np.float32)
HARD_WHERE = np.array([[1, 0], [1, 1], [1, 1]], bool)


def _sigmoid(z):
    return 1 / (1 + math.exp(-z))


def _pointwise(gamma, logits, weights, labels):
    total = 0.0
    for z, w, y in zip(logits.flat, weights.flat, labels.flat, strict=True):
        p = _sigmoid(z)
        total -= w * (y * (1 - p) ** gamma * math.log(p) + (1 - y) * p**gamma * math.log(1 - p))
    return total, weights.sum()


def _softmax(apart, hard, logits, weights, positive, log_q):
    total = weight = 0.0
    for row in range(len(logits)):
        rest = sum(
            math.exp(logits[row, n] - log_q[n]) for n in range(COLUMNS) if not positive[row, n]
        )
        if hard:
            rest += sum(math.exp(z) for z, kept in zip(HARD[row], HARD_WHERE[row]) if kept)  # noqa: B905
        for n in np.flatnonzero(positive[row]):
            own = math.exp(logits[row, n] - (0 if apart else log_q[n]))
            total += weights[row, n] * -math.log(own / (own + rest))
            weight += weights[row, n]
    return total, weight


def _pairs(labels):
    for row in range(len(labels)):
        for i in range(COLUMNS):
            yield from ((row, i, j) for j in range(COLUMNS) if labels[row, i] > labels[row, j])


def _pairwise(logits, weights, labels):
    total = weight = 0.0
    for row, i, j in _pairs(labels):
        pair = weights[row, i] * weights[row, j]
        total += pair * math.log(1 + math.exp(logits[row, j] - logits[row, i]))
        weight += pair
    return total, weight


def _listwise(logits, weights, labels):
    total = weight = 0.0
    for z, w, y in zip(logits, weights, labels, strict=True):
        if y.sum():
            target, model = w * y / (w * y).sum(), w * np.exp(z) / (w * np.exp(z)).sum()
            total -= (w * y).sum() / y.sum() * (target * np.log(model)).sum()
            weight += (w * y).sum() / y.sum()
    return total, weight


def _distill(logits, weights, teacher):
    total = 0.0
    for z, w, t in zip(logits.flat, weights.flat, teacher.flat, strict=True):
        p, target = _sigmoid(z / TEMPERATURE), _sigmoid(t / TEMPERATURE)
        total -= w * (target * math.log(p) + (1 - target) * math.log(1 - p))
    return TEMPERATURE**2 * total, weights.sum()


def ndcg(order, gains):
    """NDCG of a slate shown in this order."""
    discounts = 1 / np.log2(np.arange(2, 2 + len(order)))
    return (gains[order] * discounts).sum() / (np.sort(gains)[::-1] * discounts).sum()


def _delta_ndcg(logits, weights, teacher):
    total = weight = 0.0
    for row, i, j in _pairs(teacher):
        gains = np.array([_sigmoid(t) for t in teacher[row]])
        order = np.argsort(-logits[row])
        swapped = np.array([{i: j, j: i}.get(item, item) for item in order])
        pair = abs(ndcg(order, gains) - ndcg(swapped, gains)) * weights[row, i] * weights[row, j]
        total += pair * math.log(1 + math.exp(logits[row, j] - logits[row, i]))
        weight += pair
    return total, weight


def _sampled(**kwargs):
    def loss(logits, positive, log_q, **masks):
        return losses.sampled_softmax(logits, positive, log_q=log_q, **kwargs, **masks)

    return loss


def _softmax_case(apart=False, hard=False):
    kwargs: dict[str, Any] = {"correction": "positive_apart" if apart else "standard"}
    if hard:
        kwargs |= {"hard_logits": jnp.asarray(HARD), "hard_where": jnp.asarray(HARD_WHERE)}
    by_hand = functools.partial(_softmax, apart, hard)
    return Case(by_hand, _sampled(**kwargs), (POSITIVE, LOG_Q), where_rank=1, row_weights=False)


CASES = {
    "sigmoid_cross_entropy": Case(
        functools.partial(_pointwise, 0), losses.sigmoid_cross_entropy, (BINARY,)
    ),
    "focal": Case(functools.partial(_pointwise, GAMMA), losses.focal, (BINARY,)),
    "sampled_softmax": _softmax_case(),
    "sampled_softmax, positive apart": _softmax_case(apart=True),
    "sampled_softmax, hard negatives": _softmax_case(hard=True),
    "pairwise_logistic": Case(
        _pairwise, losses.pairwise_logistic, (LABELS,), degree=2, additive=False
    ),
    "listwise_softmax": Case(_listwise, losses.listwise_softmax, (LABELS,), additive=False),
    "distill_pointwise": Case(
        _distill, functools.partial(losses.distill_pointwise, temperature=TEMPERATURE), (TEACHER,)
    ),
    # Rows that are there twice take two ranks.
    "distill_delta_ndcg": Case(
        _delta_ndcg,
        losses.distill_delta_ndcg,
        (TEACHER,),
        degree=2,
        additive=False,
        repeats=False,
    ),
}
