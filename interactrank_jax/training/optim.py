"""Learning rates, and the optimizer of all but the tables (`tables/optimizer.py`)."""

from typing import Any

import optax

from interactrank_jax.training.start import AFFINE, TERMS


def learning_rate(config: Any, total_steps: int) -> optax.Schedule:
    """Returns linear warm-up, then `config.decay` ('cosine' to zero, or 'constant')."""
    peak, warmup = float(config.learning_rate), int(config.warmup_steps)
    if config.decay == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else peak, peak, warmup, max(total_steps, warmup + 1)
        )
    return optax.linear_schedule(0.0 if warmup else peak, peak, max(warmup, 1))


def dense_optimizer(
    config: Any, schedule: optax.Schedule, affine: Any
) -> optax.GradientTransformation:
    """Returns AdamW for everything but the tables; a `clip_norm` above 0 bounds the global norm.

    Args:
      config: `config.train.optimizer`; its weight decay and the numbers of `affine` may be traced.
      schedule: learning rate by step.
      affine: `config.train.affine`: what the rate of the projection that ends a model (`AFFINE`)
        is multiplied by, and the weight decay of the terms of history in it (`TERMS`).
    """

    def is_affine(params: Any) -> Any:
        return {name: name in AFFINE for name in params}

    def is_term(params: Any) -> Any:
        return {name: name in TERMS for name in params}

    def is_other(params: Any) -> Any:
        return {name: name not in AFFINE for name in params}

    parts = [
        optax.scale_by_adam(),
        optax.add_decayed_weights(config.weight_decay, is_other),
        optax.add_decayed_weights(affine.weight_decay, is_term),
        optax.scale_by_learning_rate(schedule),
        optax.masked(optax.scale(affine.rate_scale), is_affine),
    ]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    return optax.chain(*parts)
