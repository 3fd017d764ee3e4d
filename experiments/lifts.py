"""What an online test says of two arms: lifts with intervals, and the searches that it takes."""

import dataclasses
import functools
import math
import statistics
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

REPLICATES = 1_000
POWER, LEVEL = 0.8416, 1.96  # normal quantiles of 80%, and of 5% on two sides
Values = Mapping[str, np.ndarray]  # `[R]` of each arm


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one world's searches.

    Attributes:
      user: `[R]` who searched.
      expected: expected fulfilment of the arms, by cut.
      survival: shares of the full ranker's and of the oracle's best ten that an arm keeps, by cut.
      drawn: whether searches were fulfilled as drawn, at the headline's cut.
      pool: mean number of candidates.
    """

    user: np.ndarray
    expected: Mapping[str, Values]
    survival: Mapping[str, Mapping[str, tuple[float, float]]]
    drawn: Values
    pool: float

    def to_json(self) -> dict[str, Any]:
        """Returns it as a file keeps it."""
        content = dataclasses.asdict(self)
        content["user"] = self.user.tolist()
        content["expected"] = {cut: _lists(of_arms) for cut, of_arms in self.expected.items()}
        content["drawn"] = _lists(self.drawn)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Outcome":
        """Returns what `to_json` wrote."""
        expected = {cut: _arrays(of_arms) for cut, of_arms in content["expected"].items()}
        arrays = {"user": np.array(content["user"]), "drawn": _arrays(content["drawn"])}
        return cls(**{**content, **arrays, "expected": expected})


def _lists(values: Values) -> dict[str, list[Any]]:
    return {arm: array.tolist() for arm, array in values.items()}


def _arrays(values: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    return {arm: np.array(of_arm) for arm, of_arm in values.items()}


def lift(
    outcomes: Sequence[Outcome], arm: str, other: str, cut: str, seed: int = 0
) -> tuple[float, float, float]:
    """Returns by how much more an arm fulfils than another at a cut, see `relative_lift`."""
    worlds = [(o.user, o.expected[cut][arm], o.expected[cut][other]) for o in outcomes]
    return relative_lift(worlds, seed)


def relative_lift(
    worlds: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], seed: int = 0
) -> tuple[float, float, float]:
    """Returns the relative lift of an arm over another: the mean over worlds, and its interval.

    Resamples worlds, and in each its users anew, the same for both arms.

    Args:
      worlds: of each who searched `[R]`, and what the arm and the other are worth `[R]`.
      seed: of the draws.
    """
    numbers = range(len(worlds))
    # Of each world as many draws of users as worlds are drawn, so that none is taken twice.
    replicates = np.stack(
        [
            [_resampled((seed, draw, number), *worlds[number]) for number in numbers]
            for draw in numbers
        ]
    )
    rng = np.random.default_rng(seed)
    drawn_worlds = rng.integers(len(worlds), size=(len(worlds), REPLICATES))
    drawn = np.take_along_axis(replicates, drawn_worlds[:, None], 1)[:, 0].mean(0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    means = [values.mean() / others.mean() - 1 for _, values, others in worlds]
    return statistics.fmean(means), float(low), float(high)


def _resampled(
    seed: tuple[int, ...], user: np.ndarray, values: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Returns the relative lift of `REPLICATES` draws of users."""
    users, code = np.unique(user, return_inverse=True)
    sums = [np.bincount(code, of_arm, len(users)) for of_arm in (values, others)]
    arm, other = (_drawn_users(len(users), seed) @ np.stack(sums, 1)).T
    return np.asarray(arm / other - 1)


@functools.lru_cache(maxsize=100)  # of ten worlds
def _drawn_users(users: int, seed: tuple[int, ...]) -> np.ndarray:
    """Returns how often each user is drawn, `[REPLICATES, users]`: the same for all arms."""
    weights = np.full(users, 1 / users)
    drawn = np.random.default_rng(seed).multinomial(users, weights, REPLICATES)
    return drawn.astype(np.uint16)


def split_test(
    outcomes: Sequence[Outcome], arm: str, other: str, salt: str
) -> tuple[float, float, float]:
    """Returns the lift of drawn fulfilment where each user is hashed to one of two arms.

    That of an arm over itself is an A/A test. The interval is the normal one of a ratio of means
    over users (delta method), pooled over worlds.
    """
    sums: tuple[list[float], list[float]] = ([], [])
    sizes: tuple[list[int], list[int]] = ([], [])
    for number, outcome in enumerate(outcomes):
        for user in np.unique(outcome.user):
            side = zlib.crc32(f"{salt}/{number}/{user}".encode()) % 2
            rows = outcome.user == user
            sums[side].append(outcome.drawn[(arm, other)[side]][rows].sum())
            sizes[side].append(rows.sum())
    means, variances = [], []
    for total, size in zip(sums, sizes, strict=True):
        value, weight = np.array(total, float), np.array(size, float)
        means.append(value.sum() / weight.sum())
        residual = value - means[-1] * weight
        variances.append(len(value) * residual.var(ddof=1) / weight.sum() ** 2)
    ratio = means[0] / means[1]
    deviation = ratio * math.sqrt(sum(v / m**2 for v, m in zip(variances, means, strict=True)))
    return ratio - 1, ratio - 1 - LEVEL * deviation, ratio - 1 + LEVEL * deviation


def searches_needed(rate: float, relative: float) -> int:
    """Returns the searches per arm that find a relative lift with a power of 80% at 5%.

    If each were another user's; more where users search several times.
    """
    other = rate * (1 + relative)
    variance = rate * (1 - rate) + other * (1 - other)
    return math.ceil((POWER + LEVEL) ** 2 * variance / (other - rate) ** 2)
