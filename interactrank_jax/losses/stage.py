"""Weights by the stage at which a candidate left the funnel."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from interactrank_jax.losses.total import check_shape


def stage_weights(
    stage: jax.Array,
    positive: jax.Array,
    *,
    negative_weights: Sequence[float] = (1.0, 0.5, 0.1),
) -> jax.Array:
    """Weighs negatives by how far they came; a positive keeps 1, whatever its stage.

    That nobody engaged with a candidate says most of one that was shown, less of one that was
    retrieved and not shown, and least of a random one.

    Args:
      stage: [...] int, 1 shown, 2 retrieved, 3 random, 0 padding.
      positive: [...] bool, rows with a positive label.
      negative_weights: of negatives that were shown, retrieved, random.

    Returns:
      [...] float32; 0 for padding, NaN for a negative of any other code.

    Raises:
      InputError: the shapes differ (at trace time).
    """
    check_shape("positive", positive, stage.shape)
    shown, retrieved, random = negative_weights
    return jnp.select(
        [stage == 0, positive, stage == 1, stage == 2, stage == 3],
        [0.0, 1.0, shown, retrieved, random],
        jnp.float32(jnp.nan),
    )
