"""The command line: from words and flags to a command of `cli/commands.py`, and its exit status."""

import argparse
import contextlib
import logging
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from interactrank_jax.cli.command import PATHS, REQUIRED, Command
from interactrank_jax.cli.commands import COMMANDS
from interactrank_jax.config import configuration, fields
from interactrank_jax.devices import cuda
from interactrank_jax.io import interrupts, outputs
from interactrank_jax.io.errors import InputError, did_you_mean

BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it


def main(argv: Sequence[str]) -> int:
    """Runs `interactrank ARGV...`; returns the exit status."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = [f"  {name:<13} {command.summary}" for name, command in COMMANDS.items()]
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
    with interrupts.handled():
        try:
            values = parse(command, name, rest)
            if command.on_devices:
                with interrupts.deferred():  # jax, interrupted while it starts, crashes at the end
                    from interactrank_jax.devices.parallel import all_devices

                    all_devices()
            command.run(values)
        except InputError as error:
            number = interrupts.requested()
            return _fail(str(error)) if number is None else _interrupted("", 128 + number)
        except FloatingPointError as error:
            return _fail(str(error), status=3)
        except interrupts.Interrupted as error:
            return _interrupted(str(error), error.status)
        except KeyboardInterrupt:
            return _interrupted("", 130)
        except BrokenPipeError:
            return BROKEN_PIPE  # whoever read the output has seen enough
        except Exception as error:
            number = interrupts.requested()
            if number is not None:  # libraries turn the interruption into errors of their own
                return _interrupted("", 128 + number)
            if _is_out_of_memory(error):
                return _fail(
                    "out of memory. Lower the sizes that the config sets, such as "
                    "config.model.embedding_dim, config.model.tower.hidden, "
                    "config.data.text.buckets or config.train.batch_size."
                )
            problem = outputs.write_problem(error)
            if problem is None:
                raise
            return _fail(f"could not write everything: {problem}.")
    return 0


def split_command(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the command, of one word or two, and what follows it."""
    words = 2 if " ".join(argv[:2]) in COMMANDS else 1
    return " ".join(argv[:words]), list(argv[words:])


def parse(command: Command, name: str, argv: Sequence[str]) -> argparse.Namespace:
    """Returns the values of a command's flags; `~` is expanded in those that are paths.

    Of a command that takes a config also `config`, the checked config or None; `config_file`, as
    `--config` named it; `overrides`, the fields that `--config.FIELD=VALUE` set; and
    `config_arguments`, those arguments.

    Raises:
      InputError: a flag that is unknown, missing, repeated or of another type, or a config that
        does not hold.
    """
    config_arguments, rest = _split_config([_with_underscores(argument) for argument in argv])
    parser = _parser(command, name)
    values, unknown = (
        parser.parse_known_intermixed_args if command.words else parser.parse_known_args
    )(rest)
    if unknown:
        flag = unknown[0].partition("=")[0].removeprefix("--")
        hint = did_you_mean(flag, command.flags) if unknown[0].startswith("--") else ""
        raise InputError(f"unexpected '{unknown[0]}'.{hint}\n\n{command.usage(name)}")
    if command.config is not None:
        values.config_arguments, values.overrides = config_arguments, {}
        is_of_runs = command.registers and (command.words or values.workdir)
        if values.config and is_of_runs:
            configuration.run(values.config)
        elif values.config:
            values.config_file = values.config
            values.config = configuration.load(values.config)
            values.overrides = configuration.override(values.config, config_arguments)
            fields.check(values.config, parts=())  # the station asks for those that it needs
    elif config_arguments:
        raise InputError(f"{name} takes no {config_arguments[0]}.\n\n{command.usage(name)}")
    sets_fields = config_arguments and not command.registers
    missing = ["--config"] if (command.config or sets_fields) and not values.config else []
    missing += [
        f"--{flag}"
        for flag, (default, _) in command.flags.items()
        if default is REQUIRED and not getattr(values, flag)
    ]
    if command.words is not None and not getattr(values, command.words[0]):
        missing.append(command.words[0].upper())
    if missing:
        raise InputError(f"missing {', '.join(missing)}\n\n{command.usage(name)}")
    if command.words is not None:
        word = command.words[0]
        paths = [outputs.from_user(path, word) for path in getattr(values, word)]
        setattr(values, word, paths)
    for flag in PATHS.intersection(command.flags):
        setattr(values, flag, outputs.from_user(getattr(values, flag), f"--{flag}"))
    return values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\n\n{self.usage}")


class _Once(argparse.Action):
    """Stores a value; a flag that comes twice is an error rather than half ignored."""

    def __call__(self, parser, namespace, values, option_string=None):
        given = namespace.__dict__.setdefault("_given", set())
        if self.dest in given:
            parser.error(f"{option_string} is given twice")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def _parser(command: Command, name: str) -> _Parser:
    parser = _Parser(usage=command.usage(name), add_help=False, allow_abbrev=False)
    if command.config is not None:
        parser.add_argument("--config", action=_Once, default="")
    if command.words is not None:
        parser.add_argument(command.words[0], nargs="*")
    for flag, (default, _) in command.flags.items():
        is_text = default is REQUIRED or isinstance(default, str)
        parser.add_argument(
            f"--{flag}",
            action=_Once,
            type=str if is_text else _finite if isinstance(default, float) else int,
            default="" if default is REQUIRED else default,
        )
    return parser


def _finite(text: str) -> float:
    """Returns a number; NaN would pass every bound."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _split_config(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits off `--config.FIELD=VALUE`, also with a space for the equals sign."""
    overrides, rest = [], []
    queue = list(argv)
    while queue:
        argument = queue.pop(0)
        if not re.match(r"--(no)?config\.", argument):
            rest.append(argument)
            continue
        if "=" not in argument and queue and not queue[0].startswith("--"):
            argument = f"{argument}={queue.pop(0)}"
        overrides.append(argument)
    return overrides, rest


def _with_underscores(argument: str) -> str:
    """Returns `--as_of=...` for `--as-of=...`; fields of a config are as they are written."""
    name, sign, value = argument.partition("=")
    if not name.startswith("--") or "." in name:
        return argument
    return "--" + name[2:].replace("-", "_") + sign + value


def _is_out_of_memory(error: Exception) -> bool:
    """Returns whether the host or a device had no memory left; each library says so in its way."""
    words = ("RESOURCE_EXHAUSTED", "Out of Memory Error", "Out of memory", "malloc of size")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _interrupted(message: str, status: int) -> int:
    return _fail(message or "interrupted; nothing half-written was left.", status)


def _fail(message: str, status: int = 2) -> int:
    print(f"interactrank: {message}", file=sys.stderr)
    return status


def run() -> None:
    """Runs the command of this process, and ends the process with its status."""
    for stream in ("stdout", "stderr"):  # either may have been closed by whoever called
        if getattr(sys, stream) is None:
            setattr(sys, stream, Path(os.devnull).open("w"))  # noqa: SIM115
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        status = BROKEN_PIPE
    except OSError as error:
        problem = outputs.write_problem(error)
        if problem is None:
            raise
        status = _fail(f"could not write the output: {problem}.")  # what was printed
    if status:
        # Python flushes once more at its end, and would report the same problem again.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
