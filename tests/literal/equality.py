"""When two values are the same: to the bit, but for sums in another order and for ties."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

CLOSE = 1e-6


class Close(float):
    """A number that need not be met to the bit."""

    def allows(self, value: float) -> bool:
        """Returns whether a value is close enough."""
        return math.isclose(self, value, rel_tol=CLOSE, abs_tol=CLOSE / 10)


class Tied:
    """A list, in groups within which any order will do, cut or padded to some length."""

    def __init__(self, groups: Sequence[Sequence[Any]], padding: Any):
        self.groups, self.padding = groups, padding

    def allows(self, values: Sequence[Any]) -> bool:
        """Returns whether a list is one of those: only its last group may be cut."""
        rest = list(values)
        for group in self.groups:
            part, rest = rest[: len(group)], rest[len(group) :]
            is_whole = len(part) == len(group)
            if Counter(part) - Counter(group) or (rest and not is_whole):
                return False
        return all(value == self.padding for value in rest)

    def __repr__(self) -> str:
        return f"groups {self.groups}"


def same(expected: Any, value: Any) -> bool:
    """Returns whether a value is what was expected; lists are looked into."""
    if isinstance(expected, Close | Tied):
        return expected.allows(value)
    if isinstance(expected, list):
        return len(expected) == len(value) and all(map(same, expected, value))
    return bool(expected == value)


def padding_like(value: Any) -> Any:
    """The value of the padding row, given that of another row."""
    if isinstance(value, list):
        return [0] * len(value)
    return "#0" if isinstance(value, str) else 0


def line(where: str, expected: Any, value: Any) -> str:
    """Returns how a difference is told."""
    return f"{where}: expected {expected}, is {value}"
