"""Which cases of a parametrized test run where: `make test`, CI, or `make thorough`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def some_quick(
    cases: Iterable[Any], quick: Collection[Any], long: Collection[Any] = ()
) -> list[Any]:
    """Returns the cases, marked by where they run.

    Args:
      cases: a value for each, or a tuple of the values of several arguments.
      quick: those that `make test` runs, without a mark.
      long: of the others, those that CI runs too; the rest is marked as thorough.
    """
    marked = []
    for case in cases:
        if case in quick:
            marked.append(case)
            continue
        mark = pytest.mark.long if case in long else pytest.mark.thorough
        marked.append(pytest.param(*(case if isinstance(case, tuple) else [case]), marks=mark))
    return marked
