"""Searches that no log holds, and what slates are worth to them: the truth of an online test.

A search is fulfilled if it has a long click or a save, InteractRank's online metric. Users look at
rows and act on them independently given the appeal, so the probability of that is exact, and a
ranking can be judged without drawing a click.
"""

import math

import numpy as np

from interactrank_jax.log.simulator.behaviour import examination, search, sigmoid, times_of
from interactrank_jax.log.simulator.draws import stream
from interactrank_jax.log.simulator.presets import SimulatorConfig
from interactrank_jax.log.simulator.simulate import draw_requests
from interactrank_jax.log.simulator.tables import ACTIONS, Requests
from interactrank_jax.log.simulator.world import World

FULFILLING = ("long_click", "save")


def searches(world: World, seed: int, purpose: str, day: int, count: int) -> Requests:
    """Draws new searches of one day, by the law that those of the log follow.

    Args:
      world: whose users search.
      seed: of the world.
      purpose: what they are for: each has a random stream of its own.
      day: of the log, from 0.
      count: searches.
    """
    rng = stream(seed, f"new searches {purpose}", day)
    return draw_requests(world, rng, times_of(day + np.sort(rng.random(count))), 0)


def fulfilling(config: SimulatorConfig, appeal: np.ndarray) -> np.ndarray:
    """Returns the probabilities `[...]` that an examined row fulfils a search, by its appeal."""
    appeal = np.asarray(appeal, np.float64)
    is_shown, appeal = ~np.isneginf(appeal), np.maximum(appeal, -500.0)
    clicked = sigmoid(config.click_bias + appeal)
    saved = sigmoid(config.save_bias + appeal)
    # Log-seconds of a click are normal around a median that grows with the appeal.
    median = math.log(config.dwell_seconds) + config.dwell_appeal * appeal
    return is_shown * (1 - (1 - clicked * _long(config, median)) * (1 - saved))


def expected_fulfilment(config: SimulatorConfig, appeal: np.ndarray) -> np.ndarray:
    """Returns the probabilities `[R]` that slates fulfil their searches.

    Args:
      config: of the world.
      appeal: `[R, C]` of what is shown, best first; minus infinity where nothing is. C is at most
        the world's slate.
    """
    rows = examination(config)[: appeal.shape[1]] * fulfilling(config, appeal)
    return 1 - np.prod(1 - rows, axis=1)


def drawn_fulfilment(
    world: World, rng: np.random.Generator, requests: Requests, item: np.ndarray, shown: np.ndarray
) -> np.ndarray:
    """Draws what users do with slates, as the simulator does; returns `[R, A]` of the actions.

    Args:
      world: its users.
      rng: the random stream.
      requests: `[R]`.
      item: `[R, C]` items shown, best first; C is the world's slate.
      shown: `[R, C]` which rows there are.

    Returns:
      Whether a search has each of `tables.ACTIONS`, `[R, A]` bool.
    """
    appeal = world.appeal(requests.query, requests.user, requests.time, item).total
    actions, _ = search(world.config, rng, requests, item, shown, appeal)
    return np.asarray(actions.any(1))


def is_fulfilled(actions: np.ndarray) -> np.ndarray:
    """Returns which searches `[R]` are fulfilled, by their actions `[R, A]`."""
    return np.asarray(actions[:, [ACTIONS.index(name) for name in FULFILLING]].any(1))


def _long(config: SimulatorConfig, median: np.ndarray) -> np.ndarray:
    """Returns the probabilities that clicks are long."""
    deviations = (np.log(config.long_seconds) - median) / config.dwell_sigma
    return np.vectorize(math.erfc)(deviations / math.sqrt(2)) / 2
