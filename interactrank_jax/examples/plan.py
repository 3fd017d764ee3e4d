"""The preparation's plan: `config.data`, checked against the log."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from interactrank_jax.config import fields
from interactrank_jax.examples import protocols
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.read import Log
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.store import Description

SPLITS = ("train", "validation", "test")
EVERY_REQUEST = 2**62
LARGEST_BLOCK = 2**22  # candidates: a few hundred megabytes


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `config.data` asks for, checked.

    Attributes:
      protocol: one of `protocols.PROTOCOLS`.
      fractions: of the splits.
      folds: number of folds where timeless, else 0.
      slate: candidates of an example, at most.
      history_length, query_history_length: padded lengths L, Lq.
      delay_s: None where timeless.
      history_actions, query_history_actions: indices of actions.
      rates: indices of the actions whose counts and rates are features of the user, as of the
        request or out of fold.
      leaking_means: those whose means are features under `published`, instead.
      state: what STATE holds: the cross features and how they are counted, and histories.
      corpus_requests: of each evaluation split so many requests can be scored with all items, for
        which the values of all their cross features are listed; 0: none.
      seed: of the splits, the folds and the order of training.
    """

    protocol: str
    fractions: tuple[float, ...]
    folds: int
    slate: int
    history_length: int
    query_history_length: int
    delay_s: int | None
    history_actions: tuple[int, ...]
    query_history_actions: tuple[int, ...]
    rates: tuple[int, ...]
    leaking_means: tuple[int, ...]
    state: Description
    corpus_requests: int
    seed: int

    @property
    def timeless(self) -> bool:
        """Whether impressions are split at random: features are out of fold, not point-in-time."""
        return self.protocol != protocols.CLEAN_TIME

    @property
    def cross(self) -> Recipe:
        """The cross features and how they are counted."""
        return self.state.recipe

    @property
    def lag_days(self) -> int | None:
        """Days between the last day counted and the request's; None where timeless."""
        return self.cross.lag_days

    @property
    def needs_state(self) -> bool:
        """Whether any feature depends on history."""
        return bool(
            self.cross.specs or self.history_actions or self.query_history_actions or self.rates
        )


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
    _check_protocol(config, log, timeless, is_published)
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
        history_length=int(config.history.length),
        query_history_length=int(config.query_history.length),
        delay_s=None if timeless else int(config.history.delay_s),
        history_actions=indices("history.actions", config.history.actions),
        query_history_actions=indices("query_history.actions", config.query_history.actions),
        rates=() if is_published else rates,
        leaking_means=rates if is_published else (),
        state=Description.from_config(config, log, timeless),
        corpus_requests=_corpus_requests(config.cross) if not is_published else 0,
        seed=int(config.seed),
    )


def _check_protocol(config: Any, log: Log, timeless: bool, is_published: bool) -> None:
    """Refuses a protocol that the log cannot have, or features that the protocol does not have."""
    protocol = config.protocol
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


def _corpus_requests(config: Any) -> int:
    if not config.get("corpus", True):
        return 0
    return int(config.get("corpus_requests", 0)) or EVERY_REQUEST
