"""Any data set of ratings or clicks as a log: a table of user, item, label, and time if any.

    interactrank convert --format=ratings --source=SOURCE --out=LOG --user=userId --item=movieId
      --rating=rating --time=timestamp --threshold=3

SOURCE is that table, or a directory or zip archive with `ratings.*` and, if there are features,
with `users.*` and `items.*`. Tables are Parquet (`.parquet`) or text with a separator, plain or
packed (`.xz`, `.gz`, `.zip`). Text has a header; `--columns` names the columns of ratings without.

A row is a success where its rating is above the threshold. The tables of users and items have the
id in the same column as the ratings, one row per id; without a table, those rated are all there
are. Every other column is a feature: of numbers numeric, of strings or booleans categorical, of
lists of floats an embedding, unless flags name it as text or categorical, or leave it out. A
missing category or text is an empty one; a missing number is an error. `rating_log.py` says what
becomes of ratings.

The query, within which cross features count, is `all`, or what some features of the user are
(`--query=gender,age`).
"""

import dataclasses
import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from interactrank_jax import files
from interactrank_jax.data.rating_log import DISLIKE, LIKE, NEUTRAL, Ratings, write_log
from interactrank_jax.data.raw_files import Folder, numbers, positions
from interactrank_jax.data.schema import FeatureSpec, Schema
from interactrank_jax.data.validate import EARLIEST, LATEST
from interactrank_jax.data.vocabulary import as_values
from interactrank_jax.errors import InputError, did_you_mean

SEPARATORS = "\t,;|"
EXPECTED = (
    "Expected a table of ratings, or a directory or zip archive with one named ratings.csv, .tsv "
    "or .parquet, plain or packed as .xz, .gz or .zip."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the columns of a data set are.

    Attributes:
      user, item, rating, time: columns; '' where there is no time.
      threshold: a rating above it is a success.
      neutral: a rating that is neither; None if there is none.
      separator: of text; '' to find it.
      columns: names of the columns of ratings without a header.
      text, categorical, ignore: features that are text, categorical though numbers, and left out.
      query: categorical features of users that make the query.
    """

    user: str = "user_id"
    item: str = "item_id"
    rating: str = "rating"
    time: str = ""
    threshold: float = 0.0
    neutral: float | None = None
    separator: str = ""
    columns: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    query: tuple[str, ...] = ()


def convert(source: files.PathLike, out: files.PathLike, options: Options) -> dict[str, Any]:
    """Writes a log to the directory `out`.

    Returns:
      `ratings` read, `users`, rows per table of the log (`items`, `requests`, `impressions`,
      `events`), `successes` and `neutral` ones among the ratings, those `replaced` by a later one
      of the same item in the same request, and the `features` with their kinds.

    Raises:
      InputError: what is wrong, by file, column, number of rows and an example.
    """
    folder = Folder(Path(source), EXPECTED)
    table = _read(folder, _find(folder, "ratings"), options, options.columns)
    users, items = (
        _Entity.read(folder, entity, column, table, options)
        for entity, column in (("user", options.user), ("item", options.item))
    )
    _check_names(folder, options, users, items)
    verdict = _verdicts(table, options)
    counts = write_log(
        out,
        (*users.features, *items.features),
        items=pa.table({"item_id": items.ids, **items.columns}),
        users=pa.table(
            {"user_id": users.ids, "query_id": _queries(users, options), **users.columns}
        ),
        ratings=Ratings(
            users.rows, items.rows, verdict, _seconds(table, options) if options.time else None
        ),
        has_neutral=options.neutral is not None,
    )
    neutral = int((verdict == NEUTRAL).sum())
    return {
        "ratings": len(verdict),
        "users": len(users.ids),
        **counts,
        "successes": int((verdict == LIKE).sum()),
        "neutral": neutral,
        "replaced": len(verdict) - neutral - counts["impressions"],
        "features": ", ".join(
            f"{feature.name} ({feature.entity}, {feature.kind})"
            for feature in (*users.features, *items.features)
        ),
    }


@dataclasses.dataclass(frozen=True)
class _Table:
    """A table as read, and how messages name its place and its first row."""

    where: str
    rows: pa.Table
    first_row: int

    def column(self, name: str) -> pa.Array:
        """Returns a column in one array."""
        if name not in self.rows.column_names:
            raise InputError(
                f"{self.where} has no column '{name}'." + did_you_mean(name, self.rows.column_names)
            )
        return pa.concat_arrays(self.rows[name].chunks)

    def ids(self, name: str) -> pa.Array:
        """Returns a column of ids: strings, or integers where the file knows them as such."""
        values = as_values(self.column(name))
        written = pc.fill_null(values.cast(pa.large_string()), "")
        empty = pc.equal(written, "").to_numpy(zero_copy_only=False)
        self.refuse(empty, name, values, "is empty", "fill it in")
        return values

    def numbers(self, name: str, values: pa.Array) -> np.ndarray:
        """Returns the values of a column as float64."""
        return numbers(values, self.where, f"column '{name}'", first_row=self.first_row)

    def refuse(self, wrong: np.ndarray, name: str, values: Any, what: str, remedy: str) -> None:
        """Raises InputError if any row is `wrong`."""
        if wrong.any():
            row = int(np.argmax(wrong))
            value = values[row].as_py() if isinstance(values, pa.Array) else values[row].item()
            raise InputError(
                f"{self.where}: column '{name}' {what} in {wrong.sum():,} of {len(wrong):,} rows, "
                f"for example {value!r} in row {row + self.first_row}: {remedy}."
            )


def _find(folder: Folder, stem: str, optional: bool = False) -> str:
    """Returns the file `stem.*`; the only file there is may have any name for ratings."""
    found = sorted(fnmatch.filter(folder.names, f"{stem}.*"))
    if not found and not optional and len(folder.names) == 1:
        found = list(folder.names)
    if len(found) > 1:
        raise InputError(
            f"{folder.path} holds {' and '.join(found)}. Expected one {stem}.*: remove the others."
        )
    if not found and not optional:
        names = ", ".join(sorted(folder.names)[:8]) or "nothing"
        raise InputError(f"{folder.path} holds {names}. {EXPECTED}")
    return found[0] if found else ""


def _read(folder: Folder, name: str, options: Options, columns: Sequence[str] = ()) -> _Table:
    where = f"{folder.path}/{folder.names[name]}"
    if len(options.separator) > 1:
        raise InputError(
            f"--separator={options.separator!r}. Expected one character; a tab, comma, semicolon "
            f"or bar is found without it."
        )
    try:
        if name.endswith(".parquet"):
            with folder.open(name) as file:
                return _Table(where, pq.read_table(file), 1)
        with folder.open(name) as file:
            separator = options.separator or _separator(file.readline(), where)
        as_written = (options.user, options.item, *options.text, *options.categorical)
        with folder.open(name) as file:
            rows = pa_csv.read_csv(
                file,
                # In one thread, so that errors know their row.
                pa_csv.ReadOptions(column_names=list(columns) or None, use_threads=False),
                pa_csv.ParseOptions(delimiter=separator),
                pa_csv.ConvertOptions(column_types=dict.fromkeys(as_written, pa.string())),
            )
        table = _Table(where, rows, 1 if columns else 2)
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise InputError(f"{where} cannot be read: {error}") from error
    if not len(table.rows):
        raise InputError(f"{where} has no rows.")
    return table


def _separator(line: bytes, where: str) -> str:
    text = line.decode("utf-8", "replace")
    found = max(SEPARATORS, key=text.count)
    if found not in text:
        raise InputError(
            f"{where}: no separator in its first line, {text.strip()!r}. Expected a tab, comma, "
            f"semicolon or bar: name another with --separator."
        )
    return found


@dataclasses.dataclass(frozen=True)
class _Entity:
    """The users or the items.

    Attributes:
      ids: `[V]`.
      features, columns: what is known of them, `[V]` each.
      rows: `[N]` which one each rating is of.
    """

    ids: pa.Array
    features: tuple[FeatureSpec, ...]
    columns: dict[str, pa.Array]
    rows: np.ndarray

    @classmethod
    def read(
        cls, folder: Folder, entity: str, column: str, ratings: _Table, options: Options
    ) -> "_Entity":
        """Takes them from their own table, or from the ratings where there is none."""
        rated = ratings.ids(column)
        name = _find(folder, f"{entity}s", optional=True)
        if not name:
            coded = rated.dictionary_encode()
            return cls(coded.dictionary, (), {}, coded.indices.to_numpy())
        own = _read(folder, name, options)
        ids = own.ids(column)
        if ids.type != rated.type:  # integers in one file, text in the other
            ids, rated = ids.cast(pa.large_string()), rated.cast(pa.large_string())
        codes = ids.dictionary_encode().indices.to_numpy()
        again = np.ones(len(codes), bool)
        again[np.unique(codes, return_index=True)[1]] = False
        own.refuse(again, column, ids, "repeats", f"keep one row of each {entity}")
        rows = positions(rated, ids, ratings.where, entity, first_row=ratings.first_row)
        features, columns = [], {}
        for name in own.rows.column_names:
            if name != column and name not in options.ignore:
                kind, columns[name] = _feature(own, name, options)
                features.append(FeatureSpec(name, entity, kind))
        return cls(ids, tuple(features), columns, rows)


def _feature(table: _Table, name: str, options: Options) -> tuple[str, pa.Array]:
    """Returns the kind and the values of a feature."""
    values = table.column(name)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if name in options.text or name in options.categorical or is_string or kind == pa.bool_():
        written = pc.fill_null(values.cast(pa.string()), "")
        return "text" if name in options.text else "categorical", written
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numeric", pa.array(table.numbers(name, values))
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        return "embedding", values
    raise InputError(
        f"{table.where}: column '{name}' holds {kind}. Expected numbers, UTF-8 text, booleans or "
        f"lists of floats: name it in --categorical or --text, or leave it out with --ignore."
    )


def _check_names(folder: Folder, options: Options, users: _Entity, items: _Entity) -> None:
    """Raises InputError for features that a log cannot have, and for flags that name none."""
    features = (*users.features, *items.features)
    try:
        Schema(features, ("like",))
    except InputError as error:
        raise InputError(
            f"{folder.path}: {error} Features are the columns of users.* and items.*: rename that "
            f"one, or leave it out with --ignore."
        ) from error
    names = [feature.name for feature in features]
    for flag in ("text", "categorical"):
        for name in getattr(options, flag):
            if name not in names:
                raise InputError(f"--{flag} names '{name}'." + did_you_mean(name, names))


def _queries(users: _Entity, options: Options) -> pa.Array:
    known = [spec.name for spec in users.features if spec.kind == "categorical"]
    for name in options.query:
        if name not in known:
            raise InputError(
                f"--query names '{name}', no categorical feature of users."
                + did_you_mean(name, known)
            )
    if not options.query:
        return pa.repeat("all", len(users.ids))
    return pc.binary_join_element_wise(*(users.columns[name] for name in options.query), "-")


def _verdicts(table: _Table, options: Options) -> np.ndarray:
    rating = table.numbers(options.rating, table.column(options.rating))
    verdict = np.where(rating > options.threshold, LIKE, DISLIKE)
    if options.neutral is not None:
        verdict[rating == options.neutral] = NEUTRAL
    for kind, where in ((LIKE, "above"), (DISLIKE, "at or below")):
        if not (verdict == kind).any():
            raise InputError(
                f"{table.where}: no rating lies {where} --threshold={options.threshold:g}; they "
                f"run from {rating.min():g} to {rating.max():g}. A model needs both: set another."
            )
    return verdict


def _seconds(table: _Table, options: Options) -> np.ndarray:
    """Returns UTC seconds `[N]`; a time without a zone is taken for UTC."""
    values = table.column(options.time)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        zone = getattr(values.type, "tz", None)
        values = values.cast(pa.timestamp("s", zone), safe=False).cast(pa.int64())
    seconds = np.floor(table.numbers(options.time, values))
    wrong = (seconds < EARLIEST) | (seconds > LATEST)
    what = "is no time between 1990 and 2100 in UTC seconds"
    table.refuse(wrong, options.time, seconds, what, "divide milliseconds by 1,000")
    return seconds.astype(np.int64)
