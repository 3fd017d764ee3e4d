"""The encoder: all that turns raw rows, and values as of a request, into arrays.

It is fitted on the training split, saved in EXAMPLES, and copied into every RUN that is trained on
them. A model can read any examples whose encoder is that of its run or extends it.

    encoder/encoder.json                an `Encoder`, the SHA-256 of every vocabulary, and its own
    encoder/vocabulary/TABLE.parquet    original value and row, per embedding table of ids

Needs numpy and pyarrow only, so that serving encodes by the same code.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from interactrank_jax.examples import checks
from interactrank_jax.examples.vocabulary import (
    Fingerprint,
    StoredVocabularies,
    Vocabulary,
    hash_rows,
)
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError

FORMAT, FORMAT_VERSION = "interactrank-encoder", 1
DIRECTORY = "encoder"  # in EXAMPLES and in RUN
FILE, VOCABULARIES = "encoder.json", "vocabulary"

# Parts of `config.data` that decide what an id, a token or a feature means.
MEANING = ("text", "vocabulary.out_of_vocabulary", "cross", "history", "query_history")
# The last one has no meaning by itself.
MEANINGLESS = ("cross.corpus", "cross.corpus_requests", "cross.debias.smallest_propensity")
OFF: tuple[Any, ...] = (0, "", "none", [], ())


@dataclasses.dataclass(frozen=True)
class Feature:
    """One input feature as a model sees it.

    Attributes:
      name: its name in the log.
      entity: 'user', 'request' or 'item'.
      kind: 'categorical' (ids), 'text' (padded token ids), 'numeric' or 'embedding' (floats).
      table: embedding table its ids point into ('' for floats).
      width: number of values per entity: 1, tokens of a text, dimensions of an embedding.
    """

    name: str
    entity: str
    kind: str
    table: str = ""
    width: int = 1

    def __str__(self) -> str:
        table = f", table '{self.table}'" if self.table not in ("", self.name) else ""
        return f"{self.name} ({self.entity}, {self.kind}, width {self.width}{table})"


@dataclasses.dataclass(frozen=True)
class NumericStatistics:
    """Training-split statistics of one numeric feature, for the normaliser."""

    minimum: float
    maximum: float
    mean: float
    std: float
    log_mean: float  # of log1p(x - minimum)
    log_std: float


@dataclasses.dataclass(frozen=True)
class CrossStatistics:
    """Training-split statistics of one cross feature.

    Attributes:
      coverage: share of candidates whose value is not zero.
      rms: root mean square over those; 1 where there are none.
    """

    coverage: float
    rms: float


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Everything that decides what an id, a token or a number in the examples means.

    Attributes:
      actions: names, in the order of the `actions` column.
      features: inputs besides ids; 'numeric' ones of requests are stacked in `request_numeric`,
        those of items in the store's `numeric`, in this order.
      cross: names of the cross features, in the order of the `cross` column.
      tables: rows of each embedding table, padding (row 0) and out-of-vocabulary rows included.
      out_of_vocabulary: number of hashed out-of-vocabulary rows, rows 1.. of each id table.
      history_length, query_history_length: padded lengths L, Lq.
      timeless: no feature is as of anything; values from labels are out of fold.
      numeric_statistics, cross_statistics: of the training split, by name of the feature.
      meaning: the fields of `config.data` that decide what a value means, by dotted name.
      fingerprints: of the vocabulary of each table of ids.
      mean_rates: mean rate of each action in the training split.
      vocabularies: by table; read from disk where the encoder was opened.
    """

    actions: tuple[str, ...]
    features: tuple[Feature, ...]
    cross: tuple[str, ...]
    tables: dict[str, int]
    out_of_vocabulary: int
    history_length: int
    query_history_length: int
    timeless: bool
    numeric_statistics: dict[str, NumericStatistics]
    cross_statistics: dict[str, CrossStatistics]
    meaning: dict[str, Any]
    fingerprints: dict[str, Fingerprint]
    mean_rates: dict[str, float] = dataclasses.field(default_factory=dict)
    vocabularies: Mapping[str, Vocabulary] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    @classmethod
    def of_config(
        cls, config: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary], **fields: Any
    ) -> "Encoder":
        """Builds what was fitted.

        Args:
          config: `config.data` as JSON has it.
          vocabularies: by table.
          **fields: the attributes that neither of them gives.
        """
        return cls(
            out_of_vocabulary=int(config["vocabulary"]["out_of_vocabulary"]),
            history_length=int(config["history"]["length"]),
            query_history_length=int(config["query_history"]["length"]),
            meaning=meaning(config),
            fingerprints={name: Fingerprint.of(v.values) for name, v in vocabularies.items()},
            vocabularies=vocabularies,
            **fields,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain dictionaries and lists, the vocabularies by their fingerprints alone."""
        value = dataclasses.asdict(dataclasses.replace(self, vocabularies={}))
        del value["vocabularies"]
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **value}

    @functools.cached_property
    def digest(self) -> str:
        """Hash of it all, vocabularies included."""
        return files.digest(self.to_json())

    def save(self, directory: files.PathLike, with_vocabularies: bool = True) -> None:
        """Writes it into a directory that is new or empty.

        Args:
          directory: the directory.
          with_vocabularies: a bundle has them in another form.
        """
        digests = {}
        if with_vocabularies:
            for name, vocabulary in self.vocabularies.items():
                vocabulary.save(Path(directory) / VOCABULARIES / f"{name}.parquet")
            digests = files.file_digests(Path(directory) / VOCABULARIES)
        files.write_sealed(Path(directory) / FILE, {**self.to_json(), "files": digests})

    @classmethod
    def open(cls, directory: files.PathLike) -> "Encoder":
        """Opens what `save` wrote; vocabularies are read when they are asked for.

        Raises:
          InputError: it is absent, damaged, of another release, or contradicts itself.
        """
        file = Path(directory) / FILE
        if not file.is_file():
            raise InputError(
                f"{file} does not exist. Expected the encoder that `interactrank prepare` and "
                f"`interactrank train` leave there: run that command again."
            )
        value = files.read_sealed(file)
        version = value.pop("format", None), value.pop("format_version", None)
        if version != (FORMAT, FORMAT_VERSION):
            raise InputError(
                f"{file} is of {version}, expected {(FORMAT, FORMAT_VERSION)}: write it again by "
                f"the command that made it."
            )
        try:
            digests = dict(value.pop("files"))
            encoder = cls._from_json(value)
            checks.check_encoder(encoder)
        except InputError as error:
            raise InputError(
                f"{file}: {error} It was edited: write it again by the command that made it."
            ) from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{file} is incomplete ({error!r}): write it again by the command that made it."
            ) from error
        stored = StoredVocabularies(
            Path(directory) / VOCABULARIES,
            encoder.fingerprints,
            digests,
            encoder.out_of_vocabulary,
        )
        return dataclasses.replace(encoder, vocabularies=stored)

    @classmethod
    def _from_json(cls, value: Mapping[str, Any]) -> "Encoder":
        kwargs = dict(value)
        kwargs["features"] = tuple(Feature(**feature) for feature in value["features"])
        for name in ("actions", "cross"):
            kwargs[name] = tuple(value[name])
        for name, kind in (
            ("numeric_statistics", NumericStatistics),
            ("cross_statistics", CrossStatistics),
            ("fingerprints", Fingerprint),
        ):
            kwargs[name] = {key: kind(**item) for key, item in value[name].items()}
        return cls(**kwargs)

    def select(self, entities: Sequence[str], kind: str | None = None) -> tuple[Feature, ...]:
        """Returns the features of some entities, in order, optionally of one kind."""
        return tuple(
            feature
            for feature in self.features
            if feature.entity in entities and kind in (None, feature.kind)
        )

    def difference(self, other: "Encoder", may_grow: bool = False) -> str | None:
        """Returns the first difference, 'NAME was OURS, is THEIRS'; None if the two agree.

        Args:
          other: the encoder that is held against this one.
          may_grow: its vocabularies may have more values, behind those of this one.

        Raises:
          InputError: a vocabulary that has to be read is absent or damaged.
        """
        of_config = config_differences(self.meaning, other.meaning)
        if of_config:
            return of_config[0]
        for part in (Encoder._shape, Encoder._statistics):
            was, now = dict(part(self)), dict(part(other))
            for name in was | now:
                if was.get(name) != now.get(name):
                    return f"{name} was {was.get(name, 'absent')}, is {now.get(name, 'absent')}"
            if part is Encoder._shape:
                for name in self.fingerprints:
                    difference = self._vocabulary_difference(name, other, may_grow)
                    if difference:
                        return difference
        return None

    def extends(self, old: "Encoder") -> bool:
        """Whether a model of `old` can read examples of this one; every encoder extends itself.

        So it is where everything is as it was, but that vocabularies may have gone on.
        """
        return old.difference(self, may_grow=True) is None

    def rows_in(self, old: "Encoder") -> dict[str, np.ndarray]:
        """Returns which row of `old` serves each row of this one, by table that has grown.

        What `old` does not know has the hashed row that `old` gives it.

        Args:
          old: an encoder that this one extends.

        Returns:
          int32 `[rows of the table]`.
        """
        result = {}
        for name, fingerprint in self.fingerprints.items():
            length = old.fingerprints[name].length
            if fingerprint.length > length:
                unknown = self.vocabularies[name].values.slice(length)
                kept = np.arange(old.tables[name], dtype=np.int32)
                result[name] = np.concatenate([kept, hash_rows(unknown, old.out_of_vocabulary)])
        return result

    def _shape(self) -> Iterator[tuple[str, Any]]:
        """Yields name and value of whatever decides the shapes of arrays."""
        yield "timeless", self.timeless
        yield "actions", list(self.actions)
        for number, feature in enumerate(self.features, 1):
            yield f"feature {number}", str(feature)
        yield "cross", list(self.cross)
        yield "out_of_vocabulary", self.out_of_vocabulary
        yield "history_length", self.history_length
        yield "query_history_length", self.query_history_length
        yield "vocabularies", sorted(self.fingerprints)
        for name, rows in self.tables.items():
            if name not in self.fingerprints:
                yield f"rows of table '{name}'", rows

    def _statistics(self) -> Iterator[tuple[str, Any]]:
        """Yields name and value of every statistic."""
        for part in ("numeric_statistics", "cross_statistics"):
            for name, statistics in getattr(self, part).items():
                for field, value in dataclasses.asdict(statistics).items():
                    yield f"{field} of '{name}'", value
        for name, rate in self.mean_rates.items():
            yield f"mean rate of '{name}'", rate

    def _vocabulary_difference(self, name: str, other: "Encoder", may_grow: bool) -> str | None:
        if self.fingerprints[name] == other.fingerprints[name]:
            return None
        was, now = self.vocabularies[name].values, other.vocabularies[name].values
        if was.type != now.type:
            return f"type of vocabulary '{name}' was {was.type}, is {now.type}"
        shared = min(len(was), len(now))
        differs = pc.not_equal(was.slice(0, shared), now.slice(0, shared))
        first = pc.index(differs, True).as_py()
        if first >= 0:
            row = 1 + self.out_of_vocabulary + first
            old, new = was[first].as_py(), now[first].as_py()
            return f"row {row} of vocabulary '{name}' was {old!r}, is {new!r}"
        if may_grow and len(was) <= len(now):
            return None
        return f"length of vocabulary '{name}' was {len(was)}, is {len(now)}"


def meaning(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns by dotted name the fields of `config.data` that decide what a value means."""
    result: dict[str, Any] = {}
    for name, value in config.items():
        path = prefix + name
        if isinstance(value, Mapping):
            result |= meaning(value, f"{path}.")
        elif path not in MEANINGLESS and any(f"{path}.".startswith(f"{part}.") for part in MEANING):
            result[path] = value
    return result


def config_differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns 'config.data.NAME was OLD, is NEW' for each difference of two `meaning`s.

    A field that one of them does not have is off there.
    """
    differ = []
    for name in sorted({*was, *now}):
        old, new = was.get(name), now.get(name)
        is_off_in_both = (name not in was and new in OFF) or (name not in now and old in OFF)
        if old != new and not is_off_in_both:
            differ.append(f"config.data.{name} was {old}, is {new}")
    return differ
