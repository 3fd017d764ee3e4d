"""A simulated log, opened together with the world that made it."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from experiments import funnel
from interactrank_jax.io import files
from interactrank_jax.log.simulator.judged import open_judged_world
from interactrank_jax.log.simulator.presets import SimulatorConfig
from interactrank_jax.log.simulator.simulate import World, chunk_requests
from interactrank_jax.log.simulator.tables import Names, Requests
from interactrank_jax.log.simulator.world import START


def open_world(log: Path) -> tuple[World, int]:
    """Returns the world of a log that `simulate` wrote, and its seed."""
    origin = files.read_json(log / "truth" / "config.json")
    config, seed = SimulatorConfig(**origin["config"]), origin["seed"]
    if "judgments" in origin:
        return open_judged_world(log), seed
    return World(config, seed), seed


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A world whose log has a part per day, as its own policy makes it.

    Attributes:
      log: the whole of it.
      seed: of the world.
      world, names: of its items and users.
      pool, lexical: `[Q, P]`, see `World.pools`.
    """

    log: Path
    seed: int
    world: World
    names: Names
    pool: np.ndarray
    lexical: np.ndarray

    @classmethod
    def open(cls, log: Path) -> "Simulation":
        """Opens what `simulate` wrote."""
        world, seed = open_world(log)
        return cls(log, seed, world, Names(world), *world.pools(seed, START, np.inf))

    def requests(self, day: int) -> Requests:
        """Returns the searches of a day of the log."""
        return chunk_requests(self.world, self.seed, day)

    def searches(self, day: int) -> funnel.Searches:
        """Returns the searches of a day of the log, with what was retrieved for them."""
        requests, no_item = self.requests(day), self.world.config.items
        pool, lexical = self.pool[requests.query], self.lexical[requests.query]
        is_absent = ~np.isfinite(lexical) | self.world.items.absent(pool, requests.time)
        pool = np.where(is_absent, no_item, pool)
        order = np.argsort(pool, axis=1, kind="stable")
        pool, lexical = (np.take_along_axis(array, order, 1) for array in (pool, lexical))
        items = np.minimum(pool, no_item - 1)
        appeal = self.world.appeal(requests.query, requests.user, requests.time, items).total
        table = self.names.requests(requests, np.ones((len(requests.id), 1), bool))
        appeal = np.where(pool < no_item, appeal, -np.inf)
        return funnel.Searches(self.world, self.names, requests, table, pool, lexical, appeal)

    def shown_by_policy(self, day: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns items and appeal `[R, C]` of the policy's slates; minus infinity: no item."""
        requests, part = self.requests(day), f"part-{day:06}.parquet"
        rows = pq.ParquetFile(self.log / "impressions" / part).read()
        truth = pq.ParquetFile(self.log / "truth" / "impressions" / part).read(columns=["appeal"])
        shape = (len(requests.id), self.world.config.slate)
        item, appeal = np.zeros(shape, np.int64), np.full(shape, -np.inf)
        index = (rows["request_id"].to_numpy() - requests.id[0], rows["position"].to_numpy())
        item[index] = funnel.items_of(self.names, rows["item_id"])
        appeal[index] = truth["appeal"].to_numpy()
        return item, appeal

    def clicks(self, log: Path, days: int) -> np.ndarray:
        """Returns how often each item was clicked `[I]` on the first days of a log, forgetting."""
        forget = 0.5 ** (1 / self.world.config.popularity_half_life_days)
        clicks = np.zeros(self.world.config.items)
        for part in sorted((log / "impressions").iterdir())[:days]:
            rows = pq.ParquetFile(part).read(columns=["item_id", "click"])
            item = funnel.items_of(self.names, rows.filter(rows["click"])["item_id"])
            clicks = clicks * forget + np.bincount(item, minlength=len(clicks))
        return clicks
