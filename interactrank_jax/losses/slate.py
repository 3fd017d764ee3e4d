"""Losses over the candidates of one slate: pairwise and listwise.

A row of weight w counts like w equal rows. So a weight of 0 is the same as no row, and the weight
of a pair is the product of the weights of its rows.
"""

import jax
import jax.numpy as jnp

from interactrank_jax.losses.registry import register
from interactrank_jax.losses.total import Total, check_shape, existing_rows, sum_rows


@register("pairwise", kind="slate")
def pairwise_logistic(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> Total:
    """RankNet (Burges et al. 2005): log(1 + exp(z_j - z_i)) over pairs with y_i > y_j.

    Args:
      logits: [..., C] z of a slate's candidates.
      labels: [..., C] y, any numbers: only their order in the slate counts.
      where: [..., C] bool, rows that exist.
      weights: [..., C] weight of each row; a pair weighs w_i * w_j.

    Returns:
      The total over pairs. A slate whose labels are all equal adds nothing.

    Raises:
      InputError: the shapes differ (at trace time).
    """
    logits, labels = existing_rows(logits, labels, where)
    pair_weights = ordered_pairs(labels, where, weights)
    return sum_rows(pair_losses(logits), None, pair_weights)


@register("listwise", kind="slate")
def listwise_softmax(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> Total:
    """ListNet's top-one cross entropy (Cao et al. 2007): -sum_i P_i log Q_i of a slate.

    P_i = w_i y_i / sum_j w_j y_j: labels are normalised in the slate.
    Q_i = w_i exp z_i / sum_j w_j exp z_j. So Q = P where exp z is in proportion to y, whatever the
    weights. With equal weights this is the softmax cross entropy.

    Args:
      logits: [..., C] z of a slate's candidates.
      labels: [..., C] y, at least 0.
      where: [..., C] bool, rows that exist.
      weights: [..., C] weight of each row. A slate weighs sum w y / sum y, the mean weight of its
        labels: 1 where rows weigh 1.

    Returns:
      The total over slates. One whose labels are all 0 adds nothing.

    Raises:
      InputError: the shapes differ (at trace time).
    """
    logits, labels = existing_rows(logits, labels, where)
    weights = _row_weights(logits, where, weights)
    exists = weights > 0
    labels = jnp.where(exists, labels, 0)
    # A finite floor: the logarithm of an empty sum would have no gradient.
    weighted = jnp.where(exists, logits + jnp.log(jnp.where(exists, weights, 1)), -1e30)
    log_q = jnp.where(exists, jax.nn.log_softmax(weighted, axis=-1), 0)
    mass, target = labels.sum(-1), weights * labels
    counted = mass > 0
    slate_weight = jnp.where(counted, target.sum(-1) / jnp.where(counted, mass, 1), 0)
    shares = target / jnp.where(counted, target.sum(-1), 1)[..., None]
    return sum_rows(-(shares * log_q).sum(-1), counted, slate_weight)


def ordered_pairs(
    labels: jax.Array, where: jax.Array | None, weights: jax.Array | None
) -> jax.Array:
    """Weights of a slate's pairs whose first row is better: w_i * w_j where y_i > y_j, else 0.

    Args:
      labels: [..., C] finite where no row exists.
      where, weights: [..., C], as in `pairwise_logistic`.

    Returns:
      [..., C, C], i before j.
    """
    weights = _row_weights(labels, where, weights)
    product = weights[..., :, None] * weights[..., None, :]
    first, second = labels[..., :, None], labels[..., None, :]
    # A label that is not a number is neither above nor below: it must not vanish silently.
    return jnp.where(first > second, product, jnp.where(first <= second, 0, jnp.nan))


def pair_losses(logits: jax.Array) -> jax.Array:
    """Logistic loss of each pair, [..., C] -> [..., C, C]: log(1 + exp(z_j - z_i))."""
    return jax.nn.softplus(logits[..., None, :] - logits[..., :, None])


def _row_weights(like: jax.Array, where: jax.Array | None, weights: jax.Array | None) -> jax.Array:
    """Weights of the rows, [..., C]; 0 where no row exists."""
    if weights is None:
        weights = jnp.ones_like(like)
    check_shape("weights", weights, like.shape)
    weights = weights.astype(like.dtype)
    return weights if where is None else jnp.where(where, weights, 0)
