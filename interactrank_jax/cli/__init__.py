"""The command line: flags and dispatch, nothing else."""

from interactrank_jax.cli.commands import COMMANDS
from interactrank_jax.cli.entry import main, parse, run, split_command

__all__ = ["COMMANDS", "main", "parse", "run", "split_command"]
