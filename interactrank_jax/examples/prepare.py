"""The preparation station: from a log to examples, top to bottom.

    open and validate -> dense ids -> splits and folds -> vocabularies and item store ->
    histories -> cross features -> blocks, ragged cross features, raw rows, metadata

Everything goes into a directory beside `out`, which is renamed when it is whole.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax import configuration
from interactrank_jax.examples import (
    encode,
    engagements,
    extension,
    frames,
    history,
    protocols,
    splits,
)
from interactrank_jax.examples.assemble import Assembly, action_patterns
from interactrank_jax.examples.blocks import BlockWriter
from interactrank_jax.examples.cross_features import CrossFeatures
from interactrank_jax.examples.format import (
    FORMAT_VERSION,
    REQUEST_ENTITIES,
    Examples,
    Metadata,
    SparseCross,
    Split,
    write_metadata,
)
from interactrank_jax.io import files, outputs
from interactrank_jax.log import schema
from interactrank_jax.log.validate import validate
from interactrank_jax.log.values import as_values

MEMORY_LIMIT = "4GB"  # of DuckDB, which spills to disk beyond it


def prepare(
    config: Any,
    log_path: files.PathLike,
    out: files.PathLike,
    extend: files.PathLike | None = None,
    progress: Callable[[str], None] = lambda phase: None,
) -> Metadata:
    """Turns a log into examples.

    Args:
      config: the `data` part of a config.
      log_path: directory of the log (see `log/schema.py`).
      out: directory to write, new or empty.
      extend: older examples whose vocabularies, item store rows and statistics are kept; new ids
        and items are appended, so that a model trained on those can go on with these.
      progress: called with the name of each phase as it begins.

    Returns:
      What `metadata.json` holds.

    Raises:
      InputError: the log, the config or `extend` does not hold, a split is empty, or nothing was
        ever engaged with in training.
    """
    log = schema.open_log(log_path)
    outputs.output_directory(out, log.path, *([extend] if extend is not None else []))
    progress("validate")
    plan = splits.make_plan(config, log)
    config_json = configuration.to_json(config)
    old = Examples(extend) if extend is not None else None
    if old is not None:
        extension.check_extension(config_json, log, plan, old)
    log_statistics = validate(log)
    if old is not None:
        extension.check_columns(log, old)
    actions = log.schema.actions

    with outputs.new_directory(out) as directory, outputs.scratch_directory() as scratch:
        progress("read")
        raw_items = encode.item_table(frames.read_table(log, "items"), log.schema, old)
        item_ids = as_values(raw_items["item_id"])
        recipe = plan.cross
        requests = frames.read_requests(log, plan.segments, plan.timeless, recipe.query_form)
        impressions = frames.read_impressions(log, requests, item_ids)
        split = splits.assign_splits(plan, requests, impressions, config.seed)
        fold = splits.assign_folds(plan, split, config.seed)
        if plan.protocol == protocols.PUBLISHED:
            log, raw_items, requests, impressions = protocols.publish(
                plan.leaking_means, split, log, raw_items, requests, impressions
            )
            item_ids = as_values(raw_items["item_id"])
        train = np.flatnonzero(split == 0)
        # With time all rows count, each as of the request. Timeless, training rows alone do, in an
        # order that is shuffled before labels are looked at: made from engagements alone, the
        # order itself would tell of labels.
        countable = np.arange(len(split))
        if plan.timeless:
            countable = np.random.default_rng([config.seed, 1]).permutation(train)
        cap = recipe.user_day_cap
        if log.has_events and not plan.timeless:
            done = engagements.from_events(log, requests, item_ids, cap)
        else:
            done = engagements.from_impressions(
                impressions, requests, fold, countable, item_ids, cap
            )
        counted = done
        weight = recipe.impression_weight(
            impressions.position, impressions.optional.get("propensity")
        )
        if plan.counts_impressions:
            shown = engagements.impressions_shown(
                impressions, requests, fold, countable, weight, item_ids, cap
            )
            counted = engagements.concatenate(done, shown)
        shown_in_train = train[impressions.shown[train]]
        mean_rates, mean_weight = (
            history.mean_over_visible(values[shown_in_train], fold[shown_in_train], plan.folds)
            for values in (impressions.actions, weight[:, None])
        )
        slates = {
            name: splits.make_slates(impressions, np.flatnonzero(split == index), fold, plan.slate)
            for index, name in enumerate(splits.SPLITS)
        }

        progress("features")
        encoder = encode.Encoder(config, old)
        seen = np.bincount(slates["train"].request, minlength=len(requests.user))
        seen_items = np.bincount(impressions.item[train], minlength=len(item_ids))
        user_row, query_row = (
            encoder.ids(name, values, np.bincount(codes, seen, len(values)))[codes]
            for name, values, codes in (
                ("user", requests.users, requests.user),
                ("query", requests.queries, requests.query),
            )
        )
        item_row = np.append(np.int32(0), encoder.ids("item", item_ids.slice(1), seen_items[1:]))
        encoded = {
            "request": encoder.encode(log.schema.select(REQUEST_ENTITIES), requests.table, seen),
            "item": encoder.encode(
                log.schema.select(("item",)), raw_items.slice(1), seen_items[1:]
            ),
        }
        described = encode.describe(log.schema.features, encoded)
        described += history.rate_names(actions, plan.rates)
        encode.write_items(directory, raw_items, item_row, seen_items, encoded["item"])
        for name, vocabulary in encoder.vocabularies.items():
            vocabulary.save(directory / "vocabulary" / f"{name}.parquet")

        progress("histories")
        user_history = history.UserHistory(
            counted,
            users=len(requests.users),
            actions=plan.history_actions,
            length=config.history.length,
            delay_s=plan.delay_s,
            folds=plan.folds,
        )
        query_history = history.QueryHistory(
            done,
            actions=plan.query_history_actions,
            length=config.query_history.length,
            lag_days=plan.lag_days,
        )

        progress("cross features")
        in_cross = counted.take(counted.is_counted)
        cross = CrossFeatures(
            recipe,
            in_cross,
            in_cross.fold if plan.timeless else frames.day(in_cross.time),
            actions=actions,
            mean_rates=mean_rates / np.where(mean_weight > 0, mean_weight, 1),
            created=frames.created_days(log, item_ids) if recipe.has_fresh else None,
            backend=ibis.duckdb.connect(temp_directory=scratch, memory_limit=MEMORY_LIMIT),
        )

        day = frames.day(requests.timestamp)
        period = fold if plan.timeless else day[impressions.request]
        numerator, denominator = cross.counts(
            requests.query[impressions.request],
            impressions.item,
            period,
            {key: codes[impressions.request] for key, codes in requests.segments.items()},
        )
        values = cross.values(numerator, denominator, period)
        own_count, own_total = (
            np.rint(counts[:, cross.first_levels]).astype(np.int32)
            for counts in (numerator, denominator)
        )
        sizes: dict[str, Split] = {}
        for name, part in slates.items():
            progress(f"write {name}")
            first = part.rows[part.start]  # of each example; all its rows share user and fold
            user_counts = user_history.counts(
                requests.user[part.request],
                requests.timestamp[part.request],
                fold[first],
                (*range(len(actions)), engagements.IMPRESSION),
            )
            rates = history.rate_features(
                user_counts[:, :-1], user_counts[:, -1], plan.rates, mean_rates[fold[first]]
            )
            numeric = np.concatenate([encoded["request"].numeric[part.request], rates], axis=1)

            def past(examples: np.ndarray, part=part, first=first) -> history.History:
                request = part.request[examples]
                return user_history.last(
                    requests.user[request], requests.timestamp[request], fold[first[examples]]
                )

            assembly = Assembly(
                slates=part,
                width=plan.slate,
                per_request={"user": user_row, "query": query_row}
                | {f"request/{key}": value for key, value in encoded["request"].columns.items()},
                per_example={
                    "request_index": part.request_index,
                    "request_numeric": numeric,
                    "query_history_item": query_history.top(
                        requests.query[part.request], period[first]
                    ),
                },
                per_candidate={
                    "item": impressions.item[part.rows],
                    "position": impressions.position[part.rows],
                    "actions": impressions.actions[part.rows],
                    "cross": values[part.rows],
                    "cross_count": own_count[part.rows],
                    "cross_total": own_total[part.rows],
                }
                | {key: value[part.rows] for key, value in impressions.optional.items()},
                past=past,
            )
            order = np.arange(len(part.start))
            if name == "train":
                order = splits.training_order(len(order), config.seed)
                numeric_statistics = encode.all_numeric_statistics(
                    described, numeric, encoded["item"].numeric, seen_items[1:]
                )
                cross_statistics = {
                    spec.name: encode.cross_statistics(values[part.rows, k])
                    for k, spec in enumerate(recipe.specs)
                }
            elif plan.has_corpus:
                write_sparse_cross(
                    directory / "cross" / name,
                    cross.sparse(
                        requests.query[part.distinct],
                        np.full(len(part.distinct), history.NO_FOLD)
                        if plan.timeless
                        else day[part.distinct],
                        {key: codes[part.distinct] for key, codes in requests.segments.items()},
                    ),
                )
            with BlockWriter(directory / name) as writer:
                for block in assembly.blocks(order, config.block_size):
                    writer.write(block)
            pq.write_table(
                requests.table.take(pa.array(part.distinct)), directory / "raw" / f"{name}.parquet"
            )
            sizes[name] = Split(
                examples=len(order),
                requests=len(part.distinct),
                candidates=len(part.rows),
                actions=action_patterns(impressions.actions[part.rows]),
                files=writer.files,
            )

        progress("metadata")
        metadata = Metadata(
            format_version=FORMAT_VERSION,
            actions=tuple(actions),
            features=described,
            cross=tuple(spec.name for spec in recipe.specs),
            tables=encoder.tables(),
            out_of_vocabulary=int(config.vocabulary.out_of_vocabulary),
            slate=plan.slate,
            history_length=int(config.history.length),
            query_history_length=int(config.query_history.length),
            timeless=plan.timeless,
            candidate_columns=tuple(impressions.optional),
            numeric_statistics=numeric_statistics,
            cross_statistics=cross_statistics,
            splits=sizes,
            log_statistics=log_statistics,
            config=config_json,
            digest=examples_digest(log, config, old),
            extends=old.metadata.digest if old is not None else "",
        )
        if old is not None:
            # A model reads numbers by the statistics that it was trained with.
            metadata = dataclasses.replace(
                metadata,
                numeric_statistics=old.metadata.numeric_statistics,
                cross_statistics=old.metadata.cross_statistics,
            )
        write_metadata(directory, metadata)
    return metadata


def write_sparse_cross(directory: Path, sparse: SparseCross) -> None:
    """Writes the arrays that `Examples.sparse_cross` reads."""
    directory.mkdir(parents=True)
    for field in dataclasses.fields(SparseCross):
        files.save_array(directory / f"{field.name}.npy", getattr(sparse, field.name))


def examples_digest(log: schema.Log, config: Any, old: Examples | None = None) -> str:
    """Returns the hash of the log, the `data` part of a config, and the examples extended."""
    of_config = configuration.to_json(config)
    return files.digest([log_digest(log), of_config, old and old.metadata.digest])


def log_digest(log: schema.Log) -> dict[str, str]:
    """Returns the SHA-256 of each file of a log."""
    paths = [log.path / "schema.json", *(p for name in schema.TABLES for p in log.files(name))]
    return {str(path.relative_to(log.path)): files.file_digest(path) for path in paths}
