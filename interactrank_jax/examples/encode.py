"""Vocabularies, encoded features and their training statistics, and the item store."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.examples.format import (
    REQUEST_ENTITIES,
    CrossStatistics,
    Examples,
    Feature,
    NumericStatistics,
)
from interactrank_jax.examples.text import tokenize
from interactrank_jax.examples.vocabulary import Vocabulary
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.log.values import as_values, concat_tables, index_in

TEXT_TABLE = "text"


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Features of some entity as arrays.

    Attributes:
      columns: per feature that is not numeric `[N]` or `[N, width]`: int32 rows of its table, or
        float32.
      numeric: `[N, Fn]` float32, the numeric features in their declared order.
    """

    columns: dict[str, np.ndarray]
    numeric: np.ndarray


class Encoder:
    """Builds vocabularies from what training saw, and turns columns into arrays by them.

    Args:
      config: `config.data`.
      old: examples whose vocabularies are kept and extended, if any.
    """

    def __init__(self, config: Any, old: Examples | None):
        self._text = config.text
        self._min_count = int(config.vocabulary.min_count)
        self._out_of_vocabulary = int(config.vocabulary.out_of_vocabulary)
        self._old = old
        self.vocabularies: dict[str, Vocabulary] = {}
        self.has_text = False

    def tables(self) -> dict[str, int]:
        """Returns the number of rows of every embedding table."""
        tables = {name: vocabulary.size for name, vocabulary in self.vocabularies.items()}
        return tables | ({TEXT_TABLE: 1 + int(self._text.buckets)} if self.has_text else {})

    def ids(self, name: str, values: pa.Array, counts: np.ndarray) -> np.ndarray:
        """Builds table `name` and returns the row of each value, int32 `[V]`.

        Args:
          name: of the table.
          values: `[V]` distinct.
          counts: `[V]` how often training saw each.
        """
        old = None
        if self._old is not None:
            path = self._old.file(f"vocabulary/{name}.parquet")
            old = Vocabulary.load(path, self._out_of_vocabulary)
        vocabulary = Vocabulary.build(values, counts, self._min_count, self._out_of_vocabulary, old)
        self.vocabularies[name] = vocabulary
        return vocabulary.rows(values)

    def encode(
        self, features: Sequence[FeatureSpec], table: pa.Table, counts: np.ndarray
    ) -> Encoded:
        """Encodes the columns of N entities.

        Args:
          features: which columns.
          table: N rows.
          counts: `[N]` how often training saw each row; vocabularies are made from those.

        Raises:
          InputError: a number is not finite.
        """
        columns, numeric = {}, []
        for feature in features:
            column = table[feature.name]
            if feature.kind == "numeric":
                numeric.append(_finite(feature.name, column.to_numpy().astype(np.float32)))
            elif feature.kind == "embedding":
                columns[feature.name] = _finite(feature.name, embedding_matrix(column))
            elif feature.kind == "text":
                self.has_text = True
                columns[feature.name] = tokenize(
                    as_values(column),
                    buckets=int(self._text.buckets),
                    max_tokens=int(self._text.max_tokens),
                    ngram=int(self._text.ngram),
                )
            else:
                distinct = as_values(column).dictionary_encode()
                codes = distinct.indices.to_numpy(zero_copy_only=False)
                seen = np.bincount(codes, counts, len(distinct.dictionary)).astype(np.int64)
                columns[feature.name] = self.ids(feature.name, distinct.dictionary, seen)[codes]
        stacked = np.stack(numeric, axis=1) if numeric else np.zeros((len(table), 0), np.float32)
        return Encoded(columns, stacked)


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    """Returns the values, which the checks of the log let pass: one NaN would spoil a whole run."""
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise InputError(
            f"feature '{name}' is not finite in {len(bad):,} of {len(values):,} rows, for example "
            f"{values[bad[0]]}. Expected finite numbers: correct the log."
        )
    return values


def embedding_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Returns a column of lists of one width as float32 `[N, width]`."""
    lists = pa.concat_arrays(column.chunks)
    return lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(lists), -1)


def describe(specs: Sequence[FeatureSpec], encoded: Mapping[str, Encoded]) -> tuple[Feature, ...]:
    """Returns the features as models see them.

    Args:
      specs: declared features.
      encoded: what they became, for entity 'item' and for 'request' (user features included).
    """
    result = []
    for spec in specs:
        entity = "request" if spec.entity in REQUEST_ENTITIES else spec.entity
        table = {"categorical": spec.name, "text": TEXT_TABLE}.get(spec.kind, "")
        width = 1
        if spec.kind in ("text", "embedding"):
            width = encoded[entity].columns[spec.name].shape[1]
        result.append(Feature(spec.name, spec.entity, spec.kind, table, width))
    return tuple(result)


def numeric_statistics(name: str, values: np.ndarray, weights: np.ndarray) -> NumericStatistics:
    """Returns the statistics of one numeric feature.

    Args:
      name: of the feature.
      values: `[N]`.
      weights: `[N]` how often training saw each value; at least one is positive.

    Raises:
      InputError: a statistic is not finite.
    """
    values, weights = values[weights > 0].astype(np.float64), weights[weights > 0]
    logs = np.log1p(values - values.min())

    def mean_std(x: np.ndarray) -> tuple[float, float]:
        mean = np.average(x, weights=weights)
        return float(mean), float(np.sqrt(np.average((x - mean) ** 2, weights=weights)))

    result = NumericStatistics(
        float(values.min()), float(values.max()), *mean_std(values), *mean_std(logs)
    )
    if not np.isfinite(dataclasses.astuple(result)).all():
        raise InputError(
            f"feature '{name}' has statistics that are not finite: {result}. Expected finite "
            f"values in training: correct the log."
        )
    return result


def all_numeric_statistics(
    described: Sequence[Feature],
    request_numeric: np.ndarray,
    item_numeric: np.ndarray,
    item_counts: np.ndarray,
) -> dict[str, NumericStatistics]:
    """Returns the statistics of every numeric feature, as training sees it.

    Args:
      described: all features.
      request_numeric: `[E, Fn]` of the training examples.
      item_numeric: `[I, Fn]` of the items.
      item_counts: `[I]` training impressions of each.
    """
    result = {}
    once = np.ones(len(request_numeric))
    for entities, values, weights in (
        (REQUEST_ENTITIES, request_numeric, once),
        (("item",), item_numeric, item_counts),
    ):
        names = [f.name for f in described if f.entity in entities and f.kind == "numeric"]
        for column, name in enumerate(names):
            result[name] = numeric_statistics(name, values[:, column], weights)
    return result


def cross_statistics(values: np.ndarray) -> CrossStatistics:
    """Returns the statistics of one cross feature over the training candidates `[M]`."""
    known = values[values != 0].astype(np.float64)
    rms = float(np.sqrt(np.mean(known**2))) if len(known) else 1.0
    return CrossStatistics(len(known) / max(len(values), 1), rms)


def item_table(items: pa.Table, schema: Schema, old: Examples | None) -> pa.Table:
    """Returns the raw item of each store row; row 0 is null.

    Rows of `old` come first, in their places, with what the log now says of them; items that the
    log no longer has keep what `old` knew. New items follow in the log's order.
    """
    columns = ["item_id", *(feature.name for feature in schema.select(("item",)))]
    items = items.select(columns)
    if old is None:
        return items.take(pa.array([None, *range(len(items))], pa.int64()))
    before = old.raw_items().select(columns).slice(1)
    ids, old_ids = as_values(items["item_id"]), as_values(before["item_id"])
    found = index_in(old_ids, ids)
    kept = np.where(found >= 0, found, len(ids) + np.arange(len(old_ids)))
    new = np.flatnonzero(index_in(ids, old_ids) < 0)
    both = concat_tables([items, before])
    return both.take(pa.array([None, *kept.tolist(), *new.tolist()], pa.int64()))


def write_items(
    directory: Path, raw: pa.Table, ids: np.ndarray, counts: np.ndarray, encoded: Encoded
) -> None:
    """Writes the item store.

    Args:
      directory: of the examples.
      raw: I rows, the first null.
      ids: `[I]` embedding row of each item.
      counts: `[I]` training impressions.
      encoded: features of the items, I - 1 rows: the padding row is added here.
    """
    folder = directory / "items"
    folder.mkdir(parents=True)
    (directory / "raw").mkdir(exist_ok=True)
    arrays = {"id": ids.astype(np.int32), "count": counts.astype(np.int32)}
    for name, value in {**encoded.columns, "numeric": encoded.numeric}.items():
        arrays[name] = np.concatenate([np.zeros((1, *value.shape[1:]), value.dtype), value])
    for name, value in arrays.items():
        files.save_array(folder / f"{name}.npy", value)
    pq.write_table(raw.select(["item_id"]), folder / "ids.parquet")
    pq.write_table(raw, directory / "raw" / "items.parquet")
