"""What users do: they look at slates, click and save, and visit items outside search."""

import dataclasses
import math

import numpy as np

from interactrank_jax.log.simulator.draws import draw
from interactrank_jax.log.simulator.presets import SimulatorConfig
from interactrank_jax.log.simulator.tables import ACTIONS, Events, Requests
from interactrank_jax.log.simulator.world import DAY, START, World

# Requests per hour of the day (UTC): quiet at 4, busy in the evening, three to one.
_HOURS = 1 - 0.5 * np.cos(2 * np.pi * (np.arange(24) - 4) / 24)
_DAY_CURVE = np.concatenate([[0], np.cumsum(_HOURS) / _HOURS.sum()])
# Seconds until a user reaches a row: two, and one and a half for each row above it.
_FIRST_LOOK, _PER_ROW = 2.0, 1.5
_LONGEST_DWELL = 3600.0
_BROWSE_CHOICES = 8  # items a visitor outside search chooses from: one screen
# The biases are calibrated on so many requests of a chunk, by so many bisections of the shifts that
# are up to this size (log-odds).
_CALIBRATION_REQUESTS, _CALIBRATION_STEPS, _LARGEST_SHIFT = 1_000, 36, 30.0
_DEVIATIONS = np.linspace(-8, 8, 3_201)
_NORMAL_CDF = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in _DEVIATIONS])


def draw_times(
    config: SimulatorConfig, rng: np.random.Generator, chunk: int, count: int
) -> np.ndarray:
    """Draws sorted times `[count]` (UTC seconds) within a chunk, along the curve of the day."""
    days = (chunk + np.sort(rng.random(count))) * (config.days / config.chunks)
    return times_of(np.minimum(days, np.nextafter(config.days, 0)))


def times_of(days: np.ndarray) -> np.ndarray:
    """Returns times (UTC seconds) of days since the start; within one, along its curve."""
    day = np.floor(days)
    hour = np.interp(days - day, _DAY_CURVE, np.arange(25))
    return START + (day * DAY).astype(np.int64) + np.minimum(hour * 3600, DAY - 1).astype(np.int64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Returns the probability of log-odds."""
    return 1 / (1 + np.exp(-x))


def examination(config: SimulatorConfig) -> np.ndarray:
    """Returns the probabilities `[C]` that the rows of a slate are examined."""
    return ((1.0 + np.arange(config.slate)) ** -config.examination).astype(np.float32)


def _dwell(config: SimulatorConfig, rng: np.random.Generator, appeal: np.ndarray) -> np.ndarray:
    """Draws how long clicks `[N]` last, in seconds, from their appeal `[N]`."""
    noise = config.dwell_sigma * rng.standard_normal(len(appeal))
    seconds = config.dwell_seconds * np.exp(config.dwell_appeal * appeal + noise)
    return np.minimum(seconds, _LONGEST_DWELL)


def engaged(actions: np.ndarray) -> np.ndarray:
    """Returns which rows `[...]` of actions `[..., A]` are engaged with, as the search label says.

    That is clicked or saved, and not clicked for a moment only.
    """
    click, short_click, save = (
        actions[..., ACTIONS.index(name)] for name in ("click", "short_click", "save")
    )
    return (click | save) & ~short_click


def calibrated(config: SimulatorConfig, appeal: np.ndarray, shown: np.ndarray) -> SimulatorConfig:
    """Returns a config whose biases make the expected share of engaged rows `engaged_share`.

    Args:
      config: its biases keep their distance; without an `engaged_share` it is returned as it is.
      appeal: `[R, C]`.
      shown: `[R, C]` which rows there are.
    """
    if not config.engaged_share or not shown.any():
        return config
    step = -(-len(appeal) // _CALIBRATION_REQUESTS)
    row, column = np.nonzero(shown[::step])
    appeal = appeal[::step][row, column].astype(np.float64)
    examined = examination(config)[column]
    moment = (
        math.log(config.short_seconds / config.dwell_seconds) - config.dwell_appeal * appeal
    ) / (config.dwell_sigma)
    short = np.interp(moment, _DEVIATIONS, _NORMAL_CDF)
    low, high = -_LARGEST_SHIFT, _LARGEST_SHIFT
    for _ in range(_CALIBRATION_STEPS):
        shift = (low + high) / 2
        clicked = sigmoid(config.click_bias + shift + appeal)
        saved = sigmoid(config.save_bias + shift + appeal)
        share = examined * (clicked * (1 - short) + (1 - clicked) * saved)
        low, high = (shift, high) if share.mean() < config.engaged_share else (low, shift)
    return dataclasses.replace(
        config, click_bias=config.click_bias + shift, save_bias=config.save_bias + shift
    )


def search(
    config: SimulatorConfig,
    rng: np.random.Generator,
    requests: Requests,
    item: np.ndarray,
    shown: np.ndarray,
    appeal: np.ndarray,
) -> tuple[np.ndarray, Events]:
    """Draws what users do with their slates.

    A row is examined or not, by its position. An examined row is clicked and saved independently
    given its appeal; a click is long or short by how long it lasts.

    Returns:
      Actions `[R, C, A]` bool, and the same as events that have not arrived yet.
    """
    examined = shown & (rng.random(item.shape, dtype=np.float32) < examination(config))
    actions = np.zeros((*item.shape, len(ACTIONS)), bool)
    row, column = np.nonzero(examined)
    appeal = appeal[row, column]
    look = requests.time[row] + _FIRST_LOOK + _PER_ROW * column
    clicked = rng.random(len(row)) < sigmoid(config.click_bias + appeal)
    saved = rng.random(len(row)) < sigmoid(config.save_bias + appeal)
    done, time = _visits(config, rng, clicked, saved, appeal, look)
    actions[row, column] = done
    which, action = np.nonzero(done)
    return actions, Events(
        user=requests.user[row[which]],
        query=requests.query[row[which]],
        item=item[row[which], column[which]],
        action=action,
        time=time[which, action],
        arrival=np.empty(0),
    )


def _visits(
    config: SimulatorConfig,
    rng: np.random.Generator,
    clicked: np.ndarray,
    saved: np.ndarray,
    appeal: np.ndarray,
    look: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns actions logged `[N, A]` and their times `[N, A]` (seconds) for items looked at."""
    dwell = _dwell(config, rng, appeal)
    decided = look + rng.exponential(_FIRST_LOOK, len(look))
    done = np.stack(
        [
            clicked,
            clicked & (dwell > config.long_seconds),
            clicked & (dwell < config.short_seconds),
            saved,
        ],
        axis=1,
    )
    if config.positives_only:
        done &= engaged(done)[:, None]
    # How long a click lasted is known when it ends.
    time = np.stack([decided, decided + dwell, decided + dwell, decided + 1], axis=1)
    return done, time.astype(np.int64)


def browse(
    world: World, rng: np.random.Generator, chunk: int, requests: int, clicks: np.ndarray
) -> Events:
    """Draws visits outside search: a user opens the most tempting of a screen of items.

    The screen is random, the choice goes by taste, quality, trend and popularity so far.
    """
    config, items = world.config, world.items
    count = round(requests * config.organic)
    time = draw_times(config, rng, chunk, count)
    user = draw(rng, world.users.activity, count)
    chunk_seconds = config.days / config.chunks * DAY
    since = START + chunk * chunk_seconds
    existing = items.existing(since, since + chunk_seconds)
    screen = existing[rng.integers(len(existing), size=(count, _BROWSE_CHOICES))]
    taste = np.einsum("rt,rct->rc", world.tastes(user, time), items.topics[screen])
    appeal = config.taste * taste + config.quality * items.quality[screen]
    popularity = config.popularity * np.log((clicks + 1) / (clicks.mean() + 1))
    if config.trend:
        appeal += config.trend * world.trend(screen, time)
    tempting = appeal + popularity[screen] + rng.gumbel(size=screen.shape)
    tempting[items.absent(screen, time)] = -np.inf
    best = tempting.argmax(1)
    rows = np.flatnonzero(np.isfinite(tempting.max(1)))  # else nothing on screen existed
    user, time, item = user[rows], time[rows], screen[rows, best[rows]]
    appeal = appeal[rows, best[rows]]
    saved = rng.random(len(rows)) < sigmoid(config.save_bias + appeal)
    opened = np.ones(len(rows), bool)
    done, times = _visits(config, rng, opened, saved, appeal, time + _FIRST_LOOK)
    which, action = np.nonzero(done)
    return Events(
        user=user[which],
        query=np.full(len(which), -1),
        item=item[which],
        action=action,
        time=times[which, action],
        arrival=np.empty(0),
    )


def arrived(
    config: SimulatorConfig, rng: np.random.Generator, search: Events, organic: Events
) -> Events:
    """Returns all events of a chunk in the order of their arrival."""
    both = {
        field.name: np.concatenate([getattr(search, field.name), getattr(organic, field.name)])
        for field in dataclasses.fields(Events)
    }
    count = len(both["time"])
    delay = rng.exponential(config.arrival_seconds, count)
    late = rng.random(count) < config.late_share
    delay += late * rng.exponential(config.late_hours * 3600, count)
    both["arrival"] = both["time"] + delay.astype(np.int64)
    order = np.argsort(both["arrival"], kind="stable")
    return Events(**{name: value[order] for name, value in both.items()})
