"""Vocabularies, fitted on what training saw, and features encoded by them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.encoder import Encoder, Feature
from interactrank_jax.examples.format import REQUEST_ENTITIES
from interactrank_jax.examples.text import tokenize
from interactrank_jax.examples.vocabulary import Vocabulary
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import FeatureSpec
from interactrank_jax.log.values import as_values

TEXT_TABLE = "text"
_NUMERIC = ":numeric"  # no feature has a colon in its name


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


class Fitter:
    """Builds vocabularies from what training saw, and turns columns into arrays by them.

    Args:
      config: `config.data`.
      old: an encoder whose vocabularies are kept and extended, if any.
    """

    def __init__(self, config: Any, old: Encoder | None):
        self._text = TextOptions(**{name: int(value) for name, value in config.text.items()})
        self._min_count = int(config.vocabulary.min_count)
        self._out_of_vocabulary = int(config.vocabulary.out_of_vocabulary)
        self._old = old
        self.vocabularies: dict[str, Vocabulary] = {}

    @classmethod
    def of_encoder(cls, encoder: Encoder) -> "Fitter":
        """Returns a fitter that fits nothing, with the vocabularies of an encoder."""
        fitter = cls.__new__(cls)
        fitter._text = TextOptions.of_encoder(encoder)
        fitter.vocabularies = {name: encoder.vocabularies[name] for name in encoder.vocabularies}
        return fitter

    def fit(self, name: str, values: pa.Array, counts: np.ndarray) -> None:
        """Builds the vocabulary of table `name`.

        Args:
          name: of the table.
          values: `[V]` distinct.
          counts: `[V]` how often training saw each.
        """
        old = self._old.vocabularies[name] if self._old is not None else None
        self.vocabularies[name] = Vocabulary.build(
            values, counts, self._min_count, self._out_of_vocabulary, old
        )

    def fit_features(
        self, features: Sequence[FeatureSpec], tables: Iterable[tuple[pa.Table, np.ndarray]]
    ) -> None:
        """Builds the vocabularies of categorical features.

        Args:
          features: which columns; others than categorical ones have no vocabulary.
          tables: parts of a table, with `[N]` how often training saw each row.
        """
        names = [feature.name for feature in features if feature.kind == "categorical"]
        totals = {name: ValueCounts() for name in names}
        for table, counts in tables if names else ():
            for name, total in totals.items():
                total.add(as_values(table[name]), counts)
        for name, total in totals.items():
            self.fit(name, *total.result())

    @property
    def text_rows(self) -> int:
        """Rows of the table of texts."""
        return 1 + self._text.buckets

    def encode(self, features: Sequence[FeatureSpec], table: pa.Table) -> Encoded:
        """Encodes the columns of N entities, see `encode_features`, by what was fitted."""
        return encode_features(features, table, self.vocabularies, self._text)


@dataclasses.dataclass(frozen=True)
class TextOptions:
    """How texts become tokens: `config.data.text`."""

    buckets: int
    max_tokens: int
    ngram: int

    @classmethod
    def of_encoder(cls, encoder: Encoder) -> "TextOptions":
        """Returns those that an encoder was fitted with."""
        names = (field.name for field in dataclasses.fields(cls))
        return cls(**{name: int(encoder.meaning[f"text.{name}"]) for name in names})


def encode_features(
    features: Sequence[FeatureSpec | Feature],
    table: pa.Table,
    vocabularies: Mapping[str, Any],
    text: TextOptions,
) -> Encoded:
    """Encodes the columns of N entities.

    Args:
      features: which columns.
      table: N rows.
      vocabularies: of categorical features by name: `rows` of values.
      text: how texts become tokens.

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
            columns[feature.name] = tokenize(
                as_values(column),
                buckets=text.buckets,
                max_tokens=text.max_tokens,
                ngram=text.ngram,
            )
        else:
            columns[feature.name] = vocabularies[feature.name].rows(as_values(column))
    stacked = np.stack(numeric, axis=1) if numeric else np.zeros((len(table), 0), np.float32)
    return Encoded(columns, stacked)


class ValueCounts:
    """How often training saw each value of a column, summed over parts of a table."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []

    def add(self, values: pa.Array, counts: np.ndarray) -> None:
        """Adds `[N]` values that were seen so often each."""
        encoded = values.dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        sums = np.bincount(codes, counts, len(encoded.dictionary)).astype(np.int64)
        self._parts.append(pa.table({"value": encoded.dictionary, "count": sums}))

    def result(self) -> tuple[pa.Array, np.ndarray]:
        """Returns the distinct values `[V]` and their counts, in the order of values."""
        parts = pa.concat_tables(self._parts).group_by("value").aggregate([("count", "sum")])
        parts = parts.sort_by("value")
        return as_values(parts["value"]), parts["count_sum"].to_numpy()


class RequestArrays:
    """The encoded features of all requests, `[R, ...]`, on disk and mapped into memory.

    Args:
      directory: new.
      requests: R.
    """

    def __init__(self, directory: Path, requests: int):
        self._directory, self._requests = directory, requests
        self._arrays: dict[str, np.ndarray] = {}
        directory.mkdir(parents=True)

    def write(self, first: int, encoded: Encoded) -> None:
        """Writes the features of some requests, from row `first` on."""
        for name, values in {**encoded.columns, _NUMERIC: encoded.numeric}.items():
            if name not in self._arrays:
                self._arrays[name] = self._new(values)
            self._arrays[name][first : first + len(values)] = values

    def _new(self, values: np.ndarray) -> np.ndarray:
        shape = (self._requests, *values.shape[1:])
        if not np.prod(shape):  # an empty file cannot be mapped
            return np.zeros(shape, values.dtype)
        path = self._directory / f"{len(self._arrays)}.npy"
        return np.lib.format.open_memmap(path, "w+", values.dtype, shape)

    @property
    def encoded(self) -> Encoded:
        """All of them."""
        columns = {name: values for name, values in self._arrays.items() if name != _NUMERIC}
        return Encoded(columns, self._arrays[_NUMERIC])


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    """Returns the values, which the checks of the log let pass: one NaN would spoil a whole run."""
    finite = np.isfinite(values)
    bad = np.flatnonzero(~finite.all(axis=tuple(range(1, values.ndim))))
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
