"""What the command lines of the runners share: numbers, and how an error or Ctrl-C ends them."""

import argparse
import sys
from collections.abc import Callable

from interactrank_jax.devices import allocator
from interactrank_jax.io.errors import InputError


def positive(text: str) -> float:
    """Parses a positive number."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def count(text: str) -> int:
    """Parses a number of things, at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def natural(text: str) -> int:
    """Parses a number of things, or none."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def share(text: str) -> float:
    """Parses a share, 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def exit_status(name: str, work: Callable[[], int]) -> int:
    """Returns what `work` returns; 2 after an InputError, 130 after Ctrl-C, each in one line.

    A runner that is the main program is started again with huge pages first, where they help.
    """
    allocator.restart_with_huge_pages()
    try:
        return work()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command goes on from there.", file=sys.stderr)
        return 130
