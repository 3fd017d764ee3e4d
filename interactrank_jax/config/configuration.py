"""Configs: from a file with an argument, overridden, compared, and written as JSON."""

import copy
import difflib
import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from interactrank_jax.config.fields import leaves
from interactrank_jax.io.errors import InputError

_EXAMPLE = "configs/interactrank.py:search"


def load(spec: str) -> ConfigDict:
    """Returns the config of `FILE[:argument]`, as `--config` takes it.

    This runs FILE, a Python program.

    Raises:
      InputError: no such file, one that fails or gives no config, or an argument it does not know.
    """
    path, argument = _split(spec)
    module = _run(path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise InputError(
            f"--config={path} defines no function get_config. Expected a file such as {_EXAMPLE}."
        )
    try:
        config = get_config(argument) if argument else get_config()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(path, error) from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config={path}: get_config returned {type(config).__name__}. Expected an "
            f"ml_collections.ConfigDict."
        )
    return config


def run(spec: str) -> None:
    """Runs the file that `--config` names beside a run: what it registers is known then.

    Gives no config, so an argument would choose nothing.

    Raises:
      InputError: no such file, one with an argument, or one that fails.
    """
    path, argument = _split(spec)
    if argument:
        raise InputError(
            f"--config={spec} beside a run, which keeps the config that it was trained with: "
            f"leave ':{argument}' out. Expected --config={path}, the file that registers the run's "
            f"model."
        )
    _run(path)


def _split(spec: str) -> tuple[Path, str]:
    """Returns the file and its argument; a colon may be part of either."""
    parts = spec.split(":")
    for count in range(len(parts), 0, -1):
        path = Path(":".join(parts[:count])).expanduser()
        if path.is_file():
            return path, ":".join(parts[count:])
    if Path(spec).expanduser().is_dir():
        raise InputError(f"--config={spec} is a directory. Expected a file, such as {_EXAMPLE}.")
    raise InputError(f"--config={parts[0]} does not exist. Example: {_EXAMPLE}")


def _run(path: Path) -> Any:
    """Runs a config file; returns it as a module."""
    if path.suffix == ".json":
        raise InputError(
            f"--config={path} is JSON. Expected a Python file with get_config, such as {_EXAMPLE}; "
            f"what a run was trained with is in its config.json."
        )
    # A config imports its neighbours, as `configs.common`: its own, or else those of this checkout.
    for root in (Path(__file__).parents[2], path.resolve().parent.parent):
        if (root / "configs").is_dir() and str(root) not in sys.path:
            sys.path.insert(0, str(root))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"--config={path}: expected a Python file, such as {_EXAMPLE}.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(path, error) from error
    return module


def _failed(path: Path, error: BaseException) -> InputError:
    """Returns an error that names the line of a config file that failed."""
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f"{path}, line {line}" if line else str(path)
    reason = f"{type(error).__name__}: {error}"
    return InputError(f"--config={where}: {reason}. Mend the file, or start from {_EXAMPLE}.")


def override(config: ConfigDict, arguments: Sequence[str]) -> dict[str, Any]:
    """Sets the fields that `--config.a.b=value` arguments name, in place; returns them by name.

    Raises:
      InputError: no such field, or a value of another type.
    """
    check_overrides(config, arguments)
    values = flags.FlagValues()
    arguments = ["interactrank", *arguments]
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=arguments, lock_config=False
        )
        values(arguments)
    except (flags.Error, AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(f"{error}. Strings with commas or brackets need quotes.") from error
    flag: Any = values["config"]
    return dict(flag.override_values)


def with_values(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a config with other values of some fields, by name as `train.batch_size`.

    Raises:
      InputError: no such field, or a value of another type than its own.
    """
    check_overrides(config, [f"--config.{field}=" for field in values])
    changed = copy.deepcopy(config)
    for field, value in values.items():
        try:
            changed.update_from_flattened_dict({field: value})
        except (TypeError, ValueError) as error:
            raise InputError(f"config.{field} cannot be {value!r}: {error}") from error
    return changed


def check_overrides(config: ConfigDict, arguments: Iterable[str]) -> None:
    """Raises InputError for the first `--config.a.b=...` that names no field, with the nearest."""
    fields = dict(leaves(config))
    for argument in arguments:
        if not argument.startswith("--config."):
            continue
        name = argument.removeprefix("--config.").partition("=")[0]
        base, bracket, _ = name.partition("[")
        if bracket and base in fields:
            raise InputError(
                f"--config.{name}: a field is set as a whole. Write --config.{base}="
                f"'{fields[base]!r}' with the values you want."
            )
        if name not in fields:
            raise InputError(f"no field config.{name}. {_nearest(name, list(fields), config)}")


def _nearest(name: str, fields: list[str], config: ConfigDict) -> str:
    parent, _, leaf = name.rpartition(".")
    by_leaf: dict[str, str] = {}
    for field in fields:
        last = field.rpartition(".")[2]
        by_leaf.setdefault(last, field)
        by_leaf.setdefault("".join(word[0] for word in last.split("_")), field)  # lr
    close = difflib.get_close_matches(name, fields, n=1, cutoff=0.8) or [
        by_leaf[match] for match in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.5)
    ]
    if close:
        return f"Did you mean config.{close[0]}?"
    siblings = [field for field in fields if field.rpartition(".")[0] == parent]
    return f"There are: {', '.join(siblings or sorted(config))}."


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns plain dictionaries and lists, resolved."""
    return json.loads(config.to_json_best_effort())


def difference(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "config") -> str:
    """Returns the first fields that differ, `config.a.b was 1, is 2`, or '' if none does."""
    differences = []
    for key in sorted({*saved, *now}):
        name = f"{prefix}.{key}"
        old, new = saved.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = difference(old, new, name)
            if inner:
                differences.append(inner)
        elif old != new:
            differences.append(f"{name} was {old}, is {new}")
    return "; ".join(differences[:3])
