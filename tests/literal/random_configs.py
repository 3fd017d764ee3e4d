"""Random options of `config.data`, among those that a log allows."""

import random
import types
from typing import Any

import ml_collections

from tests.literal.random_logs import DELAYS, EVENTS, TIMED, RandomLog
from tests.log.handmade_log import data_config

CROSS_KINDS = ("share", "item_share", "rate", "item_rate")


def draw_options(log: RandomLog) -> dict[str, Any]:
    """Draws options for a log, by dotted path below `config.data`."""
    rng = random.Random(f"config {log.seed}")
    actions = log.schema.actions
    train = rng.choice((0.5, 0.7, 0.8))
    options: dict[str, Any] = {
        "protocol": "clean_time" if log.kind in (EVENTS, TIMED) else "clean_random",
        "seed": rng.randrange(1000),
        "slate": rng.randint(1, 9),
        "block_size": rng.choice((1, 7, 64)),
        "split.fractions": (train, round((1 - train) / 2, 6), round((1 - train) / 2, 6)),
        "folds": rng.randint(2, 6),
        "history.length": rng.randint(1, 12),
        "history.actions": _some(rng, actions),
        "history.delay_s": rng.choice(DELAYS),
        "history.rates": _some(rng, actions),
        "query_history.length": rng.randint(1, 6),
        "query_history.actions": _some(rng, actions),
        "vocabulary.min_count": rng.randint(1, 4),
        "vocabulary.out_of_vocabulary": rng.randint(1, 5),
        "text.max_tokens": rng.randint(1, 9),
        "text.ngram": rng.randint(1, 4),
        "cross.lag_days": rng.randint(1, 3),
        "cross.prior": rng.choice((0.5, 5.0, 13.7)),
        "cross.backoff.strength": rng.choice((0.0, 0.7, 3.0, 10.0)),
        "cross.debias.name": rng.choice(_debiasings(log)),
        "cross.debias.smallest_propensity": rng.choice((0.02, 0.1, 0.5)),
        "cross.debias.position_weights": tuple(
            rng.uniform(0.01, 1.2) for _ in range(rng.randint(1, 6))
        ),
    }
    if options["cross.backoff.strength"]:
        options["cross.backoff.query_form"] = rng.choice(_forms(log))
    has_days = options["protocol"] == "clean_time"
    if has_days and not log.copies_differ_in_segments:
        options["cross.user_day_cap"] = rng.choice((0, 1, 1, 2, 4))
    if has_days and "created_at" in log.columns("items"):
        options["cross.fresh_days"] = rng.choice((0, 3, 12))
    fresh = ["fresh"] if options.get("cross.fresh_days") else []
    features = [_cross_feature(rng, actions, segments)
                for segments in (fresh, fresh, *[["", "", *log.segments, *fresh]] * 6)]  # fmt: skip
    options["cross.features"] = tuple(dict.fromkeys(features[: rng.choice((0, 3, 4, 5, 6, 7, 8))]))
    return options


def make_config(options: dict[str, Any]) -> Any:
    """Returns `config.data` with these options."""
    return data_config(**options)


def plain_options(config: Any) -> Any:
    """Returns a config as plain objects: a reading looks at options a million times."""
    if not isinstance(config, ml_collections.ConfigDict):
        return config
    return types.SimpleNamespace(**{key: plain_options(value) for key, value in config.items()})


def _some(rng: random.Random, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(rng.sample(names, rng.choice((0, len(names), rng.randint(1, len(names))))))


def _debiasings(log: RandomLog) -> list[str]:
    with_propensity = "propensity" in log.columns("impressions")
    return ["none", "position", *(["propensity"] * with_propensity)]


def _forms(log: RandomLog) -> list[str]:
    """Returns what a query's form may be made of; '' for none, the text more often than others."""
    features = log.schema.select(("request",), "text") * 3
    features += log.schema.select(("request",), "categorical")
    return ["", "query_id", *(feature.name for feature in features)]


def _cross_feature(rng: random.Random, actions: tuple[str, ...], segments: list[str]) -> str:
    kind = rng.choice(CROSS_KINDS)
    counted = actions if kind.endswith("rate") else (*actions, "impression")
    window = rng.choice((1, 2, 7, rng.randint(1, 40), 400))
    segment = rng.choice(segments or [""])
    return ":".join((kind, rng.choice(counted), str(window), *([segment] * bool(segment))))
