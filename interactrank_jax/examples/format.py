"""What `prepare` leaves on disk and everything after it reads: the contract between the two.

    EXAMPLES/
      metadata.json                 a `Metadata`, the SHA-256 of every other file, and its own
      train|validation|test/        blocks of examples (`blocks.py`)
      items/*.npy                   the item store: one row per item, row 0 is padding
      items/ids.parquet             original item id of each row
      encoder/                      what turned raw rows into arrays (`encoder.py`)
      cross/SPLIT/*.npy             ragged cross features of the evaluation splits (`SparseCross`)
      raw/SPLIT.parquet             the requests as they came, one row per `request_index`
      raw/items.parquet             the items as they came, one row per store row (row 0 is null)

Every file is held against its SHA-256 once per process, before it is first used, and each block has
a checksum of its own: damage is an error that names the file.

This module imports neither ibis nor duckdb, nor what reads logs.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.examples import blocks, checks
from interactrank_jax.examples import encoder as encoder_module
from interactrank_jax.examples.encoder import (
    CrossStatistics,
    Encoder,
    Feature,
    NumericStatistics,
)
from interactrank_jax.examples.survey import Survey
from interactrank_jax.io import artifact, contents, files
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.negatives import SampledNegatives

FORMAT_VERSION = 4
METADATA_FILE = "metadata.json"
KIND = artifact.Kind("examples", "prepare", METADATA_FILE, FORMAT_VERSION)
STATE = "state"  # the directory of STATE in it, which has manifests of its own
NO_GROUP = -1  # of a request without cross features beyond its slate
PADDING = 0  # in every id column: row 0 of a table or of the item store

REQUEST_ENTITIES = ("user", "request")
PUBLISHED = "published"  # the protocol that leaks the label, see `protocols.py`


def describe_protocol(name: str, negatives: SampledNegatives | None = None) -> str:
    """Returns a protocol's name, and what must be said wherever it is named."""
    words = f"{name}, which leaks the label" if name == PUBLISHED else name
    return words if negatives is None else f"{words}, negatives: {negatives.describe()}"


@dataclasses.dataclass(frozen=True)
class Split:
    """Sizes and files of one split.

    Attributes:
      examples: padded slates.
      requests: distinct requests; a request with more candidates than a slate has several examples.
      candidates: impressions, padding left out.
      actions: number of candidates by pattern of their actions, e.g. {'1000': 5} for the first
        action alone. From it any label's class counts follow exactly.
      files: name and number of blocks, in order.
    """

    examples: int
    requests: int
    candidates: int
    actions: dict[str, int]
    files: list[tuple[str, int]]


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Everything about the examples that is not an array.

    Attributes:
      encoder: what turned raw rows into arrays; saved beside it. Its attributes are read through
        this class too.
      slate: padded length C of a slate.
      candidate_columns: which optional columns exist: 'propensity', 'stage', 'teacher_score'.
      config: `config.data` as it was prepared with.
      digest: hash of the log and of the preparation's config.
      extends: digest of the examples whose vocabularies these continue, or ''.
      survey: what `warnings.py` may have to speak of; None of an older release.
    """

    encoder: Encoder
    slate: int
    candidate_columns: tuple[str, ...]
    splits: dict[str, Split]
    log_statistics: dict[str, Any]
    config: dict[str, Any]
    digest: str
    extends: str = ""
    survey: Survey | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns plain dictionaries and lists, the encoder by its digest alone."""
        value = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("encoder", "splits", "survey")
        }
        splits = {name: dataclasses.asdict(split) for name, split in self.splits.items()}
        if self.survey is not None:
            value["survey"] = dataclasses.asdict(self.survey)
        return {**value, "splits": splits, "encoder": self.encoder.digest}

    @property
    def actions(self) -> tuple[str, ...]:
        """See `Encoder`."""
        return self.encoder.actions

    @property
    def features(self) -> tuple[Feature, ...]:
        """See `Encoder`."""
        return self.encoder.features

    @property
    def cross(self) -> tuple[str, ...]:
        """See `Encoder`."""
        return self.encoder.cross

    @property
    def tables(self) -> dict[str, int]:
        """See `Encoder`."""
        return self.encoder.tables

    @property
    def out_of_vocabulary(self) -> int:
        """See `Encoder`."""
        return self.encoder.out_of_vocabulary

    @property
    def history_length(self) -> int:
        """See `Encoder`."""
        return self.encoder.history_length

    @property
    def query_history_length(self) -> int:
        """See `Encoder`."""
        return self.encoder.query_history_length

    @property
    def timeless(self) -> bool:
        """See `Encoder`."""
        return self.encoder.timeless

    @property
    def numeric_statistics(self) -> dict[str, NumericStatistics]:
        """See `Encoder`."""
        return self.encoder.numeric_statistics

    @property
    def cross_statistics(self) -> dict[str, CrossStatistics]:
        """See `Encoder`."""
        return self.encoder.cross_statistics

    @property
    def protocol(self) -> str:
        """How the log was split, and what features know of labels (`protocols.py`)."""
        return str(self.config["protocol"])

    @property
    def negatives(self) -> SampledNegatives | None:
        """How the log's negatives were sampled; None where they are as they came."""
        value = self.log_statistics.get("negatives")
        return None if value is None else SampledNegatives.from_json(value)

    @property
    def protocol_in_words(self) -> str:
        """What every output says of how these examples were made."""
        return describe_protocol(self.protocol, self.negatives)

    @classmethod
    def read(cls, value: Any, encoder: Encoder, file: files.PathLike) -> "Metadata":
        """Builds it from what `file` holds, and checks that its parts fit each other.

        Args:
          value: what `to_json` gave.
          encoder: the one that was saved with it.
          file: for messages.

        Raises:
          InputError: they do not, or parts are absent; the message names the file.
        """
        try:
            if value["encoder"] != encoder.digest:
                raise InputError(
                    f"it was written with another encoder (hash {value['encoder']}) than lies "
                    f"beside it (hash {encoder.digest})."
                )
            splits = {name: Split(**split) for name, split in value["splits"].items()}
            columns = tuple(value["candidate_columns"])
            parts = {"encoder": encoder, "splits": splits, "candidate_columns": columns}
            if "survey" in value:
                parts["survey"] = Survey.from_json(value["survey"])
            metadata = cls(**{**value, **parts})
            checks.check_metadata(metadata)
        except InputError as error:
            raise InputError(f"{file}: {error} It was edited: prepare again.") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{file} is incomplete ({error!r}): prepare again.") from error
        return metadata

    def select(self, entities: Sequence[str], kind: str | None = None) -> tuple[Feature, ...]:
        """Returns the features of some entities, in order, optionally of one kind."""
        return self.encoder.select(entities, kind)


@dataclasses.dataclass(frozen=True)
class SparseCross:
    """Cross features of whole requests, beyond their slates: ragged, sorted by item.

    Requests with the same query, day and segments share one group.

    Attributes:
      group: `[requests]` group of each request_index; `NO_GROUP` where none was prepared.
      indptr: `[groups + 1]`; entries of group g are `indptr[g]:indptr[g + 1]`.
      item: `[entries]` store row, ascending within a group.
      value: `[entries, K]` float32; an item that is absent has zeros.
    """

    group: np.ndarray
    indptr: np.ndarray
    item: np.ndarray
    value: np.ndarray

    def padded(self, request_index: np.ndarray, num_items: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns items `[R, M]` and values `[R, M, K]`, padded with item `num_items`.

        M is the power of two that holds the longest list, so that few shapes are compiled. A
        request without a group has no items.
        """
        groups = self.group[request_index]
        lengths = self.indptr[groups + 1] - self.indptr[groups]
        lengths = np.where(groups == NO_GROUP, 0, lengths)
        width = 1 << int(max(lengths.max(initial=1), 1) - 1).bit_length()
        column = np.arange(width)
        inside = column < lengths[:, None]
        index = np.where(inside, self.indptr[groups][:, None] + column, 0)
        if not len(self.item):
            shape = (len(groups), width)
            return np.full(shape, num_items, np.int32), np.zeros(
                (*shape, self.value.shape[1]), np.float32
            )
        items = np.where(inside, self.item[index], num_items).astype(np.int32)
        values = np.where(inside[..., None], self.value[index], 0).astype(np.float32)
        return items, values


class Examples:
    """A directory of examples, opened.

    Example:
      >>> import interactrank_jax as ir
      >>> from interactrank_jax.log.simulator.simulate import simulate
      >>> sizes = simulate("tiny", 0, "log")
      >>> prepared = ir.prepare("log", ir.configs.interactrank("search"), out="examples")
      >>> examples = ir.Examples("examples")
      >>> examples.split("test").requests
      200
      >>> examples.items["id"].shape == (examples.num_items,)
      True

    Raises:
      InputError: no examples there, or written by another version of the format.
    """

    def __init__(self, path: files.PathLike):
        self.path = Path(path)
        self._sparse_cross: dict[str, SparseCross] = {}
        self._artifact = artifact.open_artifact(KIND, self.path)
        folder = self.file(f"{encoder_module.DIRECTORY}/{encoder_module.FILE}").parent
        encoder = Encoder.open(folder)
        self.metadata = Metadata.read(self._artifact.record, encoder, self._artifact.file)

    @property
    def encoder(self) -> Encoder:
        """What turned raw rows into these arrays."""
        return self.metadata.encoder

    def file(self, name: str) -> Path:
        """Returns the path of a file by its name in the directory, once its checksum is right.

        Raises:
          InputError: it is absent or damaged, or the name leads out of the directory.
        """
        return self._artifact.path(name)

    def split(self, name: str) -> Split:
        """Returns a split's sizes.

        Raises:
          InputError: no such split.
        """
        if name not in self.metadata.splits:
            raise InputError(
                f"no split '{name}' in {self.path}." + did_you_mean(name, self.metadata.splits)
            )
        return self.metadata.splits[name]

    def block_files(self, split: str) -> list[Path]:
        """Returns the paths of a split's block files, in order.

        Raises:
          InputError: one is absent or damaged.
        """
        names = [f"{split}/{name}" for name, _ in self.split(split).files]
        with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing leaves Python's lock
            return list(pool.map(self.file, names))

    def blocks(
        self, split: str, names: Sequence[str] | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields a split's blocks in order, every example once.

        Raises:
          InputError: a file is absent or damaged, or does not fit the metadata.
        """
        count, paths = 0, self.block_files(split)
        for block in blocks.read_blocks(paths, names, self.block_check(split)):
            count += len(next(iter(block.values())))
            yield block
        if count != self.split(split).examples:
            raise InputError(
                f"{self.path / split} holds {count} examples, {METADATA_FILE} says "
                f"{self.split(split).examples}: prepare the examples again."
            )

    def block_check(self, split: str) -> checks.BlockCheck:
        """Returns what holds a split's blocks against the metadata."""
        return checks.BlockCheck(self.metadata, split, self.num_items)

    @functools.cached_property
    def items(self) -> dict[str, np.ndarray]:
        """The item store: `id` `[I]` (embedding row), `count` `[I]` (training impressions),

        `numeric` `[I, Fn]`, and per feature `[I]` (categorical) or `[I, width]`.
        """
        return checks.load_items(self)

    @property
    def num_items(self) -> int:
        """Rows of the item store, the padding row included."""
        return len(self.items["id"])

    @functools.cached_property
    def item_ids(self) -> np.ndarray:
        """Original item id of each store row (object array; None for padding)."""
        column = self._table("items/ids.parquet", self.num_items, "item_id")["item_id"]
        # Not through NumPy's own conversion: integers beside a null would become floats.
        return np.array(column.to_pylist(), dtype=object)

    def sparse_cross(self, split: str) -> SparseCross:
        """Returns the cross features of an evaluation split's requests.

        Raises:
          InputError: a split that has none: they are made for validation and test only.
        """
        if split not in self._sparse_cross:
            if not self.has_corpus(split):
                raise InputError(
                    f"split '{split}' has no cross features beyond its slates, so its requests "
                    f"cannot be scored with the corpus. Use validation or test, prepared with "
                    f"config.data.cross.corpus=True."
                )
            self._sparse_cross[split] = SparseCross(**checks.load_sparse_cross(self, split))
        return self._sparse_cross[split]

    def has_corpus(self, split: str) -> bool:
        """Whether requests of a split can be scored with the corpus."""
        return any(name.startswith(f"cross/{split}/") for name in self._artifact.digests)

    def raw_requests(self, split: str) -> pa.Table:
        """Returns the requests as they came (pyarrow table), one row per request_index."""
        requests = self.split(split).requests
        return self._table(f"raw/{split}.parquet", requests, "request_id")

    def raw_items(self) -> pa.Table:
        """Returns the items as they came (pyarrow table), one row per store row."""
        return self._table("raw/items.parquet", self.num_items, "item_id")

    def _table(self, name: str, rows: int, column: str) -> pa.Table:
        path = self.file(name)
        return contents.read_table(path, rows, column)


def write_metadata(directory: files.PathLike, metadata: Metadata) -> None:
    """Writes `metadata.json` beside the finished files of a directory of examples."""
    artifact.write(KIND, Path(directory), metadata.to_json(), skip=STATE)
