"""Where training starts: what history knows enters by its logistic regression.

A model with terms w_hk f(x_k) of cross features and v_hu g(z_u) of the user's past in its logits
is, while its network gives nothing, a logistic regression over x and z. That one is convex: it is
fitted on training rows with the weights of the loss, so that step 0 knows what history knows, and
training adds to it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from interactrank_jax.evaluation.regression import fit_regression
from interactrank_jax.examples.format import Examples
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.models.inputs import Inputs

CROSS_TERMS, USER_TERMS = "cross_terms", "user_terms"
# Of the affine projection that ends a model: its rate and decay are those of `config.train.affine`.
AFFINE = (CROSS_TERMS, USER_TERMS, "dot_weight", "bias")


class AffineStart(NamedTuple):
    """What the terms start with: weights `[K, H]` and `[U, H]`, and `bias` `[H]`, float32."""

    cross: np.ndarray
    user: np.ndarray
    bias: np.ndarray


def affine_start(
    examples: Examples, rule: LabelRule, inputs: Inputs, config: Any
) -> AffineStart | None:
    """Fits the start of a model's terms; None where it has none, or it is switched off.

    Rows count as in the loss: by the weight of their actions, and those without any by the share of
    them that training keeps.

    Args:
      examples: trained on.
      rule: the labels of the heads and the weights of rows.
      inputs: the model's.
      config: the whole config.
    """
    if not config.train.affine.fit or "cross" not in config.model:
        return None
    if not config.model.cross.get("affine", True) or not (inputs.cross or inputs.user_values):
        return None
    sampling = float(config.train.loss.impression_sampling)

    def weights(actions: np.ndarray) -> np.ndarray:
        return rule.example_weights(actions) * np.where(rule.acted(actions), 1.0, sampling)

    with jax.ensure_compile_time_eval():  # `Trainer.init`, which asks for it, is traced
        fitted = fit_regression(examples, rule, inputs, str(config.model.cross.transform), weights)
    return AffineStart(
        fitted.cross_weight.astype(np.float32),
        fitted.user_weight.astype(np.float32),
        fitted.bias.astype(np.float32),
    )


def with_start(params: Any, bias_path: Sequence[str], start: AffineStart | None) -> Any:
    """Returns parameters whose terms start there; others as they are.

    Args:
      params: of a model.
      bias_path: of the constant of its logits, `PreRanker.bias_path`.
      start: see `affine_start`.
    """
    if start is None:
        return params
    params = _replaced(params, bias_path, start.bias)
    for name, weight in ((CROSS_TERMS, start.cross), (USER_TERMS, start.user)):
        if len(weight):
            params = _replaced(params, (name, "weight"), weight)
    return params


def _replaced(tree: Any, path: Sequence[str], leaf: np.ndarray) -> Any:
    """Returns a tree of dictionaries with another leaf at a path, where it must have one."""
    name, *below = path
    value = _replaced(tree[name], below, leaf) if below else leaf
    if not below and tree[name].shape != leaf.shape:
        raise ValueError(f"{name} has shape {tree[name].shape}, not {leaf.shape}")
    return {**tree, name: value}
