"""Sequences of items in the query tower: the user's real-time history, the query's own history."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.models.inputs import SequenceInput
from interactrank_jax.models.layers import along_last, one_hot_lookup

Array = jax.Array


def age_bucket(age: Array, buckets: int) -> Array:
    """Returns exponential buckets of an age in hours: 0 below one hour, then [2^(b-1), 2^b)."""
    # By the exponent's bits: a float32 logarithm of 8 may lie below 3.
    _, bucket = jnp.frexp(jnp.maximum(age, 0.5))
    return jnp.clip(bucket.astype(jnp.int32), 0, buckets - 1)


def check_poolings(config: Any, roles: Sequence[str], kinds: Sequence[str]) -> None:
    """Raises InputError where `config.sequence` pools a history in a way that is none of `kinds`.

    Args:
      config: the `model` part of a config.
      roles: of the histories that the model looks at.
      kinds: that the model knows.
    """
    for role in roles:
        kind = str(config.sequence[role])
        if kind not in kinds:
            raise InputError(
                f"config.model.sequence.{role} is '{kind}' in model '{config.name}'."
                + did_you_mean(kind, kinds)
            )


def masked_mean(items: Array, mask: Array) -> Array:
    """Averages `[R, L, D]` over the places where `[R, L]` mask holds; none gives zeros."""
    weight = mask.astype(items.dtype)[..., None]
    return (items * weight).sum(-2) / jnp.maximum(weight.sum(-2), 1.0)


def masked_mean_by_action(items: Array, action: Array, mask: Array, actions: int) -> Array:
    """Averages the events of each action apart: `[R, L, D]` to `[R, actions * D]`.

    What somebody liked and what somebody disliked are two features, not one.
    """
    one_hot = jax.nn.one_hot(action - 1, actions, dtype=items.dtype)
    weight = one_hot * mask.astype(items.dtype)[..., None]
    total = jnp.einsum("rla,rld->rad", weight, items)
    mean = total / jnp.maximum(weight.sum(-2), 1.0)[..., None]
    return mean.reshape(mean.shape[0], mean.shape[1] * mean.shape[2])


class EventEmbedding(nn.Module):
    """An event e_i: the item's embedding, plus one of the action and one of the age's bucket.

    Attributes:
      actions: number of actions; 0 for a sequence without.
      age_buckets: number of age buckets; 0 for a sequence without.
    """

    actions: int = 0
    age_buckets: int = 0

    @nn.compact
    def __call__(self, sequence: SequenceInput) -> Array:
        """Returns `[R, L, D]`."""
        events = sequence.items
        dim, embedding = events.shape[-1], nn.initializers.normal(0.02)
        if self.actions:
            table = self.param("action", embedding, (self.actions + 1, dim))
            events = events + one_hot_lookup(table, sequence.action)
        if self.age_buckets:
            table = self.param("age", embedding, (self.age_buckets, dim))
            events = events + one_hot_lookup(table, age_bucket(sequence.age, self.age_buckets))
        return events


class SequencePooling(nn.Module):
    """Pools a sequence twice and sums (InteractRank, user sequence).

    u_p = sum_i alpha_i e_i with a learned weight per position, and u_q = sum_i softmax_i(<q, e_i>)
    e_i with q a learned projection of the query embedding.

    Attributes:
      actions, age_buckets: of the events, see `EventEmbedding`.
      weighted, attention: whether each of the two poolings takes part.
      dtype: to multiply in; sums and the softmax are float32.
    """

    actions: int = 0
    age_buckets: int = 0
    weighted: bool = True
    attention: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, sequence: SequenceInput, query: Array) -> Array:
        """Maps `[R, L, D]` and a query `[R, Dq]` to float32 `[R, D]`; empty gives zeros."""
        mask = sequence.mask
        embed = EventEmbedding(self.actions, self.age_buckets, name="events")
        events = embed(sequence).astype(self.dtype)
        length, dim = events.shape[-2:]
        present = mask.astype(jnp.float32)
        weight = jnp.zeros_like(present)
        if self.weighted:
            alpha = self.param("alpha", nn.initializers.constant(1.0 / max(length, 1)), (length,))
            weight = weight + along_last(alpha, present) * present
        if self.attention:
            projected = nn.Dense(dim, use_bias=False, name="query", dtype=self.dtype)(query)
            scores = self._dot("...d,...ld->...l", projected, events) / np.sqrt(dim)
            scores = jnp.where(mask, scores, -1e9)
            # Multiplying by the mask once more turns the uniform weights of an empty sequence to 0.
            weight = weight + jax.nn.softmax(scores, -1) * present
        return self._dot("...l,...ld->...d", weight.astype(self.dtype), events)

    def _dot(self, subscripts: str, left: Array, right: Array) -> Array:
        return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


class TargetAttention(nn.Module):
    """DIN (Zhou et al., 2018): each event weighs what a small network makes of it and the target.

    weight_i = w2 relu(W [t, e_i, t - e_i, t * e_i] + b1) + b2; the sum of weight_i e_i. DIN takes
    the weights as they are; with `softmax` they are a softmax over the events that are present.
    W is applied by parts: W [t, e, t - e, t * e] is linear in e once t is given, with a matrix that
    is made once per target, and what the target contributes alone is computed once for all events.

    Attributes:
      hidden: width of the network.
      dtype: to multiply in; the sum and the softmax are float32.
      softmax: whether the weights of a target's events sum to one.
    """

    hidden: int
    dtype: Any = jnp.float32
    softmax: bool = False

    @nn.compact
    def __call__(self, events: Array, mask: Array, target: Array) -> Array:
        """Maps events `[R, L, D]`, their mask and targets `[R, M, T]` to `[R, M, D]`.

        A sequence without events gives zeros.
        """
        dim, dtype = events.shape[-1], self.dtype
        if target.shape[-1] != dim:
            target = nn.Dense(dim, use_bias=False, name="target", dtype=dtype)(target)
        shape = (4 * dim, self.hidden)
        weight = self.param("weight", nn.initializers.he_normal(), shape).astype(dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.hidden,)).astype(dtype)
        of_target, of_event, of_difference, of_product = jnp.split(weight, 4)
        events, target = events.astype(dtype), target.astype(dtype)
        # Of each request one matrix [D, M H]: all its targets see all its events in one product.
        weight = target[..., None] * of_product[None, None]
        weight += (of_event - of_difference)[None, None]
        # Sizes in full: where the number of requests is a symbol, none follows from the others.
        requests, targets = events.shape[0], target.shape[1]
        weight = jnp.moveaxis(weight, 1, 2).reshape(requests, dim, targets * self.hidden)
        of_target = target @ (of_target + of_difference)
        of_target = of_target + along_last(bias, of_target)
        of_target = of_target.reshape(requests, 1, targets * self.hidden)
        hidden = nn.relu(events @ weight + of_target)
        hidden = hidden.reshape(*mask.shape, targets, self.hidden)
        attention = nn.Dense(1, name="attention", dtype=dtype)(hidden)[..., 0]
        present = mask[..., None]
        if self.softmax:
            scores = jnp.where(present, attention.astype(jnp.float32), -1e9)
            attention = jax.nn.softmax(scores, -2).astype(dtype)
        attention = attention * present.astype(dtype)
        return jnp.einsum("rlm,rld->rmd", attention, events, preferred_element_type=jnp.float32)
