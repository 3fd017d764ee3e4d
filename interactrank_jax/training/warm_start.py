"""Starting a run from the model of another: which one may be taken, and where its rows go."""

import dataclasses
from pathlib import Path

import jax

from interactrank_jax.config import configuration
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run
from interactrank_jax.training.state import TrainState


def warm_start_source(run: Run, examples: Examples) -> Run:
    """Opens the run that this one starts from.

    The encoder of the examples must be that run's or extend it: ids keep their rows, features and
    their statistics are the same.

    Raises:
      InputError: no run there, other examples, or another model or other heads.
    """
    path = Path(run.config.train.warm_start).expanduser()
    other = Run.open(path)
    another = other.encoder.difference(examples.encoder, may_grow=True)
    if another:
        raise InputError(
            f"the examples in {examples.path} do not extend those that {path} was trained on, so "
            f"their ids would not agree: {another}. Prepare them with --extend=<those examples>."
        )
    difference = configuration.difference(
        configuration.to_json(other.config)["model"],
        configuration.to_json(run.config)["model"],
        "config.model",
    )
    if difference or other.inputs != run.inputs:
        raise InputError(
            f"{path} holds another model: {difference or 'other heads or inputs'}. Use its "
            f"config.model and config.label."
        )
    return other


def warm_start(state: TrainState, source: Run, parallel: DataParallel) -> TrainState:
    """Starts from another run's best model; its rows keep their place, new rows stay fresh.

    Raises:
      InputError: it has no model yet, or its tables are longer.
    """
    model, _ = source.restore_model(parallel)
    tables = {}
    for name, table in state.tables.items():
        old = model["tables"][name]
        if old.shape[0] > table.shape[0]:
            raise InputError(
                f"table '{name}' of {source.workdir} has {old.shape[0]:,} rows, here "
                f"{table.shape[0]:,}: it may only grow. Prepare with --extend."
            )
        overwrite = jax.jit(
            lambda table, old: table.at[: old.shape[0]].set(old), out_shardings=table.sharding
        )
        tables[name] = overwrite(table, old)
    return dataclasses.replace(state, params=model["params"], tables=tables)
