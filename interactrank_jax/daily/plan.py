"""What a day of the daily loop is decided upon before any work, so that a rerun does the same."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interactrank_jax.daily.root import Root
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.state.days import date, day_number

SMALLEST_WINDOW = 2  # days: the newest, and one to compare its features with


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a model must keep to be published.

    Attributes:
      fall: most that the metric of `config.train.select_by` may be worse than the published model's
        on the same held-out requests.
      psi, null_rate, staleness: of features, see `state.report.Bounds`.
    """

    fall: float
    psi: float
    null_rate: float
    staleness: int


@dataclasses.dataclass(frozen=True)
class Windows:
    """How many days of requests a model is trained on, the newest included.

    Attributes:
      days: of a model that goes on from the published one.
      first_days: of one that is trained from scratch; 0: all days of the log.

    Raises:
      InputError: too few.
    """

    days: int
    first_days: int = 0

    def __post_init__(self):
        for flag, value in (("window", self.days), ("first_window", self.first_days)):
            if value < SMALLEST_WINDOW and not (flag == "first_window" and value == 0):
                raise InputError(f"--{flag}={value}. Expected at least {SMALLEST_WINDOW} days.")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A day, decided.

    Attributes:
      day: date of the newest day, such as '2024-05-31'.
      since: date of the first day that the model is trained on.
      base: date of the version that was published when the day began, '' if none was: its model is
        evaluated on the new day, is gone on from, and is what the new one is compared with.
      compared_since: date of the first of the days before `day` whose features its features are
        compared with; '' where there are none.
      bounds: see `Bounds`.
      config: the whole config, as JSON has it.
    """

    day: str
    since: str
    base: str
    compared_since: str
    bounds: Bounds
    config: Mapping[str, Any]

    @property
    def eve(self) -> str:
        """The date of the day before `day`."""
        return date(day_number(self.day) - 1)

    @property
    def next_day(self) -> str:
        """The date of the day that the model will serve."""
        return date(day_number(self.day) + 1)

    def write(self, path: files.PathLike) -> None:
        """Writes the plan, whole or not at all."""
        files.write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: files.PathLike) -> "Plan":
        """Reads a plan.

        Raises:
          InputError: the file is not one.
        """
        value = files.read_json(path)
        try:
            return cls(**{**value, "bounds": Bounds(**value["bounds"])})
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no plan of a day ({error}): remove its directory and run the day again."
            ) from error


def choose_day(days: np.ndarray, asked: str, today: int) -> str:
    """Returns the date to run.

    Args:
      days: numbers of the days with requests, ascending.
      asked: the date that was named, '' for the newest day that is complete: the log has requests
        of a later one.
      today: number of the day that it is, in UTC.

    Raises:
      InputError: the day is not over, or the log has no request of it; or no day is complete.
    """
    if not len(days):
        raise InputError("the log has no request. Expected some: add a day.")
    has = f"the log has requests of {date(days[0])} to {date(days[-1])}"
    if not asked:
        complete = days[(days < days[-1]) & (days < today)]
        if not len(complete):
            raise InputError(
                f"{has}, so that no day is known to be complete. Add a later day; or, if that day "
                f"is over, name it by --day."
            )
        return date(complete[-1])
    number = day_number(asked)
    if number >= today:
        raise InputError(
            f"--day={asked} is not over: it is {date(today)} in UTC. Name a day that is complete."
        )
    if number not in days:
        raise InputError(f"--day={asked}: {has}, but none of that day. Name another day.")
    return date(number)


def make_plan(
    root: Root,
    day: str,
    days: Sequence[int],
    windows: Windows,
    bounds: Bounds,
    config: Mapping[str, Any],
) -> Plan:
    """Decides upon a day that was not begun yet.

    The window reaches back to the published version's day at least: its held-out requests, and
    those of days that were missed or refused since, are trained on now.
    """
    number, first, base = day_number(day), int(days[0]), root.published()
    if base:
        since = min(number - windows.days + 1, day_number(base))
    else:
        since = number - windows.first_days + 1 if windows.first_days else first
    compared = [number - windows.days < before < number for before in days]
    return Plan(
        day=day,
        since=date(max(since, first)),
        base=base,
        compared_since=date(days[compared.index(True)]) if any(compared) else "",
        bounds=bounds,
        config=config,
    )
