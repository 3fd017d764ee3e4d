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

import dataclasses
import functools
import re
import tempfile
import uuid
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax import files
from interactrank_jax.data.validate import validate
from interactrank_jax.errors import InputError, did_you_mean

__all__ = ["ENTITIES", "KINDS", "FeatureSpec", "Log", "Schema", "open_log", "validate"]

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


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a log declares about itself.

    Attributes:
      features: the declared features; other columns are ignored.
      actions: what users can do with a shown item, apart from seeing it.
      timeless: requests carry no timestamp, so nothing can be as of anything.

    Raises:
      InputError: unknown kind or entity, or a name that is malformed, reserved or used twice.
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
        if IMPLICIT_ACTION in self.actions:
            raise InputError(
                f"action '{IMPLICIT_ACTION}' is reserved: every row of impressions is one. "
                f"Remove it from the actions."
            )
        names = [feature.name for feature in self.features]
        for what, group in (("feature", names), ("action", list(self.actions))):
            for name in group:
                if not isinstance(name, str) or not _NAME.fullmatch(name):
                    raise InputError(
                        f"{what} name {name!r} is malformed. Expected letters, digits and "
                        f"underscores, not starting with a digit."
                    )
                if name in RESERVED_NAMES:
                    raise InputError(f"{what} name '{name}' is reserved: rename it.")
                if group.count(name) > 1:
                    raise InputError(f"{what} '{name}' is declared twice.")

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
                f"interactrank_jax/data/schema.py describes."
            )
        try:
            return cls.from_json(files.read_json(file))
        except InputError as error:
            raise InputError(f"{file}: {error}") from error


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
        return [single] if single.is_file() else sorted(parts.glob("*.parquet"))

    @functools.cached_property
    def has_events(self) -> bool:
        """Whether histories and cross features come from an events table."""
        return bool(self.files("events"))

    def columns(self, table: str, part: int = 0) -> dict[str, pa.DataType]:
        """Returns name and Arrow type of each column of a table's part; dictionaries unwrapped.

        Raises:
          InputError: the file is not Parquet, or two columns have one name.
        """
        path = self.files(table)[part]
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                f"{path} is not a readable Parquet file ({error}): it was truncated or is "
                f"something else. Write it again."
            ) from error
        found: dict[str, str] = {}
        for name in schema.names:
            # DuckDB does not tell capitals apart, so it would read one for the other.
            twin = found.setdefault(name.lower(), name)
            if twin is not name:
                raise InputError(
                    f"{table} ({path}): columns '{twin}' and '{name}' have one name, capitals "
                    f"aside. Expected each name once: rename or drop one."
                )
        return {
            field.name: field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            for field in schema
        }

    def table(self, name: str, backend: ibis.BaseBackend | None = None) -> ibis.Table:
        """Returns a table as an Ibis expression, on an embedded DuckDB unless `backend` is given.

        Tables of one log share one connection, so they can be joined.
        """
        paths = [str(path) for path in self.files(name)]
        if not paths:
            raise InputError(f"{self.path} holds no table '{name}'.")
        backend = self._duckdb if backend is None else backend
        if backend.name != "pyspark":
            # A directory may be called country=de: the path is no column of the log.
            return backend.read_parquet(paths, hive_partitioning=False)
        # Spark takes no list; the files beside each other in a directory are all of the table's.
        return backend.read_parquet(paths[0] if len(paths) == 1 else str(self.path / name))

    @functools.cached_property
    def _duckdb(self) -> ibis.BaseBackend:
        # Parquet's minimum and maximum leave NaN out, yet DuckDB concludes from them that a column
        # has none and folds isnan(x) to false. Without that optimizer, it looks at the values.
        # What does not fit into memory goes to a directory that DuckDB makes when it needs it and
        # removes when it closes; by default that is ./.tmp.
        scratch = Path(tempfile.gettempdir()) / f"interactrank-{uuid.uuid4().hex[:8]}"
        return ibis.duckdb.connect(
            disabled_optimizers="statistics_propagation", temp_directory=str(scratch)
        )


def open_log(path: files.PathLike) -> Log:
    """Opens a log directory; `validate(log)` then checks what is in it.

    Raises:
      InputError: no log there, its schema does not hold, or a required table is absent.
    """
    log = Log(Path(path), Schema.load(path))
    for table in REQUIRED_TABLES:
        if not log.files(table):
            raise InputError(
                f"{log.path} holds no table '{table}'. Expected {table}.parquet or "
                f"{table}/*.parquet."
            )
    return log
