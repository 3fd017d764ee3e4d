"""Figures over seeds, and how every table writes them."""

import statistics
from collections.abc import Iterable, Sequence


def deviation(values: Sequence[float]) -> float | None:
    """Returns the standard deviation over seeds; None of a single one, which has none."""
    return statistics.stdev(values) if len(values) > 1 else None


def spread(mean: float | None, deviation: float | None, sign: str = "") -> str:
    """Returns '0.6920 ± 0.0028', without a deviation '0.6920'.

    Args:
      mean: over seeds; None where it is undefined, which gives ''.
      deviation: over seeds; None where there is one seed.
      sign: '+' writes the sign of a positive mean too.
    """
    if mean is None:
        return ""
    return f"{mean:{sign}.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def difference(bounds: Sequence[float] | None) -> str:
    """Returns '+0.0100 [+0.0050, +0.0150]' of a difference and its interval; '' of None."""
    if bounds is None:
        return ""
    value, low, high = bounds
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def number(value: float | None, form: str = ",.0f") -> str:
    """Returns a number in a form of `format`; '' of None."""
    return "" if value is None else format(value, form)


def row(texts: Iterable[str]) -> str:
    """Returns a row of a Markdown table; a text may hold a '|', such as an error message does."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def header(columns: Sequence[str]) -> list[str]:
    """Returns the first two lines of a Markdown table."""
    return [row(columns), "|---" * len(columns) + "|"]
