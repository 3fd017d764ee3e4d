"""Pointwise losses: one logit, one label."""

import jax
import jax.numpy as jnp

from interactrank_jax.losses.registry import register
from interactrank_jax.losses.total import Total, existing_rows, sum_rows


@register("bce", kind="pointwise")
def sigmoid_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> Total:
    """Binary cross entropy: -y log s(z) - (1 - y) log s(-z), s the sigmoid.

    Args:
      logits: [...] z.
      labels: [...] y in [0, 1]; soft labels are allowed.
      where: [...] bool, rows that exist.
      weights: [...] weight of each row.

    Raises:
      InputError: the shapes differ (at trace time).
    """
    logits, labels = existing_rows(logits, labels, where)
    positive, negative = -jax.nn.log_sigmoid(logits), -jax.nn.log_sigmoid(-logits)
    return sum_rows(labels * positive + (1 - labels) * negative, where, weights)


@register("focal", kind="pointwise")
def focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: float = 2.0,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> Total:
    """Focal loss (Lin et al. 2017, eq. 4): cross entropy times (1 - p_label)^gamma.

    With gamma = 0 it is `sigmoid_cross_entropy`. Arguments and errors as there.
    """
    logits, labels = existing_rows(logits, labels, where)
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    # Powers through logarithms: the gradient of x**gamma at x = 0 is not finite for gamma < 1.
    positive = -jnp.exp(gamma * log_not_p) * log_p
    negative = -jnp.exp(gamma * log_p) * log_not_p
    return sum_rows(labels * positive + (1 - labels) * negative, where, weights)
