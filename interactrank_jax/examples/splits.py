"""The preparation's plan: its config checked against the log, splits, folds and slates."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from interactrank_jax import fields
from interactrank_jax.examples import history, protocols
from interactrank_jax.examples.frames import Impressions, Requests
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.schema import Log
from interactrank_jax.state.recipe import Recipe

SPLITS = ("train", "validation", "test")
LARGEST_BLOCK = 2**22  # candidates: a few hundred megabytes


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `config.data` asks for, checked.

    Attributes:
      protocol: one of `protocols.PROTOCOLS`.
      fractions: of the splits.
      folds: number of folds where timeless, else 0.
      slate: candidates of an example, at most.
      delay_s: None where timeless.
      history_actions, query_history_actions: indices of actions.
      rates: indices of the actions whose counts and rates are features of the user, as of the
        request or out of fold.
      leaking_means: those whose means are features under `published`, instead.
      cross: the cross features and how they are counted.
      has_corpus: whether requests of the evaluation splits can be scored with all items, for which
        each item must be one, and the values of all its cross features be listed.
    """

    protocol: str
    fractions: tuple[float, ...]
    folds: int
    slate: int
    delay_s: int | None
    history_actions: tuple[int, ...]
    query_history_actions: tuple[int, ...]
    rates: tuple[int, ...]
    leaking_means: tuple[int, ...]
    cross: Recipe
    has_corpus: bool

    @property
    def timeless(self) -> bool:
        """Whether nothing is as of anything, for impressions are split at random."""
        return self.protocol != protocols.CLEAN_TIME

    @property
    def lag_days(self) -> int | None:
        """Days between the last day counted and the request's; None where timeless."""
        return self.cross.lag_days

    @property
    def segments(self) -> tuple[str, ...]:
        """Categorical features that cross features are segmented by."""
        return self.cross.segments

    @property
    def counts_impressions(self) -> bool:
        """Whether a cross feature or a rate counts impressions."""
        return bool(self.rates) or self.cross.counts_impressions


def make_plan(config: Any, log: Log) -> Plan:
    """Checks `config.data` against the schema of a log.

    Raises:
      InputError: a value out of range, an unknown protocol, action or segment, a time split of a
        log without time, or histories or cross features where the protocol has none.
    """
    fields.check(config, "data")
    actions = log.schema.actions
    protocol = config.protocol
    timeless, is_published = protocol != protocols.CLEAN_TIME, protocol == protocols.PUBLISHED
    if not timeless and log.schema.timeless:
        raise InputError(
            f"config.data.protocol is '{protocol}', but {log.path} is timeless: its requests have "
            f"no timestamp. Set config.data.protocol='{protocols.CLEAN_RANDOM}'."
        )
    if is_published and not len(config.history.rates):
        raise InputError(
            f"config.data.history.rates is empty. Expected the actions whose means protocol "
            f"'{protocol}' makes features of, such as ('like',)."
        )
    for name, value in (
        ("history.actions", config.history.actions),
        ("query_history.actions", config.query_history.actions),
        ("cross.features", config.cross.features),
    ):
        if is_published and len(value):
            raise InputError(
                f"config.data.{name} is {tuple(value)}, but protocol '{protocol}' has no histories "
                f"and no cross features. Set it to ()."
            )
    fractions = tuple(float(value) for value in config.split.fractions)
    if abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"config.data.split.fractions is {fractions}. Expected three positive numbers that "
            f"sum to 1, such as (0.8, 0.1, 0.1)."
        )
    if timeless and config.folds < 2:
        raise InputError(
            f"config.data.folds is {config.folds}. Expected at least 2 under protocol '{protocol}'."
        )
    if config.slate * config.block_size > LARGEST_BLOCK:
        raise InputError(
            f"config.data.slate is {config.slate} and config.data.block_size {config.block_size}: "
            f"a block would hold more than {LARGEST_BLOCK:,} candidates. Lower one of them."
        )

    def indices(field: str, names: Sequence[str]) -> tuple[int, ...]:
        for name in names:
            if name not in actions:
                raise InputError(
                    f"config.data.{field} names action '{name}'." + did_you_mean(name, actions)
                )
        return tuple(actions.index(name) for name in names)

    rates = indices("history.rates", config.history.rates)
    return Plan(
        protocol=protocol,
        fractions=fractions,
        folds=int(config.folds) if timeless else 0,
        slate=int(config.slate),
        delay_s=None if timeless else int(config.history.delay_s),
        history_actions=indices("history.actions", config.history.actions),
        query_history_actions=indices("query_history.actions", config.query_history.actions),
        rates=() if is_published else rates,
        leaking_means=rates if is_published else (),
        cross=Recipe.from_config(config.cross, log, timeless),
        has_corpus=not is_published and bool(config.cross.get("corpus", True)),
    )


def assign_splits(
    plan: Plan, requests: Requests, impressions: Impressions, seed: int
) -> np.ndarray:
    """Returns the split of each impression, int8 `[M]`, an index into `SPLITS`.

    Both ways the fractions are of impressions. By time: in order of their requests' time; requests
    of one second stay together. At random: seeded.

    Raises:
      InputError: a split is empty, or no action at all happened in training, so that whatever
        `config.label` makes a label of, there is none.
    """
    bounds = np.cumsum(plan.fractions)[:2]
    if plan.timeless:
        total = len(impressions.item)
        rank = np.random.default_rng([seed, 2]).permutation(total)
        split = np.searchsorted(np.round(bounds * total), rank, side="right")
    else:
        time = requests.timestamp[impressions.request]
        first = np.minimum(np.round(bounds * len(time)).astype(int), len(time) - 1)
        split = np.searchsorted(np.sort(time)[first], time, side="right")
    sizes = np.bincount(split, minlength=3)
    if not sizes.all():
        raise InputError(
            f"the {SPLITS[int(np.argmin(sizes))]} split is empty: {len(split):,} impressions of "
            f"{len(np.unique(impressions.request)):,} requests were split by "
            f"{'chance' if plan.timeless else 'time'} at fractions {plan.fractions}. Use a larger "
            f"log or other config.data.split.fractions."
        )
    if not impressions.actions[split == 0].any():
        raise InputError(
            f"nobody did anything in training: none of its {sizes[0]:,} impressions has an "
            f"action, so no label can come of them. Are the action columns of the impressions "
            f"filled in?"
        )
    return split.astype(np.int8)


def assign_folds(plan: Plan, split: np.ndarray, seed: int) -> np.ndarray:
    """Returns the fold of each impression, int8 `[M]`: of equal size, seeded.

    `history.NO_FOLD` for evaluation rows, and for all rows where there is time.
    """
    fold = np.full(len(split), history.NO_FOLD, np.int8)
    if plan.timeless:
        train = np.flatnonzero(split == 0)
        shuffled = np.random.default_rng([seed, 3]).permutation(len(train))
        fold[train] = shuffled % plan.folds
    return fold


def training_order(examples: int, seed: int) -> np.ndarray:
    """Returns the order in which training examples are written, `[E]`: permuted once, seeded."""
    return np.random.default_rng([seed, 4]).permutation(examples)


@dataclasses.dataclass(frozen=True)
class Slates:
    """The examples of one split: runs of impressions of one request.

    Attributes:
      rows: `[M]` the split's impressions.
      start, length: `[E]` example e holds `rows[start[e]:start[e] + length[e]]`.
      request: `[E]` row of `Requests`.
      distinct: `[R]` the requests, ascending.
    """

    rows: np.ndarray
    start: np.ndarray
    length: np.ndarray
    request: np.ndarray
    distinct: np.ndarray

    @property
    def request_index(self) -> np.ndarray:
        """`[E]` position of each example's request in `distinct`."""
        return np.searchsorted(self.distinct, self.request)


def make_slates(impressions: Impressions, rows: np.ndarray, fold: np.ndarray, slate: int) -> Slates:
    """Cuts each request's impressions, best position first, into slates of up to `slate`.

    The candidates of a slate are of one fold: they may use the same rows, so that whatever is made
    of a request is made once for all of them.

    Args:
      impressions: the impressions, by request.
      rows: positions of those in the split, ascending.
      fold: `[M]` of every impression, of `assign_folds`.
      slate: C.
    """
    rows = rows[np.lexsort((rows, fold[rows], impressions.request[rows]))]
    request = impressions.request[rows]
    other_request = np.diff(request, prepend=-1) != 0
    first = np.flatnonzero(other_request | (np.diff(fold[rows], prepend=np.int8(0)) != 0))
    sizes = np.diff(first, append=len(rows))
    parts = -(-sizes // slate)
    owner = np.repeat(np.arange(len(first)), parts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
    start = first[owner] + number * slate
    length = np.minimum(slate, sizes[owner] - number * slate)
    return Slates(rows, start, length, request[start], np.unique(request))
