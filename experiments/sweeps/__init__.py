"""Sweeps: functions that yield overrides, composed of `over`, `product` and `zipped`.

A sweep file defines `sweep()`; it yields dicts of dotted config fields to values:

    def sweep():
        return product(
            over("train.optimizer.learning_rate", (3e-4, 1e-3)),
            zipped(over("model.embedding_dim", (16, 32)), over("model.tower.output_dim", (32, 64))),
        )

is four trials. Or it defines `suggest(trial)`, which returns the overrides of one trial that Optuna
draws:

    def suggest(trial):
        return {"train.tables.learning_rate": trial.suggest_float("rate", 0.01, 0.1, log=True)}

Run it with `python -m experiments.run --sweep=FILE`.
"""

import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError

Overrides = dict[str, Any]


def over(field: str, values: Iterable[Any]) -> Iterator[Overrides]:
    """Yields `{field: value}` for each value."""
    return ({field: value} for value in values)


def product(*sweeps: Iterable[Mapping[str, Any]]) -> Iterator[Overrides]:
    """Yields every combination; the last sweep varies fastest, and wins where two set a field."""
    return map(_merged, itertools.product(*sweeps))


def zipped(*sweeps: Iterable[Mapping[str, Any]]) -> Iterator[Overrides]:
    """Yields the first of each together, then the second of each, and so on.

    Raises:
      ValueError: one is shorter than another.
    """
    return map(_merged, zip(*sweeps, strict=True))


def _merged(parts: Iterable[Mapping[str, Any]]) -> Overrides:
    return {field: value for part in parts for field, value in part.items()}


Suggest = Callable[[Any], Mapping[str, Any]]


def load(path: files.PathLike) -> list[Overrides] | Suggest:
    """Returns what `sweep()` of a file yields, each once; or its function `suggest`.

    Raises:
      InputError: no such file, neither function in it, or it yields something else, or nothing.
    """
    path = Path(path)
    if not path.is_file() or path.suffix != ".py":
        raise InputError(
            f"--sweep={path} is no Python file. Example: experiments/sweeps/learning_rates.py"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if callable(suggest := getattr(module, "suggest", None)):
        return suggest
    if not callable(getattr(module, "sweep", None)):
        raise InputError(
            f"{path} defines no function `sweep`, which yields overrides, and no `suggest`, which "
            f"returns those of a trial of Optuna."
        )
    listed: list[Overrides] = []
    for overrides in module.sweep():
        if not isinstance(overrides, Mapping):
            raise InputError(
                f"`sweep` of {path} yields {overrides!r}. Expected dicts of dotted config fields "
                f"to values, such as {{'train.optimizer.learning_rate': 1e-3}}."
            )
        if dict(overrides) not in listed:
            listed.append(dict(overrides))
    if not listed:
        raise InputError(f"`sweep` of {path} yields nothing: there is no trial to run.")
    return listed
