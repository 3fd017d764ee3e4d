"""Training losses: pure functions that return a sum and a count, never a mean of means.

Every loss takes two keyword masks of its row shape: `where` (bool: rows that exist) and `weights`
(float: how much each counts), and returns a `Total`. Totals of several batches or devices are
added, field by field (`jax.lax.psum(total, 'data')`), and divided once by `Total.mean`.

A row that `where` leaves out changes neither value nor gradient, whatever it holds, NaN included.
Arithmetic is float32 or wider whatever the inputs are. Shapes must match exactly: [B] against
[B, 1] is an error, not a [B, B] loss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from interactrank_jax.errors import InputError


class Total(NamedTuple):
    """A loss summed over rows.

    Attributes:
      loss: scalar, sum of weight * loss over the rows that exist.
      weight: scalar, sum of their weights.
    """

    loss: jax.Array
    weight: jax.Array

    def mean(self) -> jax.Array:
        """Returns loss / weight; 0, with a zero gradient, where no row had weight."""
        some = self.weight > 0
        return jnp.where(some, self.loss / jnp.where(some, self.weight, 1.0), 0.0)


# --- pointwise: one logit, one label -------------------------------------------------------------


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
    logits, labels = _pointwise(logits, labels, where)
    positive, negative = -jax.nn.log_sigmoid(logits), -jax.nn.log_sigmoid(-logits)
    return _total(labels * positive + (1 - labels) * negative, where, weights)


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
    logits, labels = _pointwise(logits, labels, where)
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    # Powers through logarithms: the gradient of x**gamma at x = 0 is not finite for gamma < 1.
    positive = -jnp.exp(gamma * log_not_p) * log_p
    negative = -jnp.exp(gamma * log_p) * log_not_p
    return _total(labels * positive + (1 - labels) * negative, where, weights)


# --- softmax over the items of the batch ---------------------------------------------------------


def sampled_softmax(
    logits: jax.Array,
    positive: jax.Array,
    *,
    log_q: jax.Array | None = None,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> Total:
    """Softmax of each of a request's positives against the batch's items, with logQ correction.

    With l_rn = logits_rn - log_q_n, the loss of a positive n of request r is
    log(exp l_rn + sum_m exp l_rm) - l_rn over the columns m that are no positive of r. So a
    request's other positives are never its negatives (accidental hits are masked), and one row of
    logits serves all of them.

    log Q is SUBTRACTED, from the positive too (the standard form: Bengio and Senecal 2008; Yi et
    al. 2019): an item is in the batch in proportion to Q, so exp(logit) / Q estimates the sum over
    the catalogue without bias.

    Args:
      logits: [R, N] of requests and columns; columns may come from several devices.
      positive: [R, N] bool, columns that hold a positive item of the request.
      log_q: [N] log probability of the column's item being in the batch; `log_q_from_counts`.
      where: [N] bool, columns that exist. Leaves padding out, and merges repeated items when it is
        their `first_occurrence`: each positive must then be marked at that column.
      weights: [R, N] weight of each positive.

    Returns:
      The total over positives. One without negatives has loss 0 and counts.

    Raises:
      InputError: the shapes do not fit each other (at trace time).
    """
    _check_shape("positive", positive, logits.shape)
    logits = logits.astype(_accumulator(logits))
    if where is None:
        where = jnp.ones(logits.shape[1], bool)
    _check_shape("where", where, logits.shape[1:])
    # Replaced before anything is computed: a column left out has no gradient, whatever it holds.
    logits = jnp.where(where[None, :], logits, 0.0)
    if log_q is not None:
        _check_shape("log_q", log_q, logits.shape[1:])
        logits -= jnp.where(where, log_q.astype(logits.dtype), 0.0)[None, :]
    counted = positive & where[None, :]
    # A finite floor: the logarithm of an empty sum would have no gradient.
    negatives = jnp.where(where[None, :] & ~positive, logits, -1e30)
    rest = jax.nn.logsumexp(negatives, axis=1, keepdims=True)
    loss = jax.nn.softplus(jnp.where(counted, rest - logits, 0.0))
    return _total(loss, counted, weights)


def first_occurrence(item_ids: jax.Array, where: jax.Array) -> jax.Array:
    """Marks one column per distinct item: the first that exists.

    Args:
      item_ids: [N] int.
      where: [N] bool, columns that exist.

    Returns:
      [N] bool.
    """
    _check_shape("where", where, item_ids.shape)
    order = jnp.lexsort((~where, item_ids))  # by item, existing columns first, stable
    ordered = item_ids[order]
    first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    return jnp.zeros_like(where).at[order].set(first) & where


def log_q_from_counts(
    count: jax.Array, total: jax.Array | float, batch: jax.Array | int
) -> jax.Array:
    """Log probability that an item is among the draws that make a batch.

    log Q = log(1 - (1 - p)^B), p = count / total: the probability of at least one in B draws, which
    is what columns of merged items need. Stable from p = 1e-9 to 1.

    Args:
      count: [...] how often the item was drawn, e.g. training impressions. 0 counts as 1: an item
        that is in a batch has been drawn, and the log must stay finite.
      total: number of draws counted, the sum of `count` over items.
      batch: B, number of draws in a batch: candidates over all devices.

    Returns:
      [...] float32, at most 0.
    """
    p = jnp.maximum(jnp.asarray(count, jnp.float32), 1.0) / jnp.asarray(total, jnp.float32)
    return jnp.log(-jnp.expm1(batch * jnp.log1p(-jnp.minimum(p, 1.0))))


# --- shared --------------------------------------------------------------------------------------


def _total(loss: jax.Array, where: jax.Array | None, weights: jax.Array | None) -> Total:
    """Sums a loss of finite rows; what `where` leaves out is replaced before it is multiplied."""
    if weights is None:
        weights = jnp.ones_like(loss)
    _check_shape("weights", weights, loss.shape)
    weights = weights.astype(loss.dtype)
    if where is not None:
        weights = jnp.where(where, weights, 0)
    return Total(jnp.sum(weights * loss), jnp.sum(weights))


def _pointwise(
    logits: jax.Array, labels: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Checks shapes, widens, and puts 0 where no row exists, so that NaN there has no gradient."""
    _check_shape("labels", labels, logits.shape)
    dtype = _accumulator(logits)
    logits, labels = logits.astype(dtype), labels.astype(dtype)
    if where is None:
        return logits, labels
    _check_shape("where", where, logits.shape)
    return jnp.where(where, logits, 0), jnp.where(where, labels, 0)


def _accumulator(array: jax.Array) -> jnp.dtype:
    return jnp.promote_types(array.dtype, jnp.float32)


def _check_shape(name: str, array: jax.Array, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise InputError(
            f"{name} has shape {array.shape}, expected {expected}. Broadcast it explicitly."
        )
