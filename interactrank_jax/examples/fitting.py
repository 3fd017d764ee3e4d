"""Fits the encoder: what training saw decides vocabularies, mean rates and statistics."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.examples import items as item_store
from interactrank_jax.examples.candidates import CandidateBuckets
from interactrank_jax.examples.encode import (
    TEXT_TABLE,
    Encoded,
    Fitter,
    RequestArrays,
    describe,
)
from interactrank_jax.examples.encoder import Encoder, Feature
from interactrank_jax.examples.format import REQUEST_ENTITIES
from interactrank_jax.examples.ordered import OrderedLog
from interactrank_jax.examples.plan import Plan
from interactrank_jax.examples.protocols import LeakingMeans
from interactrank_jax.examples.rates import MeanRates, Tally, rate_names
from interactrank_jax.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What is fitted before the first example is made.

    Attributes:
      fitter: the vocabularies.
      features: as models see them.
      requests: features of all requests.
      user_row, query_row: `[R]` embedding rows.
      items: features of the items, without padding.
      item_row: `[I]` embedding rows, that of padding first.
      item_counts: `[I]` training impressions.
      raw_items: `[I]` as they came.
      means: mean rates of training.
      leaking: means of protocol `published`, None under others.
    """

    fitter: Fitter
    features: tuple[Feature, ...]
    requests: Encoded
    user_row: np.ndarray
    query_row: np.ndarray
    items: Encoded
    item_row: np.ndarray
    item_counts: np.ndarray
    raw_items: pa.Table
    means: MeanRates
    leaking: LeakingMeans | None

    def write_items(self, directory: Path) -> None:
        """Writes the item store into the directory of the examples."""
        item_store.write_items(
            directory, self.raw_items, self.item_row, self.item_counts, self.items
        )

    @property
    def tables(self) -> dict[str, int]:
        """Rows of every embedding table."""
        tables = {name: vocabulary.size for name, vocabulary in self.fitter.vocabularies.items()}
        has_text = any(feature.kind == "text" for feature in self.features)
        return tables | ({TEXT_TABLE: self.fitter.text_rows} if has_text else {})


def fit(
    config: Any, plan: Plan, ordered: OrderedLog, buckets: CandidateBuckets, old: Encoder | None
) -> Fitted:
    """Fits what training decides, but for the statistics of features.

    Args:
      config: `config.data`.
      plan: the same, checked.
      ordered: the log.
      buckets: its candidates.
      old: an encoder to extend, if any.

    Raises:
      InputError: nobody did anything in training, or a feature is not finite.
    """
    requests, items, schema = ordered.requests, ordered.items, ordered.log.schema
    tally = _tally_training(plan, ordered, buckets)
    means = MeanRates.from_tally(tally, schema.actions, plan.folds)
    if old is not None:
        means = means.with_old(old.mean_rates)
    # The features that a log declares; the means of `leaking` are added example by example.
    of_requests = schema.select(REQUEST_ENTITIES)
    leaking = _leaking_means(plan, ordered, buckets)
    raw_items, counts, item_ids = items.raw, tally.items, items.ids
    if leaking is not None:
        schema, raw_items = leaking.schema(schema), leaking.both_items(raw_items)
        counts = np.append(counts, np.zeros(leaking.items, np.int64))
        item_ids = pa.concat_arrays([item_ids, item_ids])
    of_items = schema.select(("item",))

    fitter = Fitter(config, old)
    _fit_ids(fitter, ordered, tally)
    fitter.fit_features(of_items, [(raw_items.slice(1), counts[1:])])
    fitter.fit_features(of_requests, _seen(ordered))
    arrays = RequestArrays(ordered.scratch / "encoded", len(requests))
    for first, table in requests.batches():
        arrays.write(first, fitter.encode(of_requests, table))
    encoded = {"request": arrays.encoded, "item": fitter.encode(of_items, raw_items.slice(1))}
    vocabularies = fitter.vocabularies
    return Fitted(
        fitter=fitter,
        features=describe(schema.features, encoded) + rate_names(schema.actions, plan.rates),
        requests=encoded["request"],
        user_row=vocabularies["user"].rows(requests.users)[requests.user],
        query_row=vocabularies["query"].rows(requests.queries)[requests.query],
        items=encoded["item"],
        item_row=np.append(np.int32(0), vocabularies["item"].rows(item_ids)),
        item_counts=counts,
        raw_items=raw_items,
        means=means,
        leaking=leaking,
    )


def fitted_before(plan: Plan, ordered: OrderedLog, encoder: Encoder) -> Fitted:
    """Returns what was fitted on other examples, for a log whose requests are encoded by it.

    Args:
      plan: what the encoder was fitted with.
      ordered: the log.
      encoder: all of it.

    Raises:
      InputError: the log has other features than the encoder, or a feature is not finite.
    """
    requests, items, schema = ordered.requests, ordered.items, ordered.log.schema
    fitter = Fitter.of_encoder(encoder)
    vocabularies = fitter.vocabularies
    arrays = RequestArrays(ordered.scratch / "encoded", len(requests))
    for first, table in requests.batches():
        arrays.write(first, fitter.encode(schema.select(REQUEST_ENTITIES), table))
    of_items = fitter.encode(schema.select(("item",)), items.raw.slice(1))
    encoded = {"request": arrays.encoded, "item": of_items}
    features = describe(schema.features, encoded) + rate_names(schema.actions, plan.rates)
    if features != encoder.features:
        raise InputError(
            f"{ordered.log.path} has the features {[str(f) for f in features]}, the encoder was "
            f"fitted on {[str(f) for f in encoder.features]}: this is another log."
        )
    return Fitted(
        fitter=fitter,
        features=features,
        requests=encoded["request"],
        user_row=vocabularies["user"].rows(requests.users)[requests.user],
        query_row=vocabularies["query"].rows(requests.queries)[requests.query],
        items=of_items,
        item_row=np.append(np.int32(0), vocabularies["item"].rows(items.ids)),
        item_counts=np.zeros(len(items), np.int64),
        raw_items=items.raw,
        means=MeanRates.from_json(encoder.mean_rates, schema.actions),
        leaking=None,
    )


def _tally_training(plan: Plan, ordered: OrderedLog, buckets: CandidateBuckets) -> Tally:
    train = [bucket.number for bucket in ordered.rows.buckets if bucket.split == "train"]
    tally = buckets.tally(train, plan, len(ordered.items))
    if not tally.is_engaged:
        raise InputError(
            f"nobody did anything in training: none of its {int(tally.items.sum()):,} impressions "
            f"has an action, so no label can come of them. Are the action columns of the "
            f"impressions filled in?"
        )
    return tally


def _fit_ids(fitter: Fitter, ordered: OrderedLog, tally: Tally) -> None:
    """Builds the vocabularies of users and queries by training examples, of items by candidates."""
    requests = ordered.requests
    for name, ids, codes in (
        ("user", requests.users, requests.user),
        ("query", requests.queries, requests.query),
    ):
        counts = np.bincount(codes, ordered.rows.examples, len(ids)).astype(np.int64)
        fitter.fit(name, ids, counts)
    fitter.fit("item", ordered.items.ids, tally.items[1:])


def _seen(ordered: OrderedLog) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yields the requests in parts, with how many training examples each has."""
    for first, table in ordered.requests.batches():
        yield table, ordered.rows.examples[first : first + len(table)]


def _leaking_means(
    plan: Plan, ordered: OrderedLog, buckets: CandidateBuckets
) -> LeakingMeans | None:
    if not plan.leaking_means:
        return None
    requests = ordered.requests
    names = [plan.state.actions[action] for action in plan.leaking_means]
    leaking = LeakingMeans(names, len(requests.users), len(ordered.items) - 1)
    for bucket in ordered.rows.buckets:
        candidates = buckets.read(bucket.number)
        labels = candidates.actions[:, list(plan.leaking_means)]
        leaking.add(requests.user[candidates.request], candidates.item, labels, bucket.split)
    return leaking
