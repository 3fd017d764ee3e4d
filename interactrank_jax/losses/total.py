"""What a loss returns, and what all losses do with masks, weights, shapes and types."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from interactrank_jax.io.errors import InputError


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


def sum_rows(loss: jax.Array, where: jax.Array | None, weights: jax.Array | None) -> Total:
    """Sums a loss of finite rows; what `where` leaves out is replaced before it is multiplied."""
    if weights is None:
        weights = jnp.ones_like(loss)
    check_shape("weights", weights, loss.shape)
    weights = weights.astype(loss.dtype)
    if where is not None:
        weights = jnp.where(where, weights, 0)
    return Total(jnp.sum(weights * loss), jnp.sum(weights))


def existing_rows(
    logits: jax.Array, labels: jax.Array, where: jax.Array | None, name: str = "labels"
) -> tuple[jax.Array, jax.Array]:
    """Checks shapes, widens, and puts 0 where no row exists, so that NaN there has no gradient."""
    check_shape(name, labels, logits.shape)
    dtype = accumulator(logits)
    logits, labels = logits.astype(dtype), labels.astype(dtype)
    if where is None:
        return logits, labels
    check_shape("where", where, logits.shape)
    return jnp.where(where, logits, 0), jnp.where(where, labels, 0)


def accumulator(array: jax.Array) -> jnp.dtype:
    """Returns the type to compute in: that of the array, or float32 where that is wider."""
    return jnp.promote_types(array.dtype, jnp.float32)


def check_shape(name: str, array: jax.Array, expected: tuple[int, ...]) -> None:
    """Raises InputError where the array has another shape."""
    if array.shape != expected:
        raise InputError(
            f"{name} has shape {array.shape}, expected {expected}. Broadcast it explicitly."
        )
