"""Tiny files in the Open Bandit Dataset's schema, as pandas writes them: row numbers first."""

import csv
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ITEMS = 4
HEADER = (
    *("", "timestamp", "item_id", "position", "click", "propensity_score"),
    *(f"user_feature_{k}" for k in range(4)),
    *(f"user-item_affinity_{k}" for k in range(ITEMS)),
)
FIRST = datetime.datetime(2019, 11, 24, tzinfo=datetime.UTC)


def row(second: float, item: int, position: int = 1, click: int = 0, **values: Any) -> list[Any]:
    """Returns a row of the table; its number is left to `write`."""
    time = FIRST + datetime.timedelta(seconds=second)
    made = dict(zip(HEADER, [0] * len(HEADER), strict=True)) | {
        "timestamp": time.isoformat(sep=" "),
        "item_id": item,
        "position": position,
        "click": click,
        "propensity_score": 0.25,
    }
    made |= {f"user_feature_{k}": f"{k}a" for k in range(4)}
    made |= {f"user-item_affinity_{k}": float(k == item) for k in range(ITEMS)}
    return list((made | values).values())


def write(path: Path, rows: Sequence[Sequence[Any]], campaign: str = "all") -> Path:
    """Writes CAMPAIGN.csv and item_context.csv into a directory."""
    path.mkdir(parents=True)
    _write(path / f"{campaign}.csv", HEADER, [[k, *each[1:]] for k, each in enumerate(rows)])
    header = ("", "item_id", *(f"item_feature_{k}" for k in range(4)))
    items = [[k, k, -0.5 + k, f"x{k % 2}", "y", f"z{k}"] for k in range(ITEMS)]
    _write(path / "item_context.csv", header, items)
    return path


def _write(file: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(header)
        writer.writerows(rows)


def trainable(path: Path) -> Path:
    """Writes a week in which some items are clicked more than others, enough to train on."""
    rng = np.random.default_rng(0)
    rate = np.linspace(0.1, 0.7, ITEMS)
    rows = []
    for second in np.sort(rng.integers(7 * 86_400, size=1_500)).tolist():
        item = int(rng.integers(ITEMS))
        visitor = {"user_feature_0": f"v{rng.integers(5)}"}
        click = int(rng.random() < rate[item])
        rows.append(row(second, item, int(rng.integers(1, 4)), click, **visitor))
    return write(path, rows)
