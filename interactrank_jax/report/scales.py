"""From values to places in a chart, and the round values that an axis is marked with."""

import dataclasses
import math
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Scale:
    """A linear scale.

    Attributes:
      low, high: of the values, low < high.
      start, end: where they are, in pixels.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Returns where a value is; one outside lies on the edge."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Returns round values in the scale's range, ascending: three to six, at equal steps."""
        power = 10.0 ** math.floor(math.log10(self.high - self.low))
        for step in (5 * power, 2.5 * power, 2 * power, power, power / 2, power / 4, power / 10):
            slack = 1e-9 * step
            first = math.ceil((self.low - slack) / step)
            last = math.floor((self.high + slack) / step)
            if last - first >= 2:
                break
        return [number * step for number in range(first, last + 1)]


def spanning(
    values: Iterable[float | None],
    start: float,
    end: float,
    include: Sequence[float] = (),
    margin: float = 0.05,
) -> Scale:
    """Returns a scale over values, and over those to include, with a margin at both ends.

    Args:
      values: None are left out.
      start, end: in pixels.
      include: such as 0.
      margin: as a share of the range.
    """
    given = [*(value for value in values if value is not None), *include]
    low, high = (min(given), max(given)) if given else (0.0, 1.0)
    if low == high:
        half = abs(low) / 10 or 0.5
        low, high = low - half, high + half
    room = margin * (high - low)
    return Scale(low - room, high + room, start, end)


def mark(value: float, step: float) -> str:
    """Returns a tick's text, with the decimals that tell it from its neighbours.

    Thousands and millions are `k` and `M`.
    """
    if abs(value) < step / 1e6:
        return "0"
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if step >= unit / 100 and abs(value) >= unit:
            return f"{_decimal(value / unit, step / unit)}{suffix}"
    return _decimal(value, step)


def _decimal(value: float, step: float) -> str:
    decimals = 0
    while decimals < 12 and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1
    text = f"{value:.{decimals}f}"
    return text.replace("-", "−")
