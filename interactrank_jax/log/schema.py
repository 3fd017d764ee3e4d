"""The log contract: what a search or recommendation log must look like on disk.

    LOG/
      schema.json              a `Schema`
      items.parquet            item_id and the item features, text included; optional created_at
      requests.parquet         request_id, user_id, query_id, timestamp, user and request features
      impressions.parquet      request_id, item_id, position, one column per action;
                               optional propensity, stage, teacher_score
      events.parquet           optional: event_id, user_id, query_id or null, item_id, action,
                               event_time, arrival_time; columns named like categorical user or
                               request features hold their values as of the event

Each table is one file as above or a directory of parts, `items/*.parquet`, read in the order of
their names. Times are UTC seconds. A timeless log has neither timestamps nor events. Where events
exist, histories and cross features come from them, else from the impressions' actions.
"""

import contextlib
import dataclasses
import functools
import re
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log import columns, engine_paths

FORMAT = "interactrank-log"
FORMAT_VERSION = 1

ENTITIES = ("user", "request", "item")
KINDS = ("categorical", "numeric", "embedding", "text")
# Shown rows carry this action implicitly: every impression is one.
IMPLICIT_ACTION = "impression"

REQUIRED_TABLES = ("items", "requests", "impressions")
TABLES = (*REQUIRED_TABLES, "events")
# Names that columns of the log, embedding tables or arrays of the item store already have.
RESERVED_NAMES = frozenset(
    (
        *("request_id", "user_id", "query_id", "item_id", "event_id"),
        *("timestamp", "event_time", "arrival_time", "created_at", "action"),
        *("position", "propensity", "stage", "teacher_score"),
        *("user", "query", "item", "text", "id", "count", "numeric"),
    )
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """One declared feature of the log.

    Attributes:
      name: its column.
      entity: 'item' (column of items), 'user' or 'request' (columns of requests: user features as
        they were at the request).
      kind: 'categorical' (string, integer or boolean), 'numeric', 'embedding' (a list of floats of
        one width) or 'text'.
    """

    name: str
    entity: str
    kind: str


def _check_names(what: str, names: list[Any]) -> None:
    """Refuses names of features, or of actions, that an engine would take for others."""
    reserved = {name.lower(): name for name in RESERVED_NAMES}
    twins: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(
                f"{what} name {name!r} is malformed. Expected letters, digits and underscores, not "
                f"starting with a digit."
            )
        if what == "action" and name.lower() == IMPLICIT_ACTION:
            raise InputError(
                f"action '{name}' is reserved: every row of impressions is one. Remove it from the "
                f"actions."
            )
        # DuckDB does not tell capitals apart, so it would read one column for the other.
        if name.lower() in reserved:
            taken = reserved[name.lower()]
            as_what = "" if name == taken else f" as '{taken}', which differs in capitals alone"
            raise InputError(f"{what} name '{name}' is reserved{as_what}: rename it.")
        twin = twins.get(name.lower())
        if twin == name:
            raise InputError(f"{what} '{name}' is declared twice.")
        if twin is not None:
            raise InputError(
                f"{what}s '{twin}' and '{name}' have one name, capitals aside: rename one."
            )
        twins[name.lower()] = name


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a log declares about itself.

    Attributes:
      features: the declared features; other columns are ignored.
      actions: what users can do with a shown item, apart from seeing it.
      timeless: requests carry no timestamp, so nothing can be as of anything.

    Raises:
      InputError: unknown kind or entity, or a name that is malformed, or reserved or used twice,
        capitals aside.
    """

    features: tuple[FeatureSpec, ...]
    actions: tuple[str, ...]
    timeless: bool = False

    def __post_init__(self):
        for feature in self.features:
            for what, value, known in (
                ("entity", feature.entity, ENTITIES),
                ("kind", feature.kind, KINDS),
            ):
                if value not in known:
                    raise InputError(
                        f"feature '{feature.name}' has {what} '{value}'."
                        + did_you_mean(str(value), known)
                    )
        if not self.actions:
            raise InputError("schema: no actions. Expected at least one, such as 'click'.")
        _check_names("feature", [feature.name for feature in self.features])
        _check_names("action", list(self.actions))

    def select(self, entities: tuple[str, ...], kind: str | None = None) -> tuple[FeatureSpec, ...]:
        """Returns the features of some entities, in order, optionally of one kind."""
        return tuple(
            feature
            for feature in self.features
            if feature.entity in entities and kind in (None, feature.kind)
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain dictionaries and lists."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "timeless": self.timeless,
            "features": [dataclasses.asdict(feature) for feature in self.features],
            "actions": list(self.actions),
        }

    @classmethod
    def from_json(cls, value: Any) -> "Schema":
        """Builds it back from `to_json`.

        Raises:
          InputError: another format or version, a missing field, or contents that do not hold.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(f'expected a JSON object with "format": "{FORMAT}".')
        if value.get("version") != FORMAT_VERSION:
            raise InputError(
                f"version is {value.get('version')!r}, this release reads {FORMAT_VERSION}."
            )
        fields = ("format", "version", "timeless", "features", "actions")
        for name in value:
            if name not in fields:
                raise InputError(f"unknown field '{name}'." + did_you_mean(name, fields))
        timeless = value.get("timeless", False)
        if not isinstance(timeless, bool):
            raise InputError(f"timeless is {timeless!r}. Expected true or false.")
        for name, expected in (
            ("actions", 'a list of names, such as ["click"]'),
            ("features", "a list of objects with name, entity and kind"),
        ):
            if name not in value:
                raise InputError(f"'{name}' is missing. Expected {expected}.")
            if not isinstance(value[name], list):
                raise InputError(f"'{name}' is {value[name]!r}. Expected {expected}.")
        try:
            features = tuple(FeatureSpec(**feature) for feature in value["features"])
        except TypeError as error:
            raise InputError(
                f"a feature is incomplete ({error}). Expected each to be an object with name, "
                f"entity and kind, and nothing else."
            ) from error
        return cls(features, tuple(value["actions"]), timeless)

    def save(self, path: files.PathLike) -> None:
        """Writes `schema.json` into the directory `path`."""
        files.write_json(Path(path) / "schema.json", self.to_json())

    @classmethod
    def load(cls, path: files.PathLike) -> "Schema":
        """Reads `schema.json` from the directory `path`.

        Raises:
          InputError: absent, or see `from_json`.
        """
        file = Path(path) / "schema.json"
        if not file.is_file():
            raise InputError(
                f"{path} holds no log (no schema.json). Expected the --out of `interactrank "
                f"simulate` or `interactrank convert`, or a log written by hand as "
                f"interactrank_jax/log/schema.py describes."
            )
        try:
            return cls.from_json(files.read_json(file))
        except InputError as error:
            raise InputError(f"{file}: {error}") from error


def _read(
    backend: ibis.BaseBackend,
    paths: list[Path],
    given: Mapping[str, pa.DataType],
    wanted: Mapping[str, pa.DataType],
) -> ibis.Table:
    """Returns the columns of files of the types `given`, as the types `wanted`."""
    read = {name: kind for name, kind in given.items() if not pa.types.is_null(kind)}
    table = engine_paths.read_parquet(backend, paths, read)
    values = {}
    for name, kind in wanted.items():
        # Spark reads unsigned integers of 64 bits as decimals.
        target = pa.int64() if kind == pa.uint64() and backend.name == engine_paths.SPARK else kind
        dtype = ibis.dtype(target)
        if name not in read:
            values[name] = ibis.null(dtype)
        elif table[name].type() != dtype:
            values[name] = table[name].cast(dtype)
        else:
            values[name] = table[name]
    return table.select(**values)


@dataclasses.dataclass(frozen=True)
class Log:
    """A log on disk, opened: nothing is read but file names and Parquet footers."""

    path: Path
    schema: Schema

    def files(self, table: str) -> list[Path]:
        """Returns the Parquet files of a table, sorted by name; none if the table is absent."""
        if table not in TABLES:
            raise InputError(f"a log has no table '{table}'." + did_you_mean(table, TABLES))
        single, parts = self.path / f"{table}.parquet", self.path / table
        if single.is_file() and parts.is_dir():
            raise InputError(f"{self.path} holds both {single.name} and {table}/: remove one.")
        if single.is_file():
            return [single]
        return sorted(path for path in parts.glob("*.parquet") if path.is_file())

    def parts(self, table: str) -> tuple[columns.Part, ...]:
        """Returns the files of a table that have rows; all of them where none has.

        Raises:
          InputError: a file is not Parquet, or two of its columns have one name.
        """
        parts = tuple(columns.read_part(table, path) for path in self.files(table))
        return tuple(part for part in parts if part.rows) or parts

    @functools.cached_property
    def has_events(self) -> bool:
        """Whether histories and cross features come from an events table."""
        return bool(self.files("events"))

    def columns(self, table: str) -> Mapping[str, pa.DataType]:
        """Returns name and Arrow type of each column of a table, see `columns.unite`.

        Raises:
          InputError: see `parts` and `columns.unite`.
        """
        return columns.unite(self.schema, table, self.parts(table))

    def table(self, name: str, backend: ibis.BaseBackend | None = None) -> ibis.Table:
        """Returns the declared columns of a table as an Ibis expression.

        Tables of one log share one connection, so they can be joined.

        Args:
          name: of the table.
          backend: that reads it; an embedded DuckDB unless given.

        Raises:
          InputError: see `columns`; or the table is absent.
        """
        parts = self.parts(name)
        if not parts:
            raise InputError(f"{self.path} holds no table '{name}'.")
        backend = self._duckdb if backend is None else backend
        types = self.columns(name)
        types = {
            column: types[column] for column in columns.of_table(self, name) if column in types
        }
        # An engine reads files of one schema at a time: each has other rules for several.
        alike: dict[tuple[pa.DataType, ...], list[Path]] = {}
        for part in parts:
            alike.setdefault(tuple(part.types[column] for column in types), []).append(part.path)
        tables = [
            _read(backend, paths, dict(zip(types, kinds, strict=True)), types)
            for kinds, paths in alike.items()
        ]
        return ibis.union(*tables) if len(tables) > 1 else tables[0]

    @functools.cached_property
    def _duckdb(self) -> ibis.BaseBackend:
        # Parquet's minimum and maximum leave NaN out, yet DuckDB concludes from them that a column
        # has none and folds isnan(x) to false. Without that optimizer, it looks at the values.
        # What does not fit into memory goes to a directory that lives as long as the log; DuckDB's
        # default is ./.tmp.
        stack = contextlib.ExitStack()
        scratch = stack.enter_context(outputs.scratch_directory())
        weakref.finalize(self, stack.close)
        return ibis.duckdb.connect(
            disabled_optimizers="statistics_propagation", temp_directory=str(scratch)
        )


def open_log(path: files.PathLike) -> Log:
    """Opens a log directory; `validate(log)` then checks what is in it.

    Raises:
      InputError: no log there, its schema does not hold, or a required table is absent.
    """
    # Absolute: what reads Parquet takes a colon in a relative path for the end of a URL's scheme.
    log = Log(Path(path).absolute(), Schema.load(path))
    for table in REQUIRED_TABLES:
        if not log.files(table):
            raise InputError(
                f"{log.path} holds no table '{table}'. Expected {table}.parquet or "
                f"{table}/*.parquet."
            )
    return log
