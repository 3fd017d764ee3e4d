"""Where training starts: what history knows enters by its logistic regression.

A model with terms w_hk f(x_k) of cross features and v_hu g(z_u) of the user's past in its logits
is, while its network gives nothing, a logistic regression over x and z. That one is convex: it is
fitted on training rows with the weights of the loss, so that step 0 knows what history knows, and
training adds to it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from interactrank_jax.evaluation.regression import fit_regression
from interactrank_jax.examples.format import Examples
from interactrank_jax.losses import stage_weights
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.models.inputs import Inputs

CROSS_TERMS, USER_TERMS = "cross_terms", "user_terms"
TERMS = (CROSS_TERMS, USER_TERMS)  # their decay is that of `config.train.affine`
AFFINE = (*TERMS, "dot_weight", "bias")  # the projection that ends a model: so is its rate


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
    if not has_affine_start(inputs, config):
        return None
    loss = config.train.loss

    def weights(actions: np.ndarray, stage: np.ndarray | None) -> np.ndarray:
        result = rule.sampled_weights(actions, float(loss.impression_sampling))
        if stage is None:
            return result
        engaged, by_stage = jnp.asarray(rule.engaged(actions)), tuple(loss.stage_weights)
        multipliers = stage_weights(jnp.asarray(stage), engaged, negative_weights=by_stage)
        return result * np.asarray(multipliers)

    fitted = fit_regression(examples, rule, inputs, str(config.model.cross.transform), weights)
    start = AffineStart(
        fitted.cross_weight.astype(np.float32),
        fitted.user_weight.astype(np.float32),
        fitted.bias.astype(np.float32),
    )
    # Last bits depend on a machine's libraries, and processes must start alike.
    if jax.process_count() > 1:
        start = AffineStart(*multihost_utils.broadcast_one_to_all(tuple(start)))
    return start


def has_affine_start(inputs: Inputs, config: Any) -> bool:
    """Whether a model has terms that start at their regression.

    Args:
      inputs: the model's.
      config: the whole config.
    """
    if not config.train.affine.fit or "cross" not in config.model:
        return False
    has_terms = bool(inputs.cross or inputs.user_values)
    return has_terms and bool(config.model.cross.get("affine", True))


def with_start(params: Any, bias_path: Sequence[str], start: AffineStart | None) -> Any:
    """Returns parameters whose terms start there; those of a model without such terms as they are.

    Args:
      params: of a model.
      bias_path: of the constant of its logits, `PreRanker.bias_path`.
      start: see `affine_start`.
    """
    if start is None or not {CROSS_TERMS, USER_TERMS} & set(params):
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
