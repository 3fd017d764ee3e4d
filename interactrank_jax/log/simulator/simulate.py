"""A simulated search log, two years of it, with the truth written beside.

Time passes in chunks; a chunk is one part of each table on disk and all that is held in memory
besides the world (`world.py`). Within a chunk the logging policy's popularity counts stand
still, as they do between two runs of a batch job. Constants: `presets.py`.

    LOG/                as `schema.py` says, every table in parts
    LOG/truth/          for oracles and tests only
      config.json       preset, seed and constants: `World(SimulatorConfig(**constants), seed)`;
                        with judgments `judged.open_judged_world(LOG)`, which reads them from the
                        directory said there, and refuses others than those of the digest
      impressions/      relevance, taste, quality, idiosyncratic, mood, trend if items have one,
                        appeal (their sum) and click_probability, row by row like impressions/
      items.parquet     topics, quality, created, and gone under turnover, in the order of items/
      queries.parquet   query_id, topics
      users.parquet     user_id, country, gender, early and late taste, turn

A log of positives only also lies there as a data set without negatives is published:

    LOG/ratings/        for `convert --format=ratings`
      ratings.parquet   user_id, item_id, rating (1) and timestamp, one row per impression
      users.parquet     user_id, country, gender
      items.parquet     as in items/, created_at included
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.simulator.behaviour import (
    arrived,
    browse,
    calibrated,
    draw_times,
    examination,
    search,
    sigmoid,
)
from interactrank_jax.log.simulator.draws import draw, stream
from interactrank_jax.log.simulator.judged import JudgedWorld, Judgments
from interactrank_jax.log.simulator.presets import PRESETS, VARIANTS, SimulatorConfig, resolve
from interactrank_jax.log.simulator.tables import (
    ACTIONS,
    DEVICE_SHARES,
    SCHEMA,
    Names,
    Requests,
    schema_of,
    write_part,
    write_ratings,
    write_world,
)
from interactrank_jax.log.simulator.world import DAY, START, Appeal, World

__all__ = ["ACTIONS", "PRESETS", "SCHEMA", "VARIANTS", "SimulatorConfig", "World", "simulate"]


def simulate(
    preset: str,
    seed: int,
    out: files.PathLike,
    variant: str = "",
    judgments: files.PathLike = "",
    **overrides: Any,
) -> dict[str, Any]:
    """Writes a simulated log to the directory `out`.

    The same arguments give the same bytes, on one machine and library versions.

    Args:
      preset: 'tiny', 'small', 'medium' or 'large'.
      seed: of all randomness, 0 or more.
      out: a new or empty directory.
      variant: names of `VARIANTS`, 'drift,turnover'; '' for none.
      judgments: directory of product-search judgments whose queries, products and relevance take
        the place of simulated ones (`judged.py`); '' for none.
      **overrides: fields of `SimulatorConfig` to replace, such as `requests=10_000`.

    Returns:
      `preset`, `variant` if there is one, `seed`, `parts` and row counts: `items`, `queries`,
      `users`, `requests`, `impressions`, `events`, and `actions`, the impressions with each action.

    Raises:
      InputError: unknown preset, variant, field or value, or `out` holds something; with
        judgments, items that come and go, or a number of items or queries.
    """
    config = resolve(preset, variant, **overrides)
    if judgments:
        _refuse_catalogue(config, overrides)
        outputs.output_directory(out, judgments)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is {seed!r}. Expected an integer, 0 or more.")
    data = Judgments.read(judgments) if judgments else None
    with outputs.new_directory(out) as path:
        for folder in ("items", "requests", "impressions", "events", "truth/impressions"):
            (path / folder).mkdir(parents=True)
        origin = {"preset": preset, **({"variant": variant} if variant else {}), "seed": seed}
        world = World(config, seed) if data is None else JudgedWorld(config, seed, data)
        config = world.config
        if data is not None:
            origin["judgments"] = str(Path(judgments).resolve())
            origin["judgments_digest"] = data.digest
        schema_of(world).save(path)
        files.write_json(path / "truth" / "config.json", origin | {"config": config.to_json()})
        names = Names(world)
        write_world(world, names, path)
        counts, totals = _write_chunks(world, seed, names, path)
        if config.positives_only:
            write_ratings(names, path)
    return {
        **origin,
        "parts": config.chunks,
        **{name: getattr(config, name) for name in ("items", "queries", "users")},
        **counts,
        "actions": dict(zip(ACTIONS, totals.tolist(), strict=True)),
    }


def _refuse_catalogue(config: SimulatorConfig, overrides: dict[str, Any]) -> None:
    """Raises InputError for what judgments decide."""
    for name in ("items", "queries"):
        if name in overrides:
            raise InputError(f"{name} are those of the judgments: leave {name} out.")
    if config.turnover:
        raise InputError(
            "judgments do not say when products came and went: leave turnover out, or leave out "
            "--judgments."
        )


def _write_chunks(
    world: World, seed: int, names: Names, path: Path
) -> tuple[dict[str, int], np.ndarray]:
    """Writes a part of each table per chunk; returns rows by table, and impressions by action."""
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
    return counts, totals


def _chunks(world: World, seed: int, names: Names) -> Iterator[dict[str, pa.Table]]:
    """Lets time pass; yields the tables of each chunk."""
    config = world.config
    clicks = np.zeros(config.items)
    chunk_days = config.days / config.chunks
    forget = 0.5 ** (chunk_days / config.popularity_half_life_days)
    first_event = 0
    progress = tqdm(
        total=config.requests * config.slate, unit=" impressions", unit_scale=True, disable=None
    )
    for chunk in range(config.chunks):
        if chunk % config.index_chunks == 0:
            since = START + chunk * chunk_days * DAY
            until = since + config.index_chunks * chunk_days * DAY
            pool, lexical = world.pools(seed, since, until)
        requests = chunk_requests(world, seed, chunk)
        scores = _item_scores(world, clicks, START + chunk * chunk_days * DAY)
        logits = (lexical[requests.query] * config.lexical + scores[pool[requests.query]]) / (
            np.float32(config.temperature)
        )
        slates = _slates(
            world, stream(seed, "policy", chunk), pool[requests.query], logits, requests.time
        )
        tables, clicked = responses(
            world, seed, names, chunk, requests, slates, clicks, first_event
        )
        clicks = clicks * forget + clicked
        yield tables
        first_event += len(tables["events"])
        progress.update(int(slates.shown.sum()))
    progress.close()


@dataclasses.dataclass(frozen=True)
class Slates:
    """What was shown to requests, best first.

    Attributes:
      item: `[R, C]`.
      shown: `[R, C]` whether there is an item.
      propensity: `[R, C]` probability that the item entered the slate, float32.
    """

    item: np.ndarray
    shown: np.ndarray
    propensity: np.ndarray


def chunk_requests(world: World, seed: int, chunk: int) -> Requests:
    """Draws the requests of a chunk."""
    config, rng = world.config, stream(seed, "requests", chunk)
    first, end = (config.requests * number // config.chunks for number in (chunk, chunk + 1))
    return draw_requests(world, rng, draw_times(config, rng, chunk, end - first), first)


def responses(
    world: World,
    seed: int,
    names: Names,
    chunk: int,
    requests: Requests,
    slates: Slates,
    clicks: np.ndarray,
    first_event: int,
) -> tuple[dict[str, pa.Table], np.ndarray]:
    """Lets users respond to the slates of a chunk, and visit items outside search.

    The same arguments give the same tables; requests and random streams do not depend on slates.

    Args:
      world: its users.
      seed: of the world.
      names: of its items.
      chunk: number of the chunk.
      requests: `[R]`, of `chunk_requests`.
      slates: what they are shown.
      clicks: `[I]` popularity before the chunk, which visits outside search go by.
      first_event: id of the first event.

    Returns:
      The chunk's part of each table, and clicks `[I]` in search.
    """
    config, item, shown = world.config, slates.item, slates.shown
    appeal = world.appeal(requests.query, requests.user, requests.time, item)
    biased = calibrated(config, appeal.total, shown)
    actions, events = search(
        biased, stream(seed, "actions", chunk), requests, item, shown, appeal.total
    )
    organic = browse(world, stream(seed, "browse", chunk), chunk, len(requests.id), clicks)
    events = arrived(config, stream(seed, "arrival", chunk), events, organic)
    clicked = np.bincount(item[actions[..., 0]], minlength=config.items)
    logged = shown & actions.any(-1) if config.positives_only else shown
    tables = {
        "requests": names.requests(requests, logged),
        "impressions": names.impressions(requests, item, logged, slates.propensity, actions),
        "events": names.events(events, first_event),
        "truth/impressions": _truth(biased, appeal, logged),
    }
    return tables, clicked


def draw_requests(world: World, rng: np.random.Generator, time: np.ndarray, first: int) -> Requests:
    """Draws who searches for what at times `[R]`; `first` is the first request's id."""
    config, count = world.config, len(time)
    user = draw(rng, world.users.activity, count)
    # Of a few queries drawn by popularity the user takes the one that tempts most (Gumbel-max).
    choices = draw(rng, world.queries.popularity, (count, config.query_choices))
    tempting = np.einsum("rt,rct->rc", world.tastes(user, time), world.queries.topics[choices])
    tempting += rng.gumbel(size=choices.shape)
    query = choices[np.arange(count), tempting.argmax(1)]
    device = draw(rng, np.cumsum(DEVICE_SHARES), count)
    return Requests(np.arange(first, first + count), time, user, query, device)


def _item_scores(world: World, clicks: np.ndarray, now: float) -> np.ndarray:
    """Returns what the policy thinks of each item `[I]` at `now`, before it sees a query."""
    config = world.config
    popularity = np.log((clicks + 1) / (clicks.mean() + 1))
    age = now - world.items.created
    fresh = age < config.fresh_days * DAY  # those still to come within the chunk included
    return (config.popularity * popularity + config.freshness * fresh).astype(np.float32)


def _slates(
    world: World,
    rng: np.random.Generator,
    pool: np.ndarray,
    logits: np.ndarray,
    time: np.ndarray,
) -> Slates:
    """Draws slates without replacement by Gumbel-top-k (Kool, van Hoof and Welling 2019).

    An item's propensity is the probability that it enters the slate given the perturbed logits of
    all other candidates: with kappa the (slate + 1)-th largest, P(Gumbel(logit) > kappa) =
    1 - exp(-exp(logit - kappa)). It is exact, and weights of 1 / propensity are unbiased for sums
    over the pool, although the marginal probability of being shown has no closed form.

    Args:
      world: the times for which its items exist decide what could be retrieved.
      rng: the random stream.
      pool: candidates `[R, P]`.
      logits: the policy's `[R, P]`.
      time: of the requests `[R]`.
    """
    slate = world.config.slate
    smallest = np.finfo(np.float32).tiny
    logits[world.items.absent(pool, time)] = -np.inf
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
    return Slates(np.take_along_axis(pool, top, 1), shown, np.clip(propensity, smallest, 1))


def _truth(config: SimulatorConfig, appeal: Appeal, logged: np.ndarray) -> pa.Table:
    probability = examination(config) * sigmoid(np.float32(config.click_bias) + appeal.total)
    columns = appeal.parts() | {"appeal": appeal.total, "click_probability": probability}
    return pa.table({name: value[logged] for name, value in columns.items()})
