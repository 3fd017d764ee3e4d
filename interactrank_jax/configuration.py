"""Configs: from a file with an argument, compared, checked, and written as JSON."""

import difflib
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from interactrank_jax.errors import InputError


def load(spec: str) -> ConfigDict:
    """Returns the config of `FILE[:argument]`, as `--config` takes it.

    Raises:
      InputError: no such file, or an argument it does not know.
    """
    name, _, argument = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        raise InputError(f"--config={name} does not exist. Example: configs/interactrank.py:search")
    # So that a config can import its neighbours, wherever the command is run.
    root = str(path.resolve().parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module.get_config(argument) if argument else module.get_config()


def check_overrides(config: ConfigDict, argv: Sequence[str]) -> None:
    """Raises InputError for the first `--config.a.b=...` that names no field, with the nearest."""
    fields = [name for name, _ in _leaves(config)]
    for argument in argv:
        if not argument.startswith("--config."):
            continue
        name = argument.removeprefix("--config.").partition("=")[0].partition("[")[0]
        if name in fields:
            continue
        parent, _, leaf = name.rpartition(".")
        leaves: dict[str, str] = {}
        for field in fields:
            own = field.rpartition(".")[2]
            leaves.setdefault(own, field)
            leaves.setdefault("".join(word[0] for word in own.split("_")), field)  # lr
        close = difflib.get_close_matches(name, fields, n=1, cutoff=0.8) or [
            leaves[found] for found in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.5)
        ]
        beside = [f for f in fields if f.rpartition(".")[0] == parent] or sorted(config)
        hint = f"Did you mean config.{close[0]}?" if close else f"There are: {', '.join(beside)}."
        raise InputError(f"no field config.{name}. {hint}")


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns plain dictionaries and lists, resolved."""
    return json.loads(config.to_json_best_effort())


def difference(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "config") -> str:
    """Returns the first fields that differ, `config.a.b was 1, is 2`, or '' if none does."""
    found = []
    for key in sorted({*saved, *now}):
        name = f"{prefix}.{key}"
        old, new = saved.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = difference(old, new, name)
            if inner:
                found.append(inner)
        elif old != new:
            found.append(f"{name} was {old}, is {new}")
    return "; ".join(found[:3])
