"""The command line: flags and dispatch, nothing else.

Its parts are imported when they are first used, so that `run` can start the process again before
anything large is imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

from interactrank_jax.devices import allocator

if TYPE_CHECKING:
    from interactrank_jax.cli.commands import COMMANDS
    from interactrank_jax.cli.entry import main, parse, split_command

__all__ = ["COMMANDS", "main", "parse", "run", "split_command"]


def run() -> None:
    """Entry point of the console script."""
    allocator.restart_with_huge_pages()
    from interactrank_jax.cli import entry

    entry.run()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "commands" if name == "COMMANDS" else "entry"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
