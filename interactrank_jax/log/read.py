"""A log on disk, opened: its files, the columns of its tables, and their rows."""

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log import columns, engine_paths
from interactrank_jax.log.schema import REQUIRED_TABLES, TABLES, Schema

MEMORY = "4GB"  # of the embedded DuckDB, which spills to disk beyond it


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
    """A log on disk, opened: nothing is read but file names and Parquet footers.

    Files that come to a table after it was first asked for are not part of an open log.

    Example:
      >>> import interactrank_jax as ir
      >>> log = ir.Log.from_frames(
      ...     items={"item_id": ["a", "b"], "title": ["red shoe", "blue shoe"]},
      ...     requests={
      ...         "request_id": [1, 2],
      ...         "user_id": [7, 7],
      ...         "query_id": ["shoe", "shoe"],
      ...         "timestamp": ["2024-05-01 10:00", "2024-05-02 11:30"],
      ...     },
      ...     impressions={
      ...         "request_id": [1, 1, 2],
      ...         "item_id": ["a", "b", "b"],
      ...         "position": [0, 1, 0],
      ...         "click": [True, False, True],
      ...     },
      ...     actions=("click",),
      ...     kinds={"title": "text"},
      ... )
      >>> log.schema.features
      (FeatureSpec(name='title', entity='item', kind='text'),)

    Attributes:
      path: its directory.
      schema: what it declares about itself.
    """

    path: Path
    schema: Schema

    @classmethod
    def from_frames(
        cls,
        *,
        items: Any,
        requests: Any,
        impressions: Any,
        events: Any = None,
        actions: Sequence[str] | None = None,
        kinds: Mapping[str, str] | None = None,
        user_features: Sequence[str] = (),
        timeless: bool = False,
        schema: Schema | None = None,
        path: files.PathLike | None = None,
    ) -> "Log":
        """Writes data frames as a log, checks it, and opens it.

        A frame is of pandas, Polars or Arrow (whatever has `__arrow_c_stream__`), or a dict of
        columns. Its columns are those of the tables in `schema.py`; times may be UTC seconds,
        dates, timestamps or ISO 8601, without a zone in UTC. Every other column of items and of
        requests is a feature.

        Args:
          items, requests, impressions, events: the tables.
          actions: the columns of impressions that say what users did.
          kinds: name of a feature -> 'categorical', 'numeric', 'text', 'embedding', or 'ignore' to
            leave it out. Kinds that are not given are guessed from the values, as by `convert
            --format=ratings`; what looks odd about a guess is logged as a warning.
          user_features: columns of requests that describe the user; the others describe the
            request.
          timeless: requests have no timestamp, and there are no events.
          schema: all of that at once.
          path: a new or empty directory to write; None for a temporary one, which is removed with
            the log.

        Raises:
          InputError: names table and column.
        """
        from interactrank_jax.log import frames

        tables = {"items": items, "requests": requests}
        tables |= {"impressions": impressions, "events": events}
        return frames.write_log(
            tables,
            actions=actions,
            kinds=kinds,
            user_features=user_features,
            timeless=timeless,
            schema=schema,
            path=path,
        )

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

    @functools.cached_property
    def _parts(self) -> dict[str, tuple[columns.Part, ...]]:
        return {}

    def parts(self, table: str) -> tuple[columns.Part, ...]:
        """Returns the files of a table that have rows; all of them where none has.

        Raises:
          InputError: a file is not Parquet, or two of its columns have one name.
        """
        if table not in self._parts:
            parts = tuple(columns.read_part(table, path) for path in self.files(table))
            self._parts[table] = tuple(part for part in parts if part.rows) or parts
        return self._parts[table]

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

    def kinds(self, table: str) -> dict[str, str]:
        """Returns the columns that a table must have, and those checked if it has them.

        Returns:
          By name the kind: 'id', 'integer', 'number', 'string', 'binary', or that of a feature.
        """
        return columns.column_kinds(self.schema, table, self.columns(table))

    def table(self, name: str, backend: ibis.BaseBackend | None = None) -> ibis.Table:
        """Returns the declared columns of a table as an Ibis expression.

        Tables of one log share one connection, so they can be joined.

        Args:
          name: of the table.
          backend: that reads it; an embedded DuckDB unless given.

        Raises:
          InputError: see `columns`; or the table is absent.
        """
        backend = self._duckdb if backend is None else backend
        key = (name, id(backend))  # which the table keeps alive
        if key not in self._tables:
            self._tables[key] = self._table(name, backend)
        return self._tables[key]

    def _table(self, name: str, backend: ibis.BaseBackend) -> ibis.Table:
        parts = self.parts(name)
        if not parts:
            raise InputError(f"{self.path} holds no table '{name}'.")
        types = self.columns(name)
        types = {column: types[column] for column in self.kinds(name) if column in types}
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
    def _tables(self) -> dict[tuple[str, int], ibis.Table]:
        return {}

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
            disabled_optimizers="statistics_propagation",
            temp_directory=str(scratch),
            memory_limit=MEMORY,
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
