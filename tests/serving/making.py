"""Small runs and their bundles, and tables of new requests, for whatever is to be ranked."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict

from interactrank_jax.examples.format import STATE
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.export.export import export
from interactrank_jax.training.train import train
from tests.log.handmade_log import DAY, START, data_config, make_tables, write_log
from tests.synthetic import tiny_config, without_blocks

BUNDLE_DAY = START + 29 * DAY  # the first second that the STATE of these examples lacks
ITEMS = 25


@dataclasses.dataclass(frozen=True)
class Made:
    """What stands on disk after a run was exported.

    Attributes:
      root: the directory of it all.
      log, examples, run, bundle: directories.
    """

    root: Path

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def examples(self) -> Path:
        return self.root / "examples"

    @property
    def state(self) -> Path:
        return self.examples / STATE

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    def export(self, name: str, **options: Any) -> Path:
        """Writes another bundle of the run."""
        export(self.run, self.state, self.root / name, **options)
        return self.root / name


def make_config(model: str = "interactrank", **data: Any) -> ConfigDict:
    """Returns a config for the handmade log, quick to compile."""
    config = tiny_config(model)
    config.data = data_config(block_size=16, **data)
    config.model.sequence.features = ("item_id", "brand")
    without_blocks(config)
    return config


def make_run(root: Path, config: ConfigDict, tables: dict[str, pa.Table]) -> Made:
    """Writes a log, prepares it and trains on it."""
    made = Made(root)
    write_log(made.log, tables)
    prepare(config.data, made.log, made.examples)
    train(config, made.examples, made.run)
    return made


def make_served(root: Path) -> Made:
    """Makes a run on the handmade log, and its bundle with vectors."""
    made = make_run(root, make_config(), make_tables(200))
    made.export("bundle", vectors="npy")
    return made


def requests(count: int = 3, seed: int = 0, **columns: Any) -> pa.Table:
    """Returns new requests `q0`, `q1`, ... of the bundle's day; a column that is None is absent.

    Their users and queries are of the log; where there are more, the rest is new.
    """
    rng = np.random.default_rng(seed)
    number = np.arange(count)
    values = {
        "request_id": [f"q{n}" for n in number],
        "user_id": [f"u{n % 14}" for n in number],
        "query_id": 100 + number % 7,
        "timestamp": BUNDLE_DAY + rng.integers(0, DAY, count),
        "country": [("de", "fr", "us", "xx")[n % 4] for n in number],
        "tenure": rng.normal(size=count),
        "query_text": [f"query number {n // 2 % 4}" for n in number],
        "hour": rng.integers(0, 24, count),
        "taste": pa.array(list(rng.normal(size=(count, 3))), pa.list_(pa.float64())),
    }
    values |= columns
    return pa.table({name: column for name, column in values.items() if column is not None})


def candidates(count: int = 3, size: int = 5, seed: int = 0) -> pa.Table:
    """Returns so many distinct items for each of `requests`."""
    rng = np.random.default_rng(seed)
    items = [rng.permutation(ITEMS)[:size] for _ in range(count)]
    return pa.table(
        {
            "request_id": [f"q{n}" for n in range(count) for _ in range(size)],
            "item_id": [f"i{item}" for chosen in items for item in chosen],
        }
    )


def events(count: int = 40, seed: int = 0, **columns: Any) -> pa.Table:
    """Returns what users did on the bundle's day; a column that is None is absent."""
    rng = np.random.default_rng(seed)
    happened = BUNDLE_DAY + rng.integers(0, DAY, count)
    values = {
        "event_id": [f"new{n}" for n in range(count)],
        "user_id": [f"u{n}" for n in rng.integers(0, 14, count)],
        "item_id": [f"i{n}" for n in rng.integers(0, ITEMS, count)],
        "action": rng.choice(["click", "save"], count).tolist(),
        "event_time": happened,
        "arrival_time": happened + rng.integers(0, 100, count),
    }
    values |= columns
    return pa.table({name: column for name, column in values.items() if column is not None})


def new_items(**columns: Any) -> pa.Table:
    """Returns two items that the log does not have; a column that is None is absent."""
    values = {
        "item_id": ["new1", "new2"],
        "title": ["Item red 90", "never said"],
        "price": [3.5, 100.0],
        "brand": ["b1", "unseen"],
    }
    values |= columns
    return pa.table({name: column for name, column in values.items() if column is not None})


def by_pair(table: pa.Table) -> dict[tuple[Any, Any], float]:
    """Returns scores by request and item."""
    columns = (table[name].to_pylist() for name in ("request_id", "item_id", "score"))
    return {(request, item): score for request, item, score in zip(*columns, strict=True)}


def assert_scores(table: pa.Table, expected: pa.Table, tolerance: float = 1e-5) -> None:
    """The rows are the same, and so are their scores."""
    scores, others = by_pair(table), by_pair(expected)
    assert set(scores) == set(others)
    assert len(scores) == len(table)
    for pair, score in scores.items():
        assert abs(score - others[pair]) <= tolerance * max(abs(others[pair]), 1), pair
