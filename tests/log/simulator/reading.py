"""What tests of the simulator read of its logs."""

import json

import numpy as np
import pyarrow.parquet as pq

from interactrank_jax.log.simulator.behaviour import engaged
from interactrank_jax.log.simulator.presets import SimulatorConfig
from interactrank_jax.log.simulator.tables import ACTIONS
from interactrank_jax.log.simulator.world import World


def columns(path, table):
    whole = pq.read_table(path / table)
    return {name: whole[name].to_numpy() for name in whole.column_names}


def rows_of(path):
    """Returns the impressions with their truth, their requests' columns, and dense ids."""
    requests, rows = columns(path, "requests"), columns(path, "impressions")
    rows |= {f"truth_{name}": value for name, value in columns(path, "truth/impressions").items()}
    row = np.searchsorted(requests["request_id"], rows["request_id"])
    rows["time"] = requests["timestamp"][row]
    for name, values in (
        ("item", rows["item_id"]),
        ("user", requests["user_id"][row]),
        ("query", requests["query_id"][row]),
    ):
        rows[name] = np.array([int(value[1:]) for value in values])
    rows["engaged"] = engaged(np.stack([rows[name] for name in ACTIONS], -1))
    return rows


def organic_clicks(path):
    """Returns items and times of what was opened outside search."""
    events = columns(path, "events")
    opened = (events["action"] == "click") & np.array([q is None for q in events["query_id"]])
    item = np.array([int(value[1:]) for value in events["item_id"][opened]])
    return item, events["event_time"][opened]


def world_of(path):
    told = json.loads((path / "truth" / "config.json").read_text())
    return World(SimulatorConfig(**told["config"]), told["seed"])
