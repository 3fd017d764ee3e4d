"""The command line: from words and flags to a command of `commands.py`, and its exit status."""

import logging
import os
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from interactrank_jax import configuration, cuda, files
from interactrank_jax.commands import COMMANDS, REQUIRED, Command
from interactrank_jax.errors import InputError, did_you_mean


def main(argv: Sequence[str]) -> int:
    """Runs `interactrank ARGV...`; returns the exit status."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = [f"  {name:<12} {command.summary}" for name, command in COMMANDS.items()]
        print("interactrank COMMAND --flags\n\n" + "\n".join(lines))
        print("\n`interactrank COMMAND --help` shows a command's flags and an example.")
        return 0 if argv else 2
    name, rest = split_command(argv)
    if name not in COMMANDS:
        return _fail(f"no command '{name}'." + did_you_mean(name, COMMANDS))
    command = COMMANDS[name]
    if {"-h", "--help"} & set(rest):
        print(command.usage(name))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)
    for doubling in ("absl", "asyncio"):  # with tracebacks of errors that are raised here anyway
        logging.getLogger(doubling).setLevel(logging.CRITICAL)
    cuda.avoid_slow_scatter(os.environ)  # before anything, a config file included, starts jax
    try:
        command.run(_parse(command, name, rest))
    except InputError as error:
        return _fail(str(error))
    except FloatingPointError as error:
        return _fail(str(error), status=3)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted; nothing half-written was left.", status=130)
    except Exception as error:
        problem = files.write_problem(error)
        if problem is None:
            raise
        return _fail(f"could not write everything: {problem}.")
    return 0


def split_command(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the command, of one word or two, and what follows it."""
    words = 2 if " ".join(argv[:2]) in COMMANDS else 1
    return " ".join(argv[:words]), list(argv[words:])


def _parse(command: Command, name: str, argv: Sequence[str]) -> flags.FlagValues:
    argv = [_with_underscores(argument) for argument in argv]
    values = flags.FlagValues()
    for flag, (default, help_text) in command.flags.items():
        if isinstance(default, int):
            flags.DEFINE_integer(flag, default, help_text, flag_values=values)
        elif isinstance(default, float):
            flags.DEFINE_float(flag, default, help_text, flag_values=values)
        else:
            text = None if default is REQUIRED else default
            flags.DEFINE_string(flag, text, help_text, flag_values=values)
    if command.config is not None:
        for argument in argv:
            if argument.startswith("--config="):
                # Before the flag does: its own messages do not say what to write instead.
                config = configuration.load(argument.removeprefix("--config="))
                configuration.check_overrides(config, argv)
        config_flags.DEFINE_config_file("config", None, flag_values=values)
    saved, sys.argv = sys.argv, ["interactrank", *argv]  # config_flags reads overrides from there
    try:
        unparsed = values(sys.argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{error}\n\n{command.usage(name)}") from error
    finally:
        sys.argv = saved
    missing = [
        flag
        for flag, (default, _) in command.flags.items()
        if default is REQUIRED and values[flag].value is None
    ]
    if command.config and values.config is None:
        missing.insert(0, "config")
    if missing or unparsed:
        problem = f"missing --{', --'.join(missing)}" if missing else f"unexpected {unparsed}"
        raise InputError(f"{problem}\n\n{command.usage(name)}")
    return values


def _with_underscores(argument: str) -> str:
    """Returns `--as_of=...` for `--as-of=...`; fields of a config are as they are written."""
    name, sign, value = argument.partition("=")
    if not name.startswith("--") or "." in name:
        return argument
    return "--" + name[2:].replace("-", "_") + sign + value


def _fail(message: str, status: int = 2) -> int:
    print(f"interactrank: {message}", file=sys.stderr)
    return status


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main(sys.argv[1:]))
