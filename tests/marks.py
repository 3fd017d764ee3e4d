"""Which cases of a parametrized test `make test` runs; `make thorough` runs the others."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def some_quick(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Returns the cases; those that are not among the quick ones are marked as thorough.

    Args:
      cases: a value for each, or a tuple of the values of several arguments.
      quick: those that are not marked.
    """
    return [
        case
        if case in quick
        else pytest.param(
            *(case if isinstance(case, tuple) else [case]), marks=pytest.mark.thorough
        )
        for case in cases
    ]
