"""Small logs with every awkward thing in them, and the config to prepare them."""

from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.log.schema import FeatureSpec, Schema

DAY = 86_400
START = 19_000 * DAY  # midnight
ACTIONS = ("click", "save")
FEATURES = (
    FeatureSpec("country", "user", "categorical"),
    FeatureSpec("tenure", "user", "numeric"),
    FeatureSpec("query_text", "request", "text"),
    FeatureSpec("hour", "request", "numeric"),
    FeatureSpec("taste", "request", "embedding"),
    FeatureSpec("title", "item", "text"),
    FeatureSpec("price", "item", "numeric"),
    FeatureSpec("brand", "item", "categorical"),
)


def data_config(**overrides: Any) -> ml_collections.ConfigDict:
    """Returns `config.data` for these logs; keys of `overrides` are dotted paths."""
    config = ml_collections.ConfigDict(
        {
            "slate": 8,
            "block_size": 32,
            "seed": 0,
            "protocol": "clean_time",
            "split": {"fractions": (0.7, 0.15, 0.15)},
            "folds": 5,
            "history": {"length": 6, "actions": ACTIONS, "delay_s": 60, "rates": ("save",)},
            "query_history": {"length": 4, "actions": ACTIONS},
            "cross": {
                "features": ("share:click:7", "share:save:30:country"),
                "lag_days": 1,
                "prior": 5.0,
                "backoff": {"strength": 0.0, "query_form": ""},
                "user_day_cap": 0,
                "debias": {"name": "none", "smallest_propensity": 0.1, "position_weights": ()},
                "fresh_days": 0,
            },
            "vocabulary": {"min_count": 2, "out_of_vocabulary": 4},
            "text": {"buckets": 100, "max_tokens": 6, "ngram": 3},
        }
    )
    config.update_from_flattened_dict(overrides)
    return config


def random_config(**overrides: Any) -> ml_collections.ConfigDict:
    """Returns `config.data` for a random split."""
    return data_config(**{"protocol": "clean_random", **overrides})


def published_config(**overrides: Any) -> ml_collections.ConfigDict:
    """Returns `config.data` for the protocol that leaks."""
    nothing = {"history.actions": (), "query_history.actions": (), "cross.features": ()}
    return data_config(**{"protocol": "published", **nothing, **overrides})


def make_tables(
    requests: int = 200, events: bool = True, timeless: bool = False, seed: int = 0
) -> dict[str, pa.Table]:
    """Returns the tables of a log of 30 days: 12 users, 5 queries, 25 items.

    Some requests have more candidates than a slate of 8. Events arrive up to two days late; some
    come twice, some have no query, some are of a user without requests, some arrive at midnight.
    """
    rng = np.random.default_rng(seed)
    items, users = 25, 12
    country = np.array(["de", "fr", "us"])[np.arange(users) % 3]
    user = rng.integers(0, users, requests)
    query = rng.integers(0, 5, requests)
    timestamp = np.sort(START + rng.integers(0, 30 * DAY, requests))
    timestamp[:: requests // 10] = timestamp[:: requests // 10] // DAY * DAY
    timestamp = np.sort(timestamp)
    request_id = np.array([f"r{i:04d}" for i in rng.permutation(requests)])
    columns = {
        "request_id": request_id,
        "user_id": np.array([f"u{i}" for i in user]),
        "query_id": query + 100,
        "timestamp": timestamp,
        "country": country[user],
        "tenure": rng.normal(size=requests),
        # Queries 0 and 1, and 2 and 3, have one form.
        "query_text": np.array(
            [("query number {}", "Number QUERY {}")[i % 2].format(i // 2) for i in query]
        ),
        "hour": timestamp // 3600 % 24,
        "taste": list(rng.normal(size=(requests, 3))),
    }
    if timeless:
        del columns["timestamp"]
    sizes = rng.choice([1, 5, 8, 9, 19], requests, p=[0.1, 0.6, 0.1, 0.1, 0.1])
    owner = np.repeat(np.arange(requests), sizes)
    shown = np.concatenate([rng.permutation(items - 1)[:size] for size in sizes])  # one stays cold
    clicked = rng.random(len(owner)) < 0.15 + 0.3 * ((shown + query[owner]) % 3 == 0)
    saved = clicked & (rng.random(len(owner)) < 0.4)
    order = rng.permutation(len(owner))
    tables = {
        "items": pa.table(
            {
                "item_id": [f"i{i}" for i in range(items)],
                "title": [f"Item {['red', 'blue', 'green'][i % 3]} {i}" for i in range(items)],
                "price": np.arange(items) * 1.5,
                "brand": [f"b{i % 4}" for i in range(items)],
                # One came to be after it was shown first, of one it is not known.
                "created_at": pa.array(
                    START + (np.arange(items) - 15) * DAY, mask=np.arange(items) == 3
                ),
            }
        ),
        "requests": pa.table(columns).take(pa.array(rng.permutation(requests))),
        "impressions": pa.table(
            {
                "request_id": request_id[owner],
                "item_id": np.array([f"i{i}" for i in shown]),
                "position": np.concatenate([np.arange(size) for size in sizes]),
                "click": clicked,
                "save": saved.astype(np.int64),
                "propensity": rng.uniform(0.1, 1, len(owner)),
                "stage": np.array(["shown", "shown", "random"])[rng.integers(0, 3, len(owner))],
            }
        ).take(pa.array(order)),
    }
    if events and not timeless:
        row, action = np.nonzero(np.stack([clicked, saved], axis=1))
        event_time = timestamp[owner[row]] + rng.integers(1, 300, len(row))
        late = np.where(rng.random(len(row)) < 0.3, rng.integers(0, 2 * DAY, len(row)), 0)
        arrival = event_time + late
        arrival[::7] = (arrival[::7] // DAY + 1) * DAY
        event_user = np.where(rng.random(len(row)) < 0.05, 99, user[owner[row]])
        table = pa.table(
            {
                "event_id": [f"e{i:05d}" for i in rng.permutation(len(row))],
                "user_id": [f"u{i}" for i in event_user],
                "query_id": pa.array(
                    query[owner[row]] + 100, mask=rng.random(len(row)) < 0.1, type=pa.int64()
                ),
                "item_id": [f"i{i}" for i in shown[row]],
                "action": [ACTIONS[i] for i in action],
                "event_time": event_time,
                "arrival_time": arrival,
                "country": country[event_user % users],
            }
        )
        again = table.slice(0, 20)
        again = again.set_column(
            again.column_names.index("arrival_time"),
            "arrival_time",
            pa.array(again["arrival_time"].to_numpy() + 3 * DAY),
        )
        tables["events"] = pa.concat_tables([again, table])
    return tables


def write_log(path: Path, tables: dict[str, pa.Table], actions: tuple[str, ...] = ACTIONS) -> Path:
    """Writes a log; impressions go to two parts."""
    path.mkdir(parents=True)
    timeless = "timestamp" not in tables["requests"].column_names
    Schema(FEATURES, actions, timeless).save(path)
    for name, table in tables.items():
        if name == "impressions":
            (path / name).mkdir()
            half = len(table) // 2
            pq.write_table(table.slice(0, half), path / name / "0.parquet")
            pq.write_table(table.slice(half), path / name / "1.parquet")
        else:
            pq.write_table(table, path / f"{name}.parquet")
    return path


def replace(table: pa.Table, column: str, values: Any) -> pa.Table:
    """Returns the table with other values in one column."""
    return table.set_column(table.column_names.index(column), column, pa.array(values))
