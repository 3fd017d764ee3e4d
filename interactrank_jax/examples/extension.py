"""What a log and a config must share with the examples that they extend.

A model trained on the old examples goes on with the new ones. So an id must keep its row and a
feature its meaning: whatever either is made with has to be as it was. How the log is cut into
splits, slates and blocks may change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.examples.encoder import Encoder, Feature, config_differences, meaning
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.plan import Plan
from interactrank_jax.examples.protocols import PUBLISHED
from interactrank_jax.examples.rates import rate_names
from interactrank_jax.examples.splits import Days
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import Log
from interactrank_jax.log.values import as_values


def check_extension(config: Mapping[str, Any], log: Log, plan: Plan, old: Examples) -> None:
    """Compares what is known before any row is read.

    Args:
      config: `config.data` as JSON has it.
      log: the log.
      plan: what the config asks for.
      old: the examples to extend.

    Raises:
      InputError: the actions, a field of the config or the declared features differ, or the
        protocol is `published`.
    """
    if PUBLISHED in (plan.protocol, old.metadata.protocol):
        raise InputError(
            f"--extend={old.path}: examples of protocol '{PUBLISHED}' are not extended. Prepare "
            f"without --extend."
        )
    before, actions = old.metadata, tuple(log.schema.actions)
    if before.actions != actions:
        raise InputError(
            f"--extend={old.path}: its actions were {list(before.actions)}, those of the log are "
            f"{list(actions)}. Expected the same in the same order: declare them so in "
            f"schema.json, or prepare without --extend."
        )
    differ = config_differences(old.encoder.meaning, meaning(config))
    if differ:
        changes = "; ".join(differ)
        raise InputError(
            f"--extend={old.path}: {changes}. A model trained on those examples would misread "
            f"these: set {'it' if len(differ) == 1 else 'them'} back, or prepare without --extend."
        )
    declared = [(spec.name, spec.entity, spec.kind) for spec in log.schema.features]
    generated = [
        (feature.name, feature.entity, feature.kind) for feature in rate_names(actions, plan.rates)
    ]
    features = [(feature.name, feature.entity, feature.kind) for feature in before.features]
    if features != declared + generated:
        raise InputError(
            f"--extend={old.path}: its features were {_names(features)}, those of the log are "
            f"{_names(declared + generated)}. Expected the same in the same order: declare them "
            f"so in schema.json, or prepare without --extend."
        )


def check_columns(log: Log, old: Examples) -> None:
    """Compares the columns of a validated log with what they were.

    Raises:
      InputError: ids or categories were strings and are integers, or the reverse; or an embedding
        is of another width.
    """
    ids = [("user", "user_id", "requests"), ("query", "query_id", "requests")]
    ids.append(("item", "item_id", "items"))
    for feature in old.metadata.features:
        if feature.kind == "categorical":
            ids.append((feature.name, feature.name, _table(feature)))
    for name, column, table in ids:
        was = old.encoder.vocabularies[name].values.type
        now = as_values(pa.array([], log.columns(table)[column])).type
        if was != now:
            raise InputError(
                f"--extend={old.path}: column '{column}' of {table} was {was}, it is {now} in the "
                f"log. Expected the same: convert it, or prepare without --extend."
            )
    for feature in old.metadata.features:
        if feature.kind != "embedding":
            continue
        rows = (
            batch.column(0)[0]
            for path in log.files(_table(feature))
            for batch in pq.ParquetFile(path).iter_batches(batch_size=1, columns=[feature.name])
        )
        width = len(next(rows).as_py())
        if width != feature.width:
            raise InputError(
                f"--extend={old.path}: feature '{feature.name}' had width {feature.width}, it has "
                f"width {width} in the log. Expected the same: write it as wide as it was, or "
                f"prepare without --extend."
            )


def _table(feature: Feature) -> str:
    return "items" if feature.entity == "item" else "requests"


def _names(features: Sequence[tuple[str, str, str]]) -> str:
    return ", ".join(f"{name} ({entity}, {kind})" for name, entity, kind in features) or "none"


def check_days(plan: Plan, days: Days | None, encoder: Encoder | None) -> None:
    """Refuses days that do not fit what is made of their requests.

    Args:
      plan: of the examples.
      days: whose requests become examples; None for all.
      encoder: by which they are encoded; None where it is fitted.

    Raises:
      InputError: data without time, an encoder without days, or days that are split beside one.
    """
    if days is None:
        if encoder is not None:
            raise InputError("--encoder needs days: name them by --since and --until.")
        return
    if plan.timeless:
        raise InputError(
            f"--since and --until name days, but under protocol '{plan.protocol}' impressions are "
            f"split at random: leave them out."
        )
    if encoder is not None and days.split_since is not None:
        raise InputError(
            "--split_since beside --encoder, with which all requests are split 'test': leave one "
            "of them out."
        )
    if encoder is None and days.split_since is None:
        raise InputError("days without an encoder: say from which on they are split.")
    if not days.since <= (days.split_since or days.since) <= days.until:
        raise InputError(
            f"--since, --split_since and --until name {days}. Expected them in this order."
        )


def check_encoder(
    encoder: Encoder,
    plan: Plan,
    config: Mapping[str, Any],
    extend: files.PathLike | None,
) -> None:
    """Refuses to encode by an encoder what it was not fitted for.

    Args:
      encoder: the encoder.
      plan: of the examples.
      config: `config.data` as JSON has it.
      extend: examples that were to be extended.

    Raises:
      InputError: data without time, another config, or examples to extend beside it.
    """
    if extend is not None:
        raise InputError("--encoder fits nothing, --extend does: name one of them.")
    if plan.timeless or encoder.timeless:
        raise InputError("--encoder is for data with time, of which it takes some days.")
    differences = config_differences(encoder.meaning, meaning(config))
    if differences:
        raise InputError(
            f"--encoder was fitted with another config: {differences[0]}. Prepare with the config "
            f"of its run."
        )
