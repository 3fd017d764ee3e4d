"""Training: examples in, a run directory out. Read top to bottom.

RUN/config.json      the resolved config and the hash of the examples it was trained on
RUN/metrics.jsonl    training and validation figures, one line a write (also TensorBoard)
RUN/checkpoints, RUN/best    see `checkpoint.py`
RUN/profile                  a trace of `config.train.profile_steps` steps
"""

import functools
import logging
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from interactrank_jax import configuration, distributed, evaluate, fields, metrics, writers
from interactrank_jax.checkpoint import Checkpoints, Progress
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import train_columns, train_iterator
from interactrank_jax.io import interrupts
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.files import PathLike
from interactrank_jax.labels import LabelRule
from interactrank_jax.models.embeddings import item_store
from interactrank_jax.objective import Objective
from interactrank_jax.optim import RowOptimizer, dense_optimizer, learning_rate
from interactrank_jax.parallel import DataParallel
from interactrank_jax.runs import Run
from interactrank_jax.scorers import ModelScorer, prior_offsets
from interactrank_jax.scoring.index import encode_items
from interactrank_jax.steps import HARD_INDEX, health_checks, make_train_step
from interactrank_jax.train_state import HEALTHY, TrainState, count_parameters, init_state
from interactrank_jax.warm_start import warm_start, warm_start_source

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
    model, rule = run.model, run.rule
    parallel = DataParallel(
        config.train.parallel,
        devices,
        shards=int(config.train.table_shards),
        tables=examples.metadata.tables,
    )
    check_config(config, examples, rule, parallel.size)
    batch_size, processes = int(config.train.batch_size), jax.process_count()
    is_first_process = jax.process_index() == 0
    steps_per_epoch = examples.split("train").examples // batch_size
    total_steps = int(config.train.max_steps) or max(1, int(config.train.epochs * steps_per_epoch))
    eval_every = int(config.train.eval_every) or steps_per_epoch

    objective = Objective.from_config(
        config,
        rule,
        examples.metadata,
        examples.num_items,
        model,
        offset=prior_offsets(run, examples)[0],
    )
    for name in ("optimizer", "tables"):
        if int(config.train[name].warmup_steps) >= total_steps:
            logger.warning(
                "config.train.%s.warmup_steps is %d, of %d steps: the rate never reaches its peak",
                *(name, config.train[name].warmup_steps, total_steps),
            )
    schedule = learning_rate(config.train.optimizer, total_steps)
    optimizer = dense_optimizer(config.train.optimizer, schedule)
    row_optimizer = RowOptimizer(
        config.train.tables.name,
        learning_rate(config.train.tables, total_steps, "tables"),
        config.train.tables.initial_accumulator,
    )
    init = functools.partial(
        init_state,
        model,
        config,
        examples.metadata.tables,
        optimizer,
        row_optimizer,
        objective,
    )
    source = warm_start_source(run, examples) if config.train.warm_start else None
    template = parallel.template(init)
    check_memory(template, parallel.devices[0].platform)
    parameters = {
        "parameters": count_parameters(template.params),
        "table_parameters": count_parameters(template.tables),
    }
    data = train_iterator(
        examples,
        batch_size // processes,
        seed=int(config.train.seed),
        names=(*train_columns(examples), *objective.columns),
        shard=jax.process_index(),
        num_shards=processes,
    )
    sampling = float(config.train.loss.impression_sampling)
    if sampling < 1:
        logger.info("%g%% of candidates without any action are kept in training", 100 * sampling)
    logger.info(
        "%s: %s parameters, %s in tables, %d steps of %d requests on %d devices",
        config.model.name,
        f"{parameters['parameters']:,}",
        f"{parameters['table_parameters']:,}",
        total_steps,
        batch_size,
        parallel.size,
    )

    train_step = parallel.map_step(
        make_train_step(
            model,
            objective,
            optimizer,
            row_optimizer,
            parallel.layout,
            total_steps,
            microbatches=int(config.train.microbatches),
        )
    )
    with (
        run.claimed(examples),
        Checkpoints(workdir) as checkpoints,
        distributed.stop_requests() as stop_requested,
    ):
        progress = Progress()
        if checkpoints.latest_step() is None:
            state = parallel.initialise(init)
            if source is not None:
                state = warm_start(state, source, parallel)
        else:
            state, progress = checkpoints.restore(template, data)
            checkpoints.check_best(progress)
            logger.info("resumed at step %d", int(state.step))
        first_step = int(state.step)
        carried = jax.device_get(state.sums)  # by steps before the run was interrupted
        store = parallel.replicate(item_store(examples.items))
        placed = parallel.place(state)
        del state  # the first step takes its memory over
        if objective.hard_negatives:
            store[HARD_INDEX] = hard_index(run, examples, placed, parallel)
        validation = ModelScorer(run, examples, "validation", parallel)
        select_by = config.train.select_by

        with (
            writers.MetricWriter(workdir, resume_step=first_step)
            if is_first_process
            else writers.NoMetricWriter() as writer,
            writers.ProgressBar(
                total_steps, config.model.name, initial=first_step, enabled=is_first_process
            ) as bar,
            writers.Profiler(
                run.workdir / "profile", int(config.train.profile_steps) * is_first_process
            ) as profiler,
        ):
            clock = time.perf_counter()
            for step in range(first_step, total_steps):
                if progress.stopped:
                    break
                done = step + 1
                is_last = done == total_steps
                is_log = done % config.train.log_every == 0 or is_last
                is_evaluation = done % eval_every == 0 or is_last
                is_checkpoint = done % config.train.checkpoint_every == 0 or is_evaluation
                batch = parallel.shard(next(data))
                placed = train_step(placed, batch, store)
                profiler.step(placed)
                stopping = stop_requested(done)

                if is_log or is_checkpoint or stopping:
                    check_health(placed, parallel.unreplicate(placed.health), batch)
                if is_log:
                    sums = jax.device_get(parallel.unreplicate(placed.sums))
                    scalars = summarise(sums, carried, time.perf_counter() - clock)
                    scalars["train/learning_rate"] = float(schedule(step))
                    writer.write(done, scalars)
                    bar.update(
                        int(sums["steps"] - carried["steps"]),
                        int(sums["candidates"] - carried["candidates"]),
                    )
                    carried = jax.tree.map(np.zeros_like, sums)
                    placed = placed.replace(sums=parallel.replicate(carried))
                if is_evaluation:
                    validation.use({"params": placed.params, "tables": placed.tables})
                    figures = evaluate.validate(validation)
                    writer.write(done, {f"validation/{k}": v for k, v in figures.items()})
                    record_validation(progress, figures, done, config.train)
                    if progress.best_step == done:
                        checkpoints.save_best(parallel.canonical(placed))
                if is_checkpoint or stopping:
                    checkpoints.save(parallel.canonical(placed), data, progress)
                    if objective.hard_negatives:
                        store[HARD_INDEX] = hard_index(run, examples, placed, parallel)
                if is_log or is_evaluation:
                    clock = time.perf_counter()
                if stopping:
                    raise distributed.TrainingInterrupted(
                        f"stopped after step {done}; the same command goes on from there.",
                        interrupts.requested() or signal.SIGTERM,
                    )
    return {
        "step": int(progress.best_step),
        select_by: progress.best_metric,
        "steps": int(parallel.unreplicate(placed.step)),
        **parameters,
    }


def hard_index(run: Run, examples: Examples, state: TrainState, parallel: DataParallel) -> Any:
    """Returns every item's representation by the state's model, on the devices."""
    model = parallel.unreplicate({"params": state.params, "tables": state.tables})
    return parallel.replicate(encode_items(run, model, item_store(examples.items)))


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


def record_validation(
    progress: Progress, figures: dict[str, float], step: int, config: ConfigDict
) -> None:
    """Updates the best record; stops the run after `config.patience` worse ones (0: never).

    Raises:
      InputError: the metric to select by is not defined on the validation split.
    """
    name = config.select_by
    metric, sign = figures[name], -1 if name in metrics.LOWER_IS_BETTER else 1
    if np.isnan(metric):
        raise InputError(
            f"{name} is not defined on the validation split, so no best model can be selected: set "
            f"config.train.select_by to another metric."
        )
    if progress.best_metric is None or sign * metric > sign * progress.best_metric:
        progress.best_metric, progress.best_step = float(metric), step
        progress.evaluations_since_best = 0
        return
    progress.evaluations_since_best += 1
    progress.stopped = 0 < int(config.patience) <= progress.evaluations_since_best


def check_health(state: TrainState, health: Any, batch: Any) -> None:
    """Raises FloatingPointError if any step so far saw a tensor that is not finite.

    Args:
      state, batch: for the names of their tensors alone.
      health: `TrainState.health`, unplaced.
    """
    step, place = (int(value) for value in jax.device_get(health))
    if step == HEALTHY:
        return
    # For the names alone: gradients are called after the parameters and tables they belong to.
    names = [name for name, _ in health_checks(batch, state.sums, state.params, state.tables)]
    raise FloatingPointError(
        f"step {step}: {names[place]} is not finite. Nothing was saved since; the last checkpoint "
        f"is sound. Look at that batch or lower config.train.optimizer.learning_rate."
    )


def summarise(sums: dict[str, Any], carried: dict[str, Any], seconds: float) -> dict[str, float]:
    """Turns the sums of some steps into means and rates for the log.

    `carried` is what the sums held when the clock of these `seconds` started.
    """
    steps = max(float(sums["steps"]), 1.0)
    scalars = {
        f"train/{name}": float(value) / steps
        for name, value in sums.items()
        if name.startswith(("loss", "model/")) or name == "gradient_norm"
    }
    candidates = max(float(sums["candidates"]), 1.0)
    scalars["train/engagement_rate"] = float(sums["engaged"]) / candidates
    scalars["train/candidates_per_second"] = (
        float(sums["candidates"] - carried["candidates"]) / seconds
    )
    scalars["train/steps_per_second"] = float(sums["steps"] - carried["steps"]) / seconds
    return scalars
