"""Learning from the score that a slower, better ranker gave the same candidates.

A teacher's score is a logit: its sigmoid is the probability of engagement. A score that is missing
is NaN and must be left out by `where` (`~isnan(score)`): it then counts for nothing, and otherwise
makes the loss NaN, which stops the run. The teacher gets no gradient.
"""

import jax
import jax.numpy as jnp

from interactrank_jax.losses.pointwise import sigmoid_cross_entropy
from interactrank_jax.losses.registry import register
from interactrank_jax.losses.slate import ordered_pairs, pair_losses
from interactrank_jax.losses.total import Total, accumulator, existing_rows, sum_rows


@register("distill", kind="distillation")
def distill_pointwise(
    logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: float = 1.0,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> Total:
    """Cross entropy of s(z / T) against s(t / T), times T^2 (Hinton et al. 2015, section 2).

    It is least at z = t, whatever the temperature T. A higher one softens labels of a teacher that
    is too sure. The gradient in z is T * (s(z / T) - s(t / T)), which T^2 keeps from vanishing: it
    nears (z - t) / 4 for large T.

    Args:
      logits: [...] z of the student.
      teacher_logits: [...] t.
      temperature: T > 0.
      where: [...] bool, rows that exist and have a teacher's score.
      weights: [...] weight of each row.

    Raises:
      InputError: the shapes differ (at trace time).
    """
    logits, teacher = existing_rows(logits, teacher_logits, where, "teacher_logits")
    target = jax.nn.sigmoid(jax.lax.stop_gradient(teacher) / temperature)
    loss, weight = sigmoid_cross_entropy(logits / temperature, target, where=where, weights=weights)
    return Total(temperature**2 * loss, weight)


@register("distill_ndcg", kind="distillation")
def distill_delta_ndcg(
    logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    where: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> Total:
    """Pairs the teacher orders, weighted by what swapping them would change in the slate's NDCG.

    log(1 + exp(z_j - z_i)) over pairs with t_i > t_j, each weighing w_i * w_j * |delta NDCG_ij|,
    delta NDCG_ij = (G_i - G_j) * (1 / log2(1 + r_i) - 1 / log2(1 + r_j)) / ideal DCG
    (LambdaMART: Burges 2010; as a loss: Wang et al. 2018, section 5). r are the ranks the STUDENT
    gives now, ties broken against it; G = s(t), the expected gain of a binary label. The weights
    get no gradient.

    Args:
      logits: [..., C] z of the student.
      teacher_logits: [..., C] t.
      where: [..., C] bool, rows that exist and have a teacher's score.
      weights: [..., C] weight w of each row; one of weight 0 takes no rank.

    Returns:
      The total over pairs, weights included: well below 1 for a slate, so it must not be divided by
      more.

    Raises:
      InputError: the shapes differ (at trace time).
    """
    logits, teacher = existing_rows(logits, teacher_logits, where, "teacher_logits")
    pair_weights = ordered_pairs(teacher, where, weights)
    ranked = jnp.ones(logits.shape, bool) if where is None else where
    if weights is not None:
        ranked = ranked & (weights != 0)
    change = jax.lax.stop_gradient(_delta_ndcg(logits, teacher, ranked))
    return sum_rows(pair_losses(logits), None, pair_weights * change)


def _delta_ndcg(logits: jax.Array, teacher: jax.Array, where: jax.Array) -> jax.Array:
    """|delta NDCG| of swapping each two candidates of a slate, [..., C, C]."""
    ahead = logits[..., None, :] > logits[..., :, None]  # [i, j]: j is ahead of i
    tied = logits[..., None, :] == logits[..., :, None]
    ahead |= tied & (teacher[..., None, :] < teacher[..., :, None])
    rank = 1 + (ahead & where[..., None, :]).sum(-1)
    discount = 1 / jnp.log2(1 + rank.astype(accumulator(logits)))
    gain = jnp.where(where, jax.nn.sigmoid(teacher), 0)
    places = jnp.arange(2, 2 + gain.shape[-1], dtype=gain.dtype)
    ideal = jnp.sort(gain, axis=-1, descending=True) @ (1 / jnp.log2(places))
    ideal = jnp.where(ideal > 0, ideal, 1)[..., None, None]
    difference = gain[..., :, None] - gain[..., None, :]
    return jnp.abs(difference * (discount[..., :, None] - discount[..., None, :])) / ideal
