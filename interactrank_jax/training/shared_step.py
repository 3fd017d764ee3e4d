"""What models that share a step must have in common, see `vmapped.py`."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from interactrank_jax.config import configuration, fields
from interactrank_jax.io.errors import InputError
from interactrank_jax.training.trainer import order_seed

ORDER_SEED = "train.order_seed"
# Fields in which the models of a step may differ: what can be traced.
VARIED = (
    "train.seed",
    "train.optimizer.learning_rate",
    "train.optimizer.warmup_steps",
    "train.optimizer.decay",
    "train.optimizer.weight_decay",
    "train.affine.rate_scale",
    "train.affine.weight_decay",
    "train.tables.learning_rate",
    "train.tables.warmup_steps",
    "train.tables.decay",
    "train.tables.weight_decay",
)


def shared_part(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields by name that models must have in common to share a step."""
    values = dict(fields.leaves(configuration.to_json(config)))
    return {
        **{name: value for name, value in values.items() if name not in VARIED},
        ORDER_SEED: order_seed(config.train),
    }


def check_alike(configs: Sequence[ConfigDict]) -> None:
    """Refuses models that cannot share a step.

    Raises:
      InputError: they differ in more than seeds and rates, or need something of each one's own.
    """
    first, train = shared_part(configs[0]), configs[0].train
    for config in configs[1:]:
        other = shared_part(config)
        names = [name for name in sorted({*first, *other}) if first.get(name) != other.get(name)]
        if names == [ORDER_SEED]:
            raise InputError(
                f"config.train.seed is {train.seed} and {config.train.seed}, and "
                f"config.train.order_seed is none or another: each model would see other batches. "
                f"Set config.train.order_seed to one number for all of them."
            )
        if names:
            name = names[0]
            raise InputError(
                f"config.{name} is {first.get(name)} and {other.get(name)}. Models that share a "
                f"step may differ in {', '.join(VARIED)}: train these apart."
            )
    if int(train.loss.hard_negatives):
        raise InputError(
            f"config.train.loss.hard_negatives is {train.loss.hard_negatives}: each model would "
            f"need an index of all items of its own. Expected 0 where models share a step: train "
            f"them one by one."
        )
    if int(train.table_shards) > 1:
        raise InputError(
            f"config.train.table_shards is {train.table_shards}. Models that share a step train "
            f"on one device: set it to 1, or train them one by one."
        )
