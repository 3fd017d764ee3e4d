"""Checks of a training before any work: its config against its examples, devices and memory."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from interactrank_jax.config import configuration, fields
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import LabelRule

logger = logging.getLogger(__name__)


def with_data_of(
    examples: Examples, config: ConfigDict, overrides: Mapping[str, Any]
) -> ConfigDict:
    """Returns a copy of a config with the `data` part that examples were prepared with.

    Raises:
      InputError: one of its fields was set by hand to something else.
    """
    prepared = examples.metadata.config
    requested = configuration.to_json(config)["data"]
    prepared_by_name = dict(fields.leaves(prepared))
    requested_by_name = dict(fields.leaves(requested))
    for name in overrides:
        part, _, field = name.partition(".")
        value = requested_by_name.get(field)
        if part == "data" and value != prepared_by_name.get(field):
            raise InputError(
                f"--config.{name} is {value}, but {examples.path} was prepared with "
                f"{prepared_by_name.get(field)}. Leave it out, or prepare the log again with it."
            )
    difference = configuration.difference(requested, prepared, "config.data")
    if difference:
        logger.info("config.data is that of the examples: %s", difference)
    parts = config.copy_and_resolve_references()
    return ConfigDict({**parts, "data": ConfigDict(prepared)})


def check_config(config: ConfigDict, examples: Examples, rule: LabelRule, devices: int) -> None:
    """Refuses what would fail only after a while, or silently not be what it says.

    Args:
      config: whole.
      examples: to train on.
      rule: what counts as engaged.
      devices: that share a batch.

    Raises:
      InputError: sizes that the devices cannot share, too few examples, or a split in which every
        candidate is engaged, or none.
    """
    train_config = config.train
    parts = devices * int(train_config.microbatches)
    if int(train_config.batch_size) % parts:
        raise InputError(
            f"config.train.batch_size is {train_config.batch_size}: it cannot be split over "
            f"{devices} devices and {train_config.microbatches} microbatches. Use a multiple of "
            f"{parts}."
        )
    negatives = int(train_config.loss.uniform_negatives)
    if train_config.loss.softmax_weight and negatives % devices:
        raise InputError(
            f"config.train.loss.uniform_negatives is {negatives}: it cannot be split over "
            f"{devices} devices. Use a multiple of {devices}."
        )
    if int(train_config.table_shards) > 1 and int(train_config.loss.hard_negatives):
        raise InputError(
            "config.train.loss.hard_negatives needs an index of all items, which is made by a "
            "device that has all tables: set config.train.table_shards=1 or leave them out."
        )
    available = examples.split("train").examples
    if available < int(train_config.batch_size):
        raise InputError(
            f"{examples.path} has {available} training examples, fewer than one batch of "
            f"config.train.batch_size={train_config.batch_size}."
        )
    for split in ("train", "validation"):
        engaged = rule.count_engaged(examples.split(split))
        candidates = examples.split(split).candidates
        if engaged in (0, candidates):
            raise InputError(
                f"{engaged:,} of the {candidates:,} candidates in split '{split}' count as "
                f"engaged: there is nothing to tell apart. Look at config.label.positive and "
                f".negative, or at the log's action columns."
            )


def check_memory(template: Any, platform: str) -> None:
    """Refuses a state that this machine cannot hold, where its memory is that of the devices.

    Raises:
      InputError: parameters, tables and optimizer take more than there is.
    """
    if platform != "cpu":
        return
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(template))
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise InputError(
            f"parameters, tables and optimizer take {needed / 2**30:,.1f} GiB, this machine has "
            f"{available / 2**30:,.1f}. Lower config.model.embedding_dim, .tower.hidden or "
            f"config.data.text.buckets."
        )
