"""Training losses: pure functions that return a sum and a weight, never a mean of means.

Every loss takes `where` (bool: what exists) and `weights` (float: how much each counts) as keywords
and returns a `Total`. Totals of several batches or devices are added, field by field
(`jax.lax.psum(total, 'data')`), and divided once by `Total.mean`.

What `where` leaves out changes neither value nor gradient, whatever it holds, NaN included.
Arithmetic is float32 or wider whatever the inputs are. Shapes must match exactly: [B] against
[B, 1] is an error, not a [B, B] loss.

`register` names a loss that `config.train.loss` chooses; `properties.check` tests one.

Example:
  >>> import interactrank_jax as ir
  >>> import jax.numpy as jnp
  >>> logits, labels = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]])
  >>> exists = jnp.array([[True, False]])
  >>> total = ir.losses.sigmoid_cross_entropy(logits, labels, where=exists)
  >>> round(float(total.mean()), 3)
  0.693
"""

from interactrank_jax.losses.distillation import distill_delta_ndcg, distill_pointwise
from interactrank_jax.losses.pointwise import focal, sigmoid_cross_entropy
from interactrank_jax.losses.registry import LOSSES, of_kind, register
from interactrank_jax.losses.slate import listwise_softmax, pairwise_logistic
from interactrank_jax.losses.softmax import (
    CORRECTIONS,
    MAX_LOG_SCALE,
    accidental_hits,
    first_occurrence,
    log_q_from_counts,
    sampled_softmax,
    scale_logits,
)
from interactrank_jax.losses.stage import stage_weights
from interactrank_jax.losses.total import Total

__all__ = [
    "CORRECTIONS",
    "LOSSES",
    "MAX_LOG_SCALE",
    "Total",
    "accidental_hits",
    "distill_delta_ndcg",
    "distill_pointwise",
    "first_occurrence",
    "focal",
    "listwise_softmax",
    "log_q_from_counts",
    "of_kind",
    "pairwise_logistic",
    "register",
    "sampled_softmax",
    "scale_logits",
    "sigmoid_cross_entropy",
    "stage_weights",
]
