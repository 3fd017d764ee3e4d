"""Softmax over a sample of the catalogue: its loss, and what its negatives need.

The columns of a batch are a sample of the catalogue: items of the batch (of all devices), items
drawn uniformly from the item store, or both. `log_q_from_counts` says how likely each was to come.
"""

import math

import jax
import jax.numpy as jnp

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.losses.total import Total, accumulator, check_shape, sum_rows

CORRECTIONS = ("standard", "positive_apart")
# Logits of unit vectors are scaled by at most 100, as in CLIP (Radford et al. 2021, section 2.5).
MAX_LOG_SCALE = math.log(100.0)
# A finite stand-in for minus infinity: the logarithm of an empty sum would have no gradient.
_NOTHING = -1e30


def sampled_softmax(
    logits: jax.Array,
    positive: jax.Array,
    *,
    log_q: jax.Array | None = None,
    correction: str = "standard",
    hard_logits: jax.Array | None = None,
    hard_where: jax.Array | None = None,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> Total:
    """Softmax of each of a request's positives against the batch's items, with logQ correction.

    The loss of a positive p of request r is log(exp a_rp + N_r) - a_rp, where
    N_r = sum_n exp(logits_rn - log_q_n) over the columns n that are no positive of r. So a
    request's other positives are never its negatives (accidental hits are masked), and one row of
    logits serves all of them. log Q is SUBTRACTED: an item is among the columns with probability Q,
    so exp(logit) / Q, summed over the columns, estimates the sum over the catalogue without bias.

    The corrections differ in the positive's own term:

    - 'standard': a_rp = logits_rp - log_q_p (Bengio and Senecal 2008; Yi et al. 2019). As if the
      positive had been drawn like the rest. It has not: it is there with probability 1, so a rare
      positive passes for probable and learns too little. Right on average where positives come as
      often as Q says, as within a batch; a constant added to log_q changes nothing.
    - 'positive_apart': a_rp = logits_rp (Khrylchenko et al. 2025, arXiv 2507.09331). With P the
      softmax over the catalogue, its exact gradient is
      (1 - P_p) * (-grad logits_p + sum_{n != p} P_n / (1 - P_p) * grad logits_n).
      The sum is estimated from the negatives alone, each weighing its share of N_r, and 1 - P_p,
      their "probability of a negative", by N_r / (exp a_rp + N_r) of the same sample. The gradient
      of the loss above is the product of the two, so it equals that of their loss
      stop_gradient(1 - P_p) * (log N_r - logits_rp); its value estimates the full softmax loss,
      which theirs does not. log_q must be absolute: a constant added to it changes N_r.

    Hard negatives are not corrected by log Q. They are no draw: the request brings the items that
    an index ranks highest for it, each with probability 1, so each weighs exp(logit) / 1. One that
    is a column too weighs both: leave it out by `hard_where`, or accept it.

    Args:
      logits: [R, N] of requests and columns; columns may come from several devices.
      positive: [R, N] bool, columns that hold a positive item of the request.
      log_q: [N] log probability of the column's item being in the batch; `log_q_from_counts`.
        None leaves the logits as they are.
      correction: one of CORRECTIONS.
      hard_logits: [R, K] logits of further negatives, of this request only.
      hard_where: [R, K] bool, which of them exist. The request's own positives must be left out:
        `accidental_hits`.
      where: [N] bool, columns that exist. Leaves padding out, and merges repeated items when it is
        their `first_occurrence`: each positive must then be marked at that column.
      weights: [R, N] weight of each positive.

    Returns:
      The total over positives. One without negatives has loss 0 and counts.

    Raises:
      InputError: the shapes do not fit each other, the correction is unknown, or the positive is to
        be kept apart and there is no log_q (all at trace time).
    """
    if correction not in CORRECTIONS:
        raise InputError(
            f"The softmax correction is '{correction}'." + did_you_mean(correction, CORRECTIONS)
        )
    check_shape("positive", positive, logits.shape)
    dtype = accumulator(logits)
    logits = logits.astype(dtype)
    if where is None:
        where = jnp.ones(logits.shape[1], bool)
    check_shape("where", where, logits.shape[1:])
    # Replaced before anything is computed: a column left out has no gradient, whatever it holds.
    logits = jnp.where(where[None, :], logits, 0.0)
    own = logits
    if log_q is not None:
        check_shape("log_q", log_q, logits.shape[1:])
        logits = logits - jnp.where(where, log_q.astype(dtype), 0.0)[None, :]
        own = logits if correction == "standard" else own
    elif correction == "positive_apart":
        raise InputError("correction='positive_apart' needs log_q: there is nothing else to it.")
    counted = positive & where[None, :]
    negatives = jnp.where(where[None, :] & ~positive, logits, _NOTHING)
    rest = jax.nn.logsumexp(negatives, axis=1, keepdims=True)
    if hard_logits is not None:
        check_shape("hard_logits", hard_logits, (logits.shape[0], hard_logits.shape[-1]))
        hard = hard_logits.astype(dtype)
        if hard_where is not None:
            check_shape("hard_where", hard_where, hard.shape)
            hard = jnp.where(hard_where, hard, _NOTHING)
        rest = jnp.logaddexp(rest, jax.nn.logsumexp(hard, axis=1, keepdims=True))
    loss = jax.nn.softplus(jnp.where(counted, rest - own, 0.0))
    return sum_rows(loss, counted, weights)


def scale_logits(logits: jax.Array, log_scale: jax.Array) -> jax.Array:
    """Multiplies by a learned inverse temperature: logits * min(exp(log_scale), 100).

    Beyond the limit the gradient of log_scale is that at the limit, not zero, so that it can come
    back. An optimizer may push it on meanwhile: set it to min(log_scale, MAX_LOG_SCALE) after each
    update, as CLIP does.

    Args:
      logits: [...] e.g. cosines.
      log_scale: scalar parameter, minus the logarithm of the temperature: 2.66 for .07.

    Returns:
      [...] float32 or wider.

    Raises:
      InputError: log_scale is no scalar (at trace time).
    """
    check_shape("log_scale", log_scale, ())
    dtype = accumulator(logits)
    log_scale = log_scale.astype(dtype)
    held = jax.lax.stop_gradient(log_scale)
    scale = jnp.exp(jnp.minimum(held, MAX_LOG_SCALE))
    # The bracket is exactly 1; its derivative makes that of the scale the scale itself.
    return logits.astype(dtype) * (scale * (1.0 + (log_scale - held)))


def first_occurrence(item_ids: jax.Array, where: jax.Array) -> jax.Array:
    """Marks one column per distinct item: the first that exists.

    Args:
      item_ids: [N] int.
      where: [N] bool, columns that exist.

    Returns:
      [N] bool.
    """
    check_shape("where", where, item_ids.shape)
    order = jnp.lexsort((~where, item_ids))  # by item, existing columns first, stable
    ordered = item_ids[order]
    first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    return jnp.zeros_like(where).at[order].set(first) & where


def accidental_hits(item_ids: jax.Array, positive_ids: jax.Array) -> jax.Array:
    """Marks the items that are a positive of their own request, and so no negatives of it.

    Args:
      item_ids: [R, K] int, e.g. hard negatives of each request.
      positive_ids: [R, P] int, each request's positives, filled up with an id no item has.

    Returns:
      [R, K] bool.
    """
    check_shape("positive_ids", positive_ids, (item_ids.shape[0], positive_ids.shape[-1]))
    return (item_ids[:, :, None] == positive_ids[:, None, :]).any(2)


def log_q_from_counts(
    count: jax.Array,
    total: jax.Array | float,
    batch: jax.Array | int,
    *,
    uniform: int = 0,
    items: int | None = None,
) -> jax.Array:
    """Log probability that an item is among the draws that make the columns of a batch.

    log Q = log(1 - (1 - p)^B (1 - 1/I)^U), p = count / total: the probability of at least one in B
    draws from the log and U uniform draws of I items (mixed negatives; Yang et al. 2020), which is
    what columns of merged items need. Stable from p = 1e-9 to 1.

    Args:
      count: [...] how often the item was drawn, e.g. training impressions. Without uniform draws 0
        counts as 1: an item that is in a batch has been drawn, and the log must stay finite.
      total: number of draws counted, the sum of `count` over items.
      batch: B, number of draws from the log in a batch: candidates over all devices.
      uniform: U, number of uniform draws, with replacement, over all devices.
      items: I, number of items they are drawn from.

    Returns:
      [...] float32, at most 0.

    Raises:
      InputError: there are uniform draws, and not one item to draw.
    """
    count = jnp.asarray(count, jnp.float32)
    if not uniform:
        count = jnp.maximum(count, 1.0)
    log_missed = batch * _log1m(count / jnp.asarray(total, jnp.float32))
    if uniform:
        if not items:
            raise InputError(f"{uniform} uniform draws of how many items? Give `items`.")
        log_missed += uniform * _log1m(jnp.float32(1 / items))
    return jnp.log(-jnp.expm1(log_missed))


def _log1m(p: jax.Array) -> jax.Array:
    """log(1 - p), finite at p = 1, where a product with 0 draws would not be a number."""
    return jnp.log1p(-jnp.minimum(p, 1 - 2**-24))
