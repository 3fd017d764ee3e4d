"""BUNDLE on disk, opened: everything that ranks a request nobody has seen.

    bundle.json       what it is: model, day, columns, graphs, versions; the digests of all files
    encoder/          encoder.json, and the vocabularies as `KeyIndex`es
    tables/NAME.npy   embedding tables
    items/            ids (`KeyIndex`), and the arrays of the item store; row 0 is padding
    index/N.npy       leaf N of the items' representation, row = store row
    delta/            items that were changed, added or deleted since, see `delta.py`
    cross/, queries/, forms/, users/     what history knows, see `past.py`
    graphs/           NAME.jax (jax.export) and NAME.onnx of each function, see `export/graphs.py`
    golden/           requests with their candidates, features and scores: `--verify` ranks them

A bundle does not change. An update is another one beside it, which shares the files that are the
same by hard links, and becomes visible as a whole: who has opened a bundle goes on reading what it
was, and who opens one anew reads one whole version. A path that is a link is followed once, when a
bundle is opened.

Arrays are mapped into memory. Files up to `SMALL` bytes are compared with their digests when the
bundle is opened, larger ones by their size then, and by their digest with `verify`.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.encoder import DIRECTORY as ENCODER
from interactrank_jax.examples.encoder import Encoder
from interactrank_jax.io import artifact, files
from interactrank_jax.io.artifact import Artifact, Kind
from interactrank_jax.io.errors import InputError
from interactrank_jax.io.overlay import overlay
from interactrank_jax.log.schema import FeatureSpec
from interactrank_jax.serving.delta import FOLDER as DELTA
from interactrank_jax.serving.delta import Delta, ItemRows
from interactrank_jax.serving.keys import IndexedVocabulary, KeyIndex, open_array, open_columns
from interactrank_jax.serving.past import CrossFeatures, CrossTable, QueryPast, UserPast, rows
from interactrank_jax.serving.probabilities import Calibration

KIND = Kind("bundle", "export", "bundle.json", version=3)
SMALL = 1 << 24
GRAPHS = ("encode_query", "encode_item", "score", "score_list", "score_rows", "score_all")
_FIELDS = (
    *("model", "as_of", "lag_days", "delay_s", "timeless", "actions", "history_actions"),
    *("rates", "heads", "utility", "calibration", "features", "key_types", "chains", "cross"),
    *("items", "has_users", "has_queries", "has_fresh", "form_of", "has_seen"),
    *("graphs", "sizes", "versions", "protocol", "parity", "vectors", "has_delta"),
)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle, opened.

    Attributes:
      artifact: `bundle.json` and the files that it names.
      encoder: how raw values become arrays.
    """

    artifact: Artifact
    encoder: Encoder

    @classmethod
    def open(cls, path: files.PathLike, verify: bool = False) -> "Bundle":
        """Opens a bundle.

        Args:
          path: what `export` wrote.
          verify: whether every file is compared with its digest, however large.

        Raises:
          InputError: none there, of another release, damaged, or a file is missing.
        """
        opened = artifact.open_artifact(KIND, Path(path).resolve(), _FIELDS)
        sizes = opened.record["sizes"]
        for name in opened.digests:
            file = artifact.inside(opened.root, name)
            if not file.is_file():
                raise InputError(f"{file} does not exist: export the bundle again.")
            size = file.stat().st_size
            if size != sizes.get(name):
                raise InputError(
                    f"{file} has {size:,} bytes, it had {sizes.get(name)}: it was truncated or "
                    f"edited. Export the bundle again, or bring it back from a copy."
                )
            if verify or size <= SMALL:
                opened.check(name)
        encoder = Encoder.open(opened.root / ENCODER)
        vocabularies = {
            name: IndexedVocabulary(
                KeyIndex.open(opened.root / ENCODER / "vocabulary" / name),
                encoder.out_of_vocabulary,
            )
            for name in encoder.fingerprints
        }
        return cls(opened, dataclasses.replace(encoder, vocabularies=vocabularies))

    def __getitem__(self, name: str) -> Any:
        """Returns a field of `bundle.json`."""
        return self.artifact.record[name]

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.artifact.root

    @functools.cached_property
    def features(self) -> tuple[FeatureSpec, ...]:
        """The features that the log declares."""
        return tuple(FeatureSpec(**feature) for feature in self["features"])

    @functools.cached_property
    def calibration(self) -> Calibration:
        """What turns the model's logits into probabilities.

        Raises:
          InputError: it is of other heads, or holds no such numbers.
        """
        try:
            return Calibration.from_json(self["calibration"], tuple(self["heads"]))
        except InputError as error:
            raise InputError(f"{self.artifact.file}: {error}") from error

    def key_type(self, name: str) -> pa.DataType:
        """Returns the type of a column of ids or of a segment: `int64` or `large_string`."""
        return pa.int64() if self["key_types"].get(name) == "int64" else pa.large_string()

    @functools.cached_property
    def base(self) -> KeyIndex:
        """Ids of the items that the arrays on disk hold: the one at position p has row p + 1."""
        return KeyIndex.open(self.path / "items" / "ids")

    @functools.cached_property
    def delta(self) -> Delta:
        """What changed of the items since the arrays were written."""
        rows_on_disk = 1 + len(self.base)
        if self["has_delta"]:
            return Delta.open(self.path / DELTA, rows_on_disk, self["items"])
        if rows_on_disk != self["items"]:
            raise InputError(
                f"{self.path / 'items' / 'ids'} has {len(self.base):,} ids, {KIND.file} tells of "
                f"{self['items'] - 1:,} items: it was edited. Export the bundle again."
            )
        return Delta.empty(self.base.ids.type)

    def as_exported(self) -> "Bundle":
        """Returns the bundle without what updates changed, or itself where nothing did."""
        if not self["has_delta"]:
            return self
        record = {**self.artifact.record, "has_delta": False, "items": 1 + len(self.base)}
        return dataclasses.replace(self, artifact=dataclasses.replace(self.artifact, record=record))

    @functools.cached_property
    def items(self) -> ItemRows:
        """Ids of the items and their rows."""
        return ItemRows(self.base, self.delta)

    def rows_of(self, ids: pa.Array) -> np.ndarray:
        """Returns the rows of items, `[N]`; 0 for an unknown one, and for a deleted one."""
        return self.items.find(ids)

    def ids_of(self, row: np.ndarray) -> pa.Array:
        """Returns the ids of items by their rows; null for padding."""
        return self.items.take(row)

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that graphs take beside a batch: `table/NAME`, `store/NAME`, `index/N`."""
        result = {}
        for graph in self["graphs"].values():
            for name, spec in graph["inputs"].items():
                folder, _, rest = name.partition("/")
                if folder in ("table", "store", "index") and name not in result:
                    result[name] = self._array(folder, rest, spec)
        return result

    def _array(self, folder: str, name: str, spec: dict[str, Any]) -> np.ndarray:
        directory = {"table": "tables", "store": "items", "index": "index"}[folder]
        file, kind = f"{directory}/{name}.npy", "iu"
        if spec["dtype"].startswith(("float", "bfloat")):
            kind = "f"
        path, shape = artifact.inside(self.path, file), list(spec["shape"])
        if folder == "table":
            return open_array(path, shape, kind)
        shape[0] = 1 + len(self.base)
        row = self.delta.row
        if not len(row):
            return open_array(path, shape, kind)
        changed = artifact.inside(self.path, f"{DELTA}/{file}")
        values = open_array(changed, (len(row), *shape[1:]), kind)
        return overlay(path, shape, kind, row, values, self["items"])

    @functools.cached_property
    def cross(self) -> CrossFeatures:
        """The cross features of the day."""
        tables = {}
        for table in self["cross"]:
            keys = tuple(table["keys"])
            tables[keys] = CrossTable.open(
                artifact.inside(self.path, table["folder"]), keys, table["names"]
            )
        chains = {name: [tuple(keys) for keys in chain] for name, chain in self["chains"].items()}
        fresh = None
        if self["has_fresh"]:
            fresh = open_array(self.path / "cross" / "fresh.npy", (1 + len(self.base),), "iu")
            if added := len(
                self.delta.added
            ):  # whose history is not known, its age does not matter
                fresh = np.append(fresh, np.zeros(added, fresh.dtype))
        return CrossFeatures(chains, tables, fresh)

    @functools.cached_property
    def queries(self) -> QueryPast | None:
        """The items most engaged for each query; None where the model looks at none."""
        if not self["has_queries"]:
            return None
        return QueryPast.open(self.path / "queries", self.encoder.query_history_length)

    @functools.cached_property
    def users(self) -> UserPast | None:
        """What each user did; None where no feature depends on it."""
        if not self["has_users"]:
            return None
        return UserPast.open(
            self.path / "users",
            len(self["actions"]),
            has_counts=bool(self["rates"]),
            actions=self["history_actions"],
            length=self.encoder.history_length,
            delay_s=self["delay_s"],
        )

    @functools.cached_property
    def forms(self) -> tuple[KeyIndex, pa.Array]:
        """Ids of queries, and the normalized query of each."""
        (form,) = open_columns(self.path / "forms" / "form.arrow")
        return KeyIndex.open(self.path / "forms" / "ids"), form

    @functools.cached_property
    def seen(self) -> np.ndarray:
        """Hashes of the ids of all events that were counted, ascending."""
        if not self["has_seen"]:
            return np.zeros(0, np.uint64)
        path = self.path / "users" / "seen.npy"
        return open_array(path, (rows(path),), "u")


def open_encoder(path: files.PathLike) -> Encoder:
    """Opens the encoder of examples, of a run or of a bundle.

    Raises:
      InputError: none there, or a damaged one.
    """
    if (Path(path) / KIND.file).is_file():
        return Bundle.open(path).encoder
    return Encoder.open(Path(path) / ENCODER)
