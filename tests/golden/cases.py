"""The logs and configs whose examples are recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.config import models
from interactrank_jax.log.adapters.movielens import convert
from interactrank_jax.log.simulator.simulate import simulate
from tests.conftest import SHARED_DATA
from tests.log import handmade_log

MOVIELENS = SHARED_DATA / "ml-100k"

# Everything that can be switched on for a log with time.
EVERYTHING = {
    "cross.features": (
        "share:click:1",
        "share:click:30:country",
        "share:save:400",
        "item_share:save:9",
        "rate:click:14",
        "item_rate:save:30:fresh",
        "share:impression:5",
    ),
    "cross.lag_days": 2,
    "cross.backoff.strength": 3.0,
    "cross.backoff.query_form": "query_text",
    "cross.user_day_cap": 3,
    "cross.fresh_days": 9,
    "history.rates": ("click", "save"),
}
BY_POSITION = {"cross.debias.name": "position", "cross.debias.position_weights": (1.0, 0.7, 0.5)}
BY_PROPENSITY = {"cross.debias.name": "propensity", "cross.debias.smallest_propensity": 0.2}
# Of those, what a random split allows.
OUT_OF_FOLD = {
    "cross.features": ("share:click:30:country", "item_share:save:9", "rate:click:14"),
    "cross.backoff.strength": 3.0,
    "cross.backoff.query_form": "query_text",
    "history.rates": ("click", "save"),
}


def _handmade(
    path: Path, events: bool = True, timeless: bool = False, in_order: bool = False
) -> Path:
    """Writes the handmade log with item ids whose order is that of the rows.

    With `in_order` requests lie in the order of their ids: by rows a random split went before.
    """
    tables = handmade_log.make_tables(events=events, timeless=timeless)
    if in_order:
        tables["requests"] = tables["requests"].sort_by("request_id")
    for name, table in tables.items():
        if "item_id" in table.column_names:
            padded = pa.array([f"i{int(item[1:]):03d}" for item in table["item_id"].to_pylist()])
            tables[name] = handmade_log.replace(table, "item_id", padded)
    return handmade_log.write_log(path, tables)


def _simulated(preset: str, path: Path) -> Path:
    simulate(preset, 0, path)
    return path


def _movielens(path: Path, in_order: bool = False) -> Path:
    convert(MOVIELENS, path)
    if in_order:
        requests = pq.read_table(path / "requests.parquet").sort_by("request_id")
        pq.write_table(requests, path / "requests.parquet")
    return path


def _timed(*options: dict[str, Any]) -> Any:
    config = handmade_log.data_config()
    for fields in options:
        config.update_from_flattened_dict(fields)
    return config


def _searched() -> Any:
    return models.interactrank("search").data


Case = tuple[Callable[[Path], Path], Callable[[], Any]]
CASES: dict[str, Case] = {
    "tiny": (lambda path: _simulated("tiny", path), _searched),
    "small": (lambda path: _simulated("small", path), _searched),
    "everything, by position": (_handmade, lambda: _timed(EVERYTHING, BY_POSITION)),
    "everything, by propensity": (_handmade, lambda: _timed(EVERYTHING, BY_PROPENSITY)),
    "without events": (
        lambda path: _handmade(path, events=False),
        lambda: _timed(EVERYTHING, BY_POSITION),
    ),
    "timeless": (
        lambda path: _handmade(path, timeless=True, in_order=True),
        lambda: handmade_log.random_config(**OUT_OF_FOLD),
    ),
    "with time, split at random": (
        lambda path: _handmade(path, events=False, in_order=True),
        lambda: handmade_log.random_config(**OUT_OF_FOLD),
    ),
    "published": (
        lambda path: _handmade(path, events=False, in_order=True),
        lambda: handmade_log.published_config(),
    ),
}
if MOVIELENS.is_dir():
    CASES |= {
        "movielens_100k": (_movielens, lambda: models.interactrank("movielens_100k").data),
        "movielens_100k_random": (
            lambda path: _movielens(path, in_order=True),
            lambda: models.interactrank("movielens_100k_random").data,
        ),
    }
REAL = ("movielens_100k", "movielens_100k_random")
SLOW = ("small", *REAL)
# Of simulated logs: numpy's float32 exponentials differ in their last bit between CPUs.
ROUNDED = {"tiny": "/propensity", "small": "/propensity"}


def has_moved(name: str, key: str, recorded: list, values: list) -> bool:
    """Returns whether a column, `[digest, value, ...]`, is not what was recorded."""
    if key.endswith(ROUNDED.get(name, "/")):
        return not is_close(recorded, values)
    return recorded[0] != values[0]


def is_close(recorded: list, values: list) -> bool:
    """Returns whether the readable values of a column agree, whose digest comes first."""
    return len(recorded) == len(values) and all(
        a == b or (isinstance(a, float) and np.isclose(a, b, equal_nan=True))
        for a, b in zip(recorded[1:], values[1:], strict=True)
    )
