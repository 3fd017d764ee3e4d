"""Day numbers: days since 1970-01-01 in UTC, as dates, as expressions, and in runs."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from interactrank_jax.io.errors import InputError

if TYPE_CHECKING:
    import ibis.expr.types as ir

SECONDS_PER_DAY = 86_400


def day(seconds: ir.IntegerValue) -> ir.IntegerValue:
    """Returns the UTC day number of times in seconds, as int32."""
    return (seconds // SECONDS_PER_DAY).cast("int32")


def day_number(text: str) -> int:
    """Returns the day number of a date such as '2024-05-31'.

    Raises:
      InputError: something else.
    """
    try:
        return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days
    except ValueError as error:
        raise InputError(f"'{text}' is no date. Expected one such as 2024-05-31.") from error


def date(number: int) -> str:
    """Returns the date of a day number, such as '2024-05-31'."""
    return str(np.datetime64(int(number), "D"))


def runs_of_days(days: Iterable[int], rows: Iterable[float], at_once: int) -> list[tuple[int, int]]:
    """Returns first and last day of runs of at most so many rows; a day is never cut.

    Args:
      days: ascending.
      rows: of each day.
      at_once: rows in a run, unless one day alone has more.
    """
    runs: list[tuple[int, int]] = []
    total = 0.0
    for number, size in zip(days, rows, strict=True):
        if runs and total + size <= at_once:
            runs[-1], total = (runs[-1][0], number), total + size
        else:
            runs.append((number, number))
            total = size
    return runs
