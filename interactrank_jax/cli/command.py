"""What a subcommand is, and what several of them share."""

import dataclasses
from collections.abc import Callable
from typing import Any

from interactrank_jax.io.errors import InputError
from interactrank_jax.io.printable import printable

REQUIRED = object()
# Flags that are paths, in which `~` is the user's home.
PATHS = frozenset(
    (
        *("log", "out", "examples", "workdir", "source", "extend", "index", "schema"),
        *("state", "encoder", "snapshot", "features", "training"),
        *("bundle", "requests", "events", "items", "json", "against", "root"),
        *("delete", "link", "ab"),
    )
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
      run: takes the parsed flags.
      summary: one line.
      example: a whole command line.
      flags: name -> (default, help); the default's type is the flag's, REQUIRED a string's.
      words: name and help of the paths that it takes, one or more, without a flag; None: it takes
        none.
      config: None, or whether `--config` must be given.
      config_help: when it is given, where it need not be.
      on_devices: whether it runs on jax's devices, which are then looked for before any work.
      registers: whether `--config` beside `--workdir`, or beside words, is for the run's model
        alone: the file is run, which registers it, and nothing else is taken from it.
    """

    run: Callable[[Any], None]
    summary: str
    example: str
    flags: dict[str, tuple[Any, str]]
    words: tuple[str, str] | None = None
    config: bool | None = None
    config_help: str = ""
    on_devices: bool = False
    registers: bool = False

    def usage(self, name: str) -> str:
        """Returns what the command expects, and an example."""
        lines = [f"interactrank {name}: {self.summary}", ""]
        if self.words is not None:
            lines.append(f"  {self.words[0].upper():<14} {self.words[1]}")
        if self.config is not None:
            override = "FILE[:ARGUMENT]; override a field: --config.a.b=..."
            what = f"{override} ({self.config_help})" if self.config_help else override
            lines.append(f"  --config       {self.config_help if self.registers else what}")
        for flag, (default, help_text) in self.flags.items():
            suffix = "" if default is REQUIRED or default == "" else f" (default {default})"
            lines.append(f"  --{flag:<12} {help_text}{suffix}")
        return "\n".join([*lines, "", f"Example: {self.example}"])


def show(title: str, figures: dict[str, Any]) -> None:
    """Prints what a command did."""
    print(title)
    for name, value in figures.items():
        print(printable(f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value}"))


REGISTERS = "a file of yours that registers the run's model; it is run as Python"
CONFIG = "--config=configs/interactrank.py"
LOG = (REQUIRED, "directory of the log")
EXAMPLES = (REQUIRED, "directory that `prepare` wrote")
WORKDIR = (REQUIRED, "run directory")


def check_registers_only(args: Any) -> None:
    """Refuses fields of a config beside a run."""
    for argument in args.config_arguments:
        raise InputError(
            f"{argument} beside a run, which keeps the config that it was trained with: leave it "
            f"out. Expected at most --config=FILE, the file that registers the run's model."
        )
