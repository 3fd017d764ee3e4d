"""Training: examples in, a run directory out. Read top to bottom; the loop is `loop.py`.

RUN/config.json      the resolved config, and the examples it was trained on, without their arrays
RUN/encoder          a copy of their encoder
RUN/metrics.jsonl    training and validation figures, one line a write (also TensorBoard)
RUN/checkpoints, RUN/best    see `checkpoint.py`
RUN/profile                  a trace of `config.train.profile_steps` steps
"""

import functools
import logging
import os
from collections.abc import Mapping
from typing import Any

import grain
import jax
from ml_collections import ConfigDict

from interactrank_jax.config import configuration, fields
from interactrank_jax.devices import distributed
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import train_columns, train_iterator
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.files import PathLike
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.optimizer import RowOptimizer
from interactrank_jax.training.checkpoint import Checkpoints
from interactrank_jax.training.loop import Loop, Parts, Timetable
from interactrank_jax.training.objective import Objective
from interactrank_jax.training.optim import dense_optimizer, learning_rate
from interactrank_jax.training.state import count_parameters, init_state
from interactrank_jax.training.steps import make_train_step
from interactrank_jax.training.warm_start import warm_start_source

logger = logging.getLogger(__name__)


def train(
    config: ConfigDict,
    examples_path: PathLike,
    workdir: PathLike,
    devices: list[jax.Device] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains, or resumes what is in `workdir`; returns the best validation record.

    Args:
      config: a whole config, as `configs/*.py` give it; its `data` part gives way to that of the
        examples.
      examples_path: output of `prepare`.
      workdir: the run directory.
      devices: to train on; all of all processes by default.
      overrides: fields that were set by hand, by name; those of `data` must be the examples'.

    Raises:
      InputError: examples or a workdir that do not fit the config.
      TrainingInterrupted: SIGINT or SIGTERM came; the state is saved.
      FloatingPointError: a loss or gradient is not finite; names the step and the tensor.
    """
    fields.check(config)
    examples = Examples(examples_path)
    config = with_data_of(examples, config, overrides or {})
    run = Run(workdir, config, examples.metadata)
    parallel = DataParallel(
        config.train.parallel,
        devices,
        shards=int(config.train.table_shards),
        tables=examples.metadata.tables,
    )
    check_config(config, examples, run.rule, parallel.size)
    timetable = Timetable.from_config(config.train, examples)
    parts = make_parts(run, examples, parallel, timetable.total)
    source = warm_start_source(run, examples) if config.train.warm_start else None
    template = parallel.template(parts.init)
    check_memory(template, parallel.devices[0].platform)
    data = training_data(config, examples, parts.objective)
    sizes = {
        "parameters": count_parameters(template.params),
        "table_parameters": count_parameters(template.tables),
    }
    announce(config, sizes, timetable.total, parallel.size)
    with (
        run.claimed(examples),
        Checkpoints(workdir) as checkpoints,
        distributed.stop_requests() as stop_requested,
    ):
        loop = Loop(run, examples, parallel, timetable, parts, data, checkpoints)
        loop.start(template, source)
        loop.run(stop_requested)
    return {
        "step": int(loop.progress.best_step),
        config.train.select_by: loop.progress.best_metric,
        "steps": int(parallel.unreplicate(loop.placed.step)),
        **sizes,
    }


def make_parts(run: Run, examples: Examples, parallel: DataParallel, total_steps: int) -> Parts:
    """Returns what `config.train` makes a training step of, mapped over the devices."""
    config = run.config.train
    objective = Objective.from_config(
        run.config,
        run.rule,
        examples.metadata,
        examples.num_items,
        run.model,
        offset=run.prior_offsets(examples)[0],
    )
    for name in ("optimizer", "tables"):
        if int(config[name].warmup_steps) >= total_steps:
            logger.warning(
                "config.train.%s.warmup_steps is %d, of %d steps: the rate never reaches its peak",
                *(name, config[name].warmup_steps, total_steps),
            )
    schedule = learning_rate(config.optimizer, total_steps)
    optimizer = dense_optimizer(config.optimizer, schedule)
    row_optimizer = RowOptimizer(
        config.tables.name,
        learning_rate(config.tables, total_steps),
        config.tables.initial_accumulator,
    )
    init = functools.partial(
        init_state,
        *(run.model, run.config, examples.metadata.tables, optimizer, row_optimizer, objective),
    )
    step = make_train_step(
        *(run.model, objective, optimizer, row_optimizer, parallel.layout, total_steps),
        microbatches=int(config.microbatches),
    )
    return Parts(objective, schedule, init, parallel.map_step(step))


def training_data(
    config: ConfigDict, examples: Examples, objective: Objective
) -> grain.DatasetIterator:
    """Returns the batches of this process: its part of each step's requests."""
    processes = jax.process_count()
    return train_iterator(
        examples,
        int(config.train.batch_size) // processes,
        seed=int(config.train.seed),
        names=(*train_columns(examples), *objective.columns),
        shard=jax.process_index(),
        num_shards=processes,
    )


def announce(config: ConfigDict, sizes: Mapping[str, int], total_steps: int, devices: int) -> None:
    """Logs what is about to be trained."""
    sampling = float(config.train.loss.impression_sampling)
    if sampling < 1:
        logger.info("%g%% of candidates without any action are kept in training", 100 * sampling)
    logger.info(
        "%s: %s parameters, %s in tables, %d steps of %d requests on %d devices",
        config.model.name,
        f"{sizes['parameters']:,}",
        f"{sizes['table_parameters']:,}",
        total_steps,
        int(config.train.batch_size),
        devices,
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


def with_data_of(
    examples: Examples, config: ConfigDict, overrides: Mapping[str, Any]
) -> ConfigDict:
    """Returns a config with the `data` part that examples were prepared with.

    Raises:
      InputError: one of its fields was set by hand to something else.
    """
    prepared = examples.metadata.config
    asked = configuration.to_json(config)["data"]
    by_name, asked_by_name = dict(fields.leaves(prepared)), dict(fields.leaves(asked))
    for name in overrides:
        part, _, field = name.partition(".")
        if part == "data" and asked_by_name.get(field) != by_name.get(field):
            raise InputError(
                f"--config.{name} is {asked_by_name.get(field)}, but {examples.path} was prepared "
                f"with {by_name.get(field)}. Leave it out, or prepare the log again with it."
            )
    difference = configuration.difference(asked, prepared, "config.data")
    if difference:
        logger.info("config.data is that of the examples: %s", difference)
    return ConfigDict({**config, "data": ConfigDict(prepared)})


def check_config(config: ConfigDict, examples: Examples, rule: LabelRule, devices: int) -> None:
    """Raises InputError for what would fail only after a while, or silently not be what it says."""
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
