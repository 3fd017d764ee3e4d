"""A simulated search log, two years of it, with the truth written beside.

Time passes in chunks; a chunk is one part of each table on disk and all that is held in memory
besides the world (`world.py`). Within a chunk the logging policy's popularity counts stand
still, as they do between two runs of a batch job. Constants: `presets.py`.

    LOG/                as `schema.py` says, every table in parts
    LOG/truth/          for oracles and tests only
      config.json       preset, seed and constants: enough to rebuild the `World`
      impressions/      relevance, taste, quality, idiosyncratic, mood, appeal (their sum) and
                        click_probability, row by row like impressions/
      items.parquet     topics, quality, created, in the order of items/
      queries.parquet   query_id, topics
      users.parquet     user_id, country, gender, early and late taste, turn
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.simulator.presets import PRESETS, SimulatorConfig, resolve
from interactrank_jax.log.simulator.tables import (
    ACTIONS,
    DEVICE_SHARES,
    SCHEMA,
    Events,
    Names,
    Requests,
    write_part,
    write_world,
)
from interactrank_jax.log.simulator.world import (
    DAY,
    START,
    Appeal,
    World,
    candidate_pools,
    draw,
    stream,
)

__all__ = ["ACTIONS", "PRESETS", "SCHEMA", "SimulatorConfig", "World", "simulate"]

# Requests per hour of the day (UTC): quiet at 4, busy in the evening, three to one.
_HOURS = 1 - 0.5 * np.cos(2 * np.pi * (np.arange(24) - 4) / 24)
_DAY_CURVE = np.concatenate([[0], np.cumsum(_HOURS) / _HOURS.sum()])
# Seconds until a user reaches a row: two, and one and a half for each row above it.
_FIRST_LOOK, _PER_ROW = 2.0, 1.5
_LONGEST_DWELL = 3600.0
_BROWSE_CHOICES = 8  # items a visitor outside search chooses from: one screen


def simulate(preset: str, seed: int, out: files.PathLike, **overrides: Any) -> dict[str, Any]:
    """Writes a simulated log to the directory `out`.

    The same preset, seed and overrides give the same bytes, on one machine and library versions.

    Args:
      preset: 'tiny', 'small', 'medium' or 'large'.
      seed: of all randomness, 0 or more.
      out: a new or empty directory.
      **overrides: fields of `SimulatorConfig` to replace, such as `requests=10_000`.

    Returns:
      `preset`, `seed`, `parts` and row counts: `items`, `queries`, `users`, `requests`,
      `impressions`, `events`, and `actions`, the impressions with each action.

    Raises:
      InputError: unknown preset, field or value, or `out` holds something.
    """
    config = resolve(preset, **overrides)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is {seed!r}. Expected an integer, 0 or more.")
    with outputs.new_directory(out) as path:
        SCHEMA.save(path)
        for folder in ("items", "requests", "impressions", "events", "truth/impressions"):
            (path / folder).mkdir(parents=True)
        truth = {"preset": preset, "seed": seed, "config": dataclasses.asdict(config)}
        files.write_json(path / "truth" / "config.json", truth)
        world = World(config, seed)
        names = Names(world)
        write_world(world, names, path)
        counts = dict.fromkeys(("requests", "impressions", "events"), 0)
        totals = np.zeros(len(ACTIONS), np.int64)
        # One thread writes a chunk while the next is simulated.
        with concurrent.futures.ThreadPoolExecutor(1) as writer:
            pending: concurrent.futures.Future | None = None
            for chunk, tables in enumerate(_chunks(world, seed, names)):
                if pending is not None:
                    pending.result()
                pending = writer.submit(write_part, path, chunk, tables)
                for name in counts:
                    counts[name] += len(tables[name])
                totals += [tables["impressions"][name].to_numpy().sum() for name in ACTIONS]
            if pending is not None:
                pending.result()
    return {
        "preset": preset,
        "seed": seed,
        "parts": config.chunks,
        **{name: getattr(config, name) for name in ("items", "queries", "users")},
        **counts,
        "actions": dict(zip(ACTIONS, totals.tolist(), strict=True)),
    }


def _chunks(world: World, seed: int, names: "Names") -> Iterator[dict[str, pa.Table]]:
    """Lets time pass; yields the tables of each chunk."""
    config = world.config
    pool, lexical = candidate_pools(world, seed)
    clicks = np.zeros(config.items)
    chunk_days = config.days / config.chunks
    forget = 0.5 ** (chunk_days / config.popularity_half_life_days)
    first_request, first_event = 0, 0
    progress = tqdm(
        total=config.requests * config.slate, unit=" impressions", unit_scale=True, disable=None
    )
    for chunk in range(config.chunks):
        requests = _requests(world, stream(seed, "requests", chunk), chunk, first_request)
        scores = _item_scores(world, clicks, START + chunk * chunk_days * DAY)
        logits = (lexical[requests.query] * config.lexical + scores[pool[requests.query]]) / (
            np.float32(config.temperature)
        )
        item, shown, propensity = _slate(
            world, stream(seed, "policy", chunk), pool[requests.query], logits, requests.time
        )
        appeal = world.appeal(requests.query, requests.user, requests.time, item)
        actions, events = _search(
            world, stream(seed, "actions", chunk), requests, item, shown, appeal.total
        )
        organic = _browse(world, stream(seed, "browse", chunk), chunk, len(requests.id), clicks)
        events = _arrived(config, stream(seed, "arrival", chunk), events, organic)
        clicks *= forget
        clicks += np.bincount(item[actions[..., 0]], minlength=config.items)
        yield {
            "requests": names.requests(requests),
            "impressions": names.impressions(requests, item, shown, propensity, actions),
            "events": names.events(events, first_event),
            "truth/impressions": _truth(config, appeal, shown),
        }
        first_request += len(requests.id)
        first_event += len(events.time)
        progress.update(int(shown.sum()))
    progress.close()


def _times(config: SimulatorConfig, rng: np.random.Generator, chunk: int, count: int) -> np.ndarray:
    """Draws sorted times `[count]` (UTC seconds) within a chunk, along the curve of the day."""
    days = (chunk + np.sort(rng.random(count))) * (config.days / config.chunks)
    days = np.minimum(days, np.nextafter(config.days, 0))
    day = np.floor(days)
    hour = np.interp(days - day, _DAY_CURVE, np.arange(25))
    return START + (day * DAY).astype(np.int64) + np.minimum(hour * 3600, DAY - 1).astype(np.int64)


def _requests(world: World, rng: np.random.Generator, chunk: int, first: int) -> Requests:
    config = world.config
    last = config.requests * (chunk + 1) // config.chunks
    count = last - first
    time = _times(config, rng, chunk, count)
    user = draw(rng, world.users.activity, count)
    # Of a few queries drawn by popularity the user takes the one that tempts most (Gumbel-max).
    choices = draw(rng, world.queries.popularity, (count, config.query_choices))
    tempting = np.einsum("rt,rct->rc", world.tastes(user, time), world.queries.topics[choices])
    tempting += rng.gumbel(size=choices.shape)
    query = choices[np.arange(count), tempting.argmax(1)]
    device = draw(rng, np.cumsum(DEVICE_SHARES), count)
    return Requests(np.arange(first, last), time, user, query, device)


def _item_scores(world: World, clicks: np.ndarray, now: float) -> np.ndarray:
    """Returns what the policy thinks of each item `[I]` at `now`, before it sees a query."""
    config = world.config
    popularity = np.log((clicks + 1) / (clicks.mean() + 1))
    age = now - world.items.created
    fresh = age < config.fresh_days * DAY  # those still to come within the chunk included
    return (config.popularity * popularity + config.freshness * fresh).astype(np.float32)


def _slate(
    world: World,
    rng: np.random.Generator,
    pool: np.ndarray,
    logits: np.ndarray,
    time: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws slates without replacement by Gumbel-top-k (Kool, van Hoof and Welling 2019).

    An item's propensity is the probability that it enters the slate given the perturbed logits of
    all other candidates: with kappa the (slate + 1)-th largest, P(Gumbel(logit) > kappa) =
    1 - exp(-exp(logit - kappa)). It is exact, and weights of 1 / propensity are unbiased for sums
    over the pool, although the marginal probability of being shown has no closed form.

    Args:
      world: its items' creation times decide what could be retrieved.
      rng: the random stream.
      pool: candidates `[R, P]`.
      logits: the policy's `[R, P]`.
      time: of the requests `[R]`.

    Returns:
      Items `[R, C]`, best first; which of them exist `[R, C]`; propensities `[R, C]` float32.
    """
    slate = world.config.slate
    smallest = np.finfo(np.float32).tiny
    # Seconds from the start fit int32, which halves the memory traffic of the largest gather.
    created = (world.items.created - START).astype(np.int32)
    logits[created[pool] > (time - START).astype(np.int32)[:, None]] = -np.inf
    waiting = rng.standard_exponential(logits.shape, dtype=np.float32)
    perturbed = logits - np.log(np.maximum(waiting, smallest))
    top = np.argpartition(-perturbed, slate, axis=1)[:, : slate + 1]
    order = np.argsort(-np.take_along_axis(perturbed, top, 1), axis=1, kind="stable")
    top = np.take_along_axis(top, order, 1)
    kappa = np.take_along_axis(perturbed, top[:, slate:], 1)
    top = top[:, :slate]
    logit = np.take_along_axis(logits, top, 1)
    shown = np.isfinite(logit)
    with np.errstate(invalid="ignore", over="ignore"):  # padding; fewer candidates than a slate
        propensity = -np.expm1(-np.exp(logit - kappa))
    return np.take_along_axis(pool, top, 1), shown, np.clip(propensity, smallest, 1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _examination(config: SimulatorConfig) -> np.ndarray:
    return ((1.0 + np.arange(config.slate)) ** -config.examination).astype(np.float32)


def _dwell(config: SimulatorConfig, rng: np.random.Generator, appeal: np.ndarray) -> np.ndarray:
    """Draws how long clicks `[N]` last, in seconds, from their appeal `[N]`."""
    noise = config.dwell_sigma * rng.standard_normal(len(appeal))
    seconds = config.dwell_seconds * np.exp(config.dwell_appeal * appeal + noise)
    return np.minimum(seconds, _LONGEST_DWELL)


def _search(
    world: World,
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
    config = world.config
    examined = shown & (rng.random(item.shape, dtype=np.float32) < _examination(config))
    actions = np.zeros((*item.shape, len(ACTIONS)), bool)
    row, column = np.nonzero(examined)
    appeal = appeal[row, column]
    look = requests.time[row] + _FIRST_LOOK + _PER_ROW * column
    clicked = rng.random(len(row)) < _sigmoid(config.click_bias + appeal)
    saved = rng.random(len(row)) < _sigmoid(config.save_bias + appeal)
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
    """Returns actions done `[N, A]` and their times `[N, A]` (seconds) for items looked at."""
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
    # How long a click lasted is known when it ends.
    time = np.stack([decided, decided + dwell, decided + dwell, decided + 1], axis=1)
    return done, time.astype(np.int64)


def _browse(
    world: World, rng: np.random.Generator, chunk: int, requests: int, clicks: np.ndarray
) -> Events:
    """Draws visits outside search: a user opens the most tempting of a screen of items.

    The screen is random, the choice goes by taste, quality and popularity so far.
    """
    config, items = world.config, world.items
    count = round(requests * config.organic)
    time = _times(config, rng, chunk, count)
    user = draw(rng, world.users.activity, count)
    screen = rng.integers(config.items, size=(count, _BROWSE_CHOICES))
    taste = np.einsum("rt,rct->rc", world.tastes(user, time), items.topics[screen])
    appeal = config.taste * taste + config.quality * items.quality[screen]
    popularity = config.popularity * np.log((clicks + 1) / (clicks.mean() + 1))
    tempting = appeal + popularity[screen] + rng.gumbel(size=screen.shape)
    tempting[items.created[screen] > time[:, None]] = -np.inf
    best = tempting.argmax(1)
    rows = np.flatnonzero(np.isfinite(tempting.max(1)))  # else nothing on screen existed yet
    user, time, item = user[rows], time[rows], screen[rows, best[rows]]
    appeal = appeal[rows, best[rows]]
    saved = rng.random(len(rows)) < _sigmoid(config.save_bias + appeal)
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


def _arrived(
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


def _truth(config: SimulatorConfig, appeal: Appeal, shown: np.ndarray) -> pa.Table:
    parts = {
        field.name: np.broadcast_to(getattr(appeal, field.name), shown.shape)
        for field in dataclasses.fields(Appeal)
    }
    probability = _examination(config) * _sigmoid(np.float32(config.click_bias) + appeal.total)
    parts |= {"appeal": appeal.total, "click_probability": probability}
    return pa.table({name: value[shown] for name, value in parts.items()})
