"""Learning rates, and the optimizer of all but the tables (`tables/optimizer.py`)."""

from typing import Any

import optax


def learning_rate(config: Any, total_steps: int) -> optax.Schedule:
    """Returns linear warm-up, then `config.decay` ('cosine' to zero, or 'constant')."""
    peak, warmup = float(config.learning_rate), int(config.warmup_steps)
    if config.decay == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else peak, peak, warmup, max(total_steps, warmup + 1)
        )
    return optax.linear_schedule(0.0 if warmup else peak, peak, max(warmup, 1))


def dense_optimizer(config: Any, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns AdamW for everything but the tables; a `clip_norm` above 0 bounds the global norm."""
    adamw = optax.adamw(schedule, weight_decay=config.weight_decay)
    if not config.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
