"""What the days of a closed loop come to: a row per arm, over worlds, their table and figure.

A day of an arm is an npz file: who searched `[R]`, the expected fulfilment `[R]` of what was shown,
how often each item was shown `[I]`, and how many of those rows were of new items.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import lifts
from experiments.worlds import Simulation
from interactrank_jax.io import outputs
from interactrank_jax.log.simulator.searches import expected_fulfilment
from interactrank_jax.log.simulator.world import DAY

NEW_DAYS = 14
MOST_SHOWN = 0.01  # of all items: what share of the rows is theirs
PART = 10  # days of a loop's beginning and end
SPANS = {"all": slice(None), "first": slice(None, PART), "last": slice(-PART, None)}

Days = list[dict[str, np.ndarray]]  # of an arm in one world


def write_day(
    file: Path, simulation: Simulation, day: int, item: np.ndarray, appeal: np.ndarray
) -> None:
    """Writes what was shown on a day.

    Args:
      file: to write.
      simulation: whose searches of the day were answered.
      day: of the log.
      item: `[R, C]` what was shown, best first.
      appeal: `[R, C]` the truth; minus infinity where nothing was shown.
    """
    requests, items = simulation.requests(day), simulation.world.items
    is_shown = np.isfinite(appeal)
    age = requests.time[:, None] - items.created[np.where(is_shown, item, 0)]
    with outputs.new_file(file) as partial, partial.open("wb") as opened:
        np.savez(
            opened,
            user=requests.user,
            fulfilment=expected_fulfilment(simulation.world.config, appeal),
            counts=np.bincount(item[is_shown], minlength=len(items.created)),
            new=(is_shown & (age < NEW_DAYS * DAY)).sum(),
        )


def read_days(directory: Path, days: range) -> Days:
    """Returns the days of an arm in one world."""
    result = []
    for day in days:
        with np.load(directory / f"{day}.npz", allow_pickle=False) as arrays:
            result.append(dict(arrays))
    return result


def summarise(worlds: Sequence[Mapping[str, Days]], others: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a row per arm: what it showed over all days, the first and the last ones.

    Args:
      worlds: of each, the days by arm; the arms of a world answered the same searches.
      others: arms that the rest are compared with, search by search.
    """
    return [_row(worlds, arm, others) for arm in worlds[0]]


def _row(worlds: Sequence[Mapping[str, Days]], arm: str, others: Sequence[str]) -> dict[str, Any]:
    fulfilment: dict[str, float] = {}
    comparisons: dict[str, dict[str, Any]] = {}
    for span, part in SPANS.items():
        fulfilment[span] = float(np.mean([_values(w[arm], part).mean() for w in worlds]))
        for other in others:
            triples = [
                (_values(w[arm], part, "user"), _values(w[arm], part), _values(w[other], part))
                for w in worlds
            ]
            comparisons.setdefault(other, {})[span] = lifts.relative_lift(triples)
    counts = [np.sum([day["counts"] for day in world[arm]], axis=0) for world in worlds]
    most = max(1, round(MOST_SHOWN * len(counts[0])))
    new = np.array([sum(int(day["new"]) for day in world[arm]) for world in worlds])
    return {
        "arm": arm,
        "fulfilment": fulfilment,
        "lifts": comparisons,
        "new": float(np.mean(new / np.sum(counts, axis=1))),
        "items": float(np.mean([(count > 0).sum() for count in counts])),
        "most_shown": float(np.mean([np.sort(c)[::-1][:most].sum() / c.sum() for c in counts])),
        "by_day": np.mean(
            [[day["fulfilment"].mean() for day in world[arm]] for world in worlds], axis=0
        ).tolist(),
    }


def _values(days: Days, part: slice, name: str = "fulfilment") -> np.ndarray:
    return np.concatenate([day[name] for day in days[part]])


def table(content: Mapping[str, Any]) -> str:
    """Returns Markdown: an arm a row."""
    part = min(PART, content["days"])
    others = list(content["rows"][0]["lifts"])
    header = ["arm", "fulfilment"]
    for other in others:
        header += [f"over {other}", f"days 1 to {part}", f"last {part}"]
    header += ["rows of new items", "items shown", f"rows of the most shown {MOST_SHOWN:.0%}"]
    lines = [
        f"{content['searches']:,} searches in {content['days']} days, after "
        f"{content['days_before']} of the policy alone, in {content['worlds']} "
        f"world{'s' if content['worlds'] > 1 else ''}. Fulfilment is expected; lifts are relative, "
        f"search by search, with 95% intervals over worlds and users.",
        "",
        "| " + " | ".join(header) + " |",
        "|---" * len(header) + "|",
    ]
    for row in content["rows"]:
        cells = [row["arm"], f"{row['fulfilment']['all']:.4f}"]
        for other in others:
            for mean, low, high in row["lifts"][other].values():
                is_itself = other == row["arm"]
                cells.append("" if is_itself else f"{mean:+.1%} [{low:+.1%}, {high:+.1%}]")
        cells += [f"{row['new']:.1%}", f"{row['items']:,.0f}", f"{row['most_shown']:.1%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(content: Mapping[str, Any], directory: Path) -> list[Path]:
    """Saves the figure: fulfilment by day, an arm a curve; returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for row in content["rows"]:
        axes.plot(range(1, content["days"] + 1), row["by_day"], label=row["arm"])
    axes.set(xlabel="day", ylabel="expected fulfilment", title="Arms that learn from their slates")
    figure.legend(loc="outside right center")
    path = directory / "closed_loop.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return [path]
