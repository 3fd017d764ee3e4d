"""Types and ranges of config fields: each knows how to describe itself and what fits it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from interactrank_jax.io.errors import did_you_mean


class Kind(Protocol):
    """What a field may hold; `str(kind)` says so, as in 'Expected {kind}'."""

    def fits(self, value: Any) -> bool:
        """Returns whether a value is one of these."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_)


def _shown(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number from `least` to `most`; 0 or None where `zero` or `none` says its meaning."""

    least: int
    most: int
    zero: str = ""
    none: str = ""

    def fits(self, value: Any) -> bool:
        """Returns whether it is such a number."""
        if value is None:
            return bool(self.none)
        is_special = bool(self.zero) and value == 0
        return _is_whole(value) and (is_special or self.least <= value <= self.most)

    def __str__(self) -> str:
        special = f", or 0 ({self.zero})" if self.zero else ""
        special += f", or None ({self.none})" if self.none else ""
        return f"a whole number from {_shown(self.least)} to {_shown(self.most)}{special}"


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number from `least` to `most`; with `above` not `least`, with `below` not `most`."""

    least: float
    most: float
    above: bool = False
    below: bool = False

    def fits(self, value: Any) -> bool:
        """Returns whether it is such a number; NaN never is."""
        is_real = isinstance(value, float | np.floating) and math.isfinite(value)
        if not is_real and not _is_whole(value):
            return False
        above = value > self.least if self.above else value >= self.least
        return above and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        start = f"above {_shown(self.least)}" if self.above else f"from {_shown(self.least)}"
        end = f"below {_shown(self.most)}" if self.below else f"at most {_shown(self.most)}"
        if not self.above and not self.below:
            return f"a number {start} to {_shown(self.most)}"
        return f"a number {start} and {end}"


@dataclasses.dataclass(frozen=True)
class Switch:
    """True or False."""

    def fits(self, value: Any) -> bool:
        """Returns whether it is a boolean."""
        return isinstance(value, bool | np.bool_)

    def __str__(self) -> str:
        return "True or False"


@dataclasses.dataclass(frozen=True)
class Text:
    """A string; `empty` says what the empty one stands for."""

    what: str = "a name"
    empty: str = ""

    def fits(self, value: Any) -> bool:
        """Returns whether it is a string, not empty unless that stands for something."""
        return isinstance(value, str) and bool(value or self.empty)

    def __str__(self) -> str:
        return f"{self.what}, or '' ({self.empty})" if self.empty else self.what


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some strings."""

    options: tuple[str, ...]

    def fits(self, value: Any) -> bool:
        """Returns whether it is one of them."""
        return isinstance(value, str) and value in self.options

    def __str__(self) -> str:
        return "one of " + ", ".join(f"'{option}'" for option in self.options)


@dataclasses.dataclass(frozen=True)
class Many:
    """A tuple of `least` to `most` values of one kind, each once where they are `distinct`."""

    of: Kind
    least: int = 0
    most: int = 1000
    distinct: bool = False

    def fits(self, value: Any) -> bool:
        """Returns whether it is such a tuple, or the list that JSON makes of one."""
        if not isinstance(value, tuple | list) or not self.least <= len(value) <= self.most:
            return False
        if not all(self.of.fits(entry) for entry in value):
            return False
        return not self.distinct or len(set(value)) == len(value)

    def __str__(self) -> str:
        if self.least == self.most:
            count = f"exactly {self.least} values"
        else:
            count = f"{self.least} to {self.most:,} values"
        distinct = ", no two alike" if self.distinct else ""
        return f"a tuple of {count}, each {self.of}{distinct}"


@dataclasses.dataclass(frozen=True)
class Record:
    """A tuple of one value per kind."""

    kinds: Sequence[Kind]

    def fits(self, value: Any) -> bool:
        """Returns whether it is such a tuple, or the list that JSON makes of one."""
        if not isinstance(value, tuple | list) or len(value) != len(self.kinds):
            return False
        return all(kind.fits(entry) for kind, entry in zip(self.kinds, value, strict=True))

    def __str__(self) -> str:
        return "(" + ", ".join(str(kind) for kind in self.kinds) + ")"


def hint(kind: Kind, value: Any) -> str:
    """Returns ` Did you mean 'x'?` for a string that is none of the options, else ''."""
    entries = value if isinstance(kind, Many) and isinstance(value, tuple | list) else [value]
    options = kind.of if isinstance(kind, Many) else kind
    if isinstance(options, Choice):
        for entry in entries:
            if isinstance(entry, str) and entry not in options.options:
                return did_you_mean(entry, options.options)
    return ""
