"""What a subcommand is, and what several of them share."""

import dataclasses
from collections.abc import Callable
from typing import Any

from interactrank_jax.printable import printable

REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
      run: takes the parsed flags.
      summary: one line.
      example: a whole command line.
      flags: name -> (default, help); the default's type is the flag's, REQUIRED a string's.
      config: None, or whether `--config` must be given. Where it need not be, it is for a run whose
        model a file of the user's registers: the file is run.
    """

    run: Callable[[Any], None]
    summary: str
    example: str
    flags: dict[str, tuple[Any, str]]
    config: bool | None = None

    def usage(self, name: str) -> str:
        """Returns what the command expects, and an example."""
        lines = [f"interactrank {name}: {self.summary}", ""]
        if self.config is not None:
            what = "" if self.config else " (optional)"
            lines.append(
                f"  --config       FILE[:ARGUMENT]; override a field: --config.a.b=...{what}"
            )
        for flag, (default, help_text) in self.flags.items():
            suffix = "" if default is REQUIRED or default == "" else f" (default {default})"
            lines.append(f"  --{flag:<12} {help_text}{suffix}")
        return "\n".join([*lines, "", f"Example: {self.example}"])


def show(title: str, figures: dict[str, Any]) -> None:
    """Prints what a command did."""
    print(title)
    for name, value in figures.items():
        print(printable(f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value}"))


CONFIG = "--config=configs/interactrank.py"
LOG = (REQUIRED, "directory of the log")
