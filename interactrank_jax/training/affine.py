"""Starts the affine projection of cross features from their logistic regression.

A model that adds w_hk f(x_k) to its logits (InteractRank, InteractFIT, logistic regression) is,
while its towers know nothing, a logistic regression over x. That one is convex: it is fitted on
training rows with the weights of the loss, so that step 0 knows what history knows, and training
adds to it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from interactrank_jax.evaluation.regression import fit_regression
from interactrank_jax.examples.format import Examples
from interactrank_jax.losses.labels import LabelRule

TERMS, BIAS = "cross_terms", "bias"


class AffineStart(NamedTuple):
    """What the projection starts with: `weight` `[K, H]` and `bias` `[H]`, float32."""

    weight: np.ndarray
    bias: np.ndarray


def affine_start(examples: Examples, rule: LabelRule, config: Any) -> AffineStart | None:
    """Fits the start of a model's projection; None where there is none, or it is switched off.

    Rows count as in the loss: by the weight of their actions, and those without any by the share of
    them that training keeps.

    Args:
      examples: trained on.
      rule: the labels of the heads and the weights of rows.
      config: the whole config.
    """
    if not config.train.affine.fit or "cross" not in config.model or not examples.metadata.cross:
        return None
    sampling = float(config.train.loss.impression_sampling)

    def weights(actions: np.ndarray) -> np.ndarray:
        return rule.example_weights(actions) * np.where(rule.acted(actions), 1.0, sampling)

    fitted = fit_regression(
        examples, rule, str(config.model.cross.transform), weights, with_rates=False
    )
    return AffineStart(fitted.weight.astype(np.float32), fitted.bias.astype(np.float32))


def with_start(params: Any, path: Sequence[str], start: AffineStart | None) -> Any:
    """Returns parameters whose projection starts there; others as they are.

    Args:
      params: of a model.
      path: of the constant of its logits, `PreRanker.bias_path`.
      start: see `affine_start`.
    """
    if start is None or TERMS not in params:
        return params
    started = _replaced(params, (TERMS, "weight"), start.weight)
    return _replaced(started, path, start.bias)


def _replaced(tree: Any, path: Sequence[str], leaf: np.ndarray) -> Any:
    """Returns a tree of dictionaries with another leaf at a path, which it must have."""
    name, *below = path
    return {**tree, name: _replaced(tree[name], below, leaf) if below else leaf}


def scaled_rate(scale: float) -> optax.GradientTransformation:
    """Multiplies the updates of the projection by `scale`; comes last in a chain."""

    def is_affine(params: Any) -> Any:
        return {name: name in (TERMS, BIAS) for name in params}

    return optax.masked(optax.scale(scale), is_affine)
