"""Any data set of ratings or clicks as a log: a table of user, item, label, and time if any.

    interactrank convert --format=ratings --source=SOURCE --out=LOG --user=userId --item=movieId
      --rating=rating --time=timestamp --threshold=3

SOURCE is that table, or a directory or zip archive with `ratings.*` and, if there are features,
with `users.*` and `items.*`. Tables are Parquet (`.parquet`) or text with a separator, plain or
packed (`.xz`, `.gz`, `.bz2`, `.zip`). Text is UTF-8, or UTF-16 with a byte-order mark, and has a
header; `--columns` names the columns of ratings without. Numbers may have a decimal comma.

A row is a success where its rating is above the threshold. The tables of users and items have the
id in the same column as the ratings, one row per id; without a table, those rated are all there
are. Every other column is a feature, but for pandas' row numbers: of numbers numeric, of strings
or booleans categorical, of lists of floats an embedding, unless flags name it as text or
categorical, or leave it out. `kinds.py` says when such a guess looks wrong; `--schema=FILE` writes
the guesses down, to be edited and taken from there (`kind_choices.py`). A missing category or text
is an empty one; a missing number is an error. `rating_log.py` says what becomes of ratings.

Where every row is a success, as in logs of purchases, clicks or listens (`--rating=` where no
column says so), there is nothing to tell successes from: `--negatives=uniform:4`, or
`popularity:4`, draws negatives as `sampling.py` says, and the log, its examples and all figures
name them. `--created` names the column of items.* that says when each came to be.

The query, within which cross features count, is `all`, or what some features of the user are
(`--query=gender,age`).
"""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.adapters import kinds
from interactrank_jax.log.adapters.kind_choices import Choices
from interactrank_jax.log.adapters.rating_log import (
    DISLIKE,
    LIKE,
    NEUTRAL,
    Ratings,
    of_verdicts,
    sampling_warnings,
    write_log,
)
from interactrank_jax.log.adapters.raw_files import Folder, refuse_repeats
from interactrank_jax.log.adapters.raw_tables import WRITE_TIMES, RawTable, read_table
from interactrank_jax.log.adapters.raw_values import joined, positions, repeats
from interactrank_jax.log.negatives import HOW, SampledNegatives
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.log.validate import EARLIEST, LATEST, likely_unit

EXPECTED = (
    "Expected a table of ratings, or a directory or zip archive with one named ratings.csv, .tsv "
    "or .parquet, plain or packed as .xz, .gz, .bz2 or .zip."
)
_NEEDS = "A model learns from items that users did not take too; draw some:"


@dataclasses.dataclass(frozen=True)
class Options:
    """What the columns of a data set are.

    Attributes:
      user, item, rating, time: columns; '' where there is no time, or where every row is a success.
      threshold: a rating above it is a success.
      neutral: a rating that is neither; None if there is none.
      separator: of text; '' to find it.
      columns: names of the columns of ratings without a header.
      text, categorical, ignore: features that are text, categorical though numbers, and left out.
      query: categorical features of users that make the query.
      schema: file of the kinds of all features, written if it does not exist; '' for none.
      created: column of items.* with the time when each came to be; '' for none.
      negatives: how negatives are drawn; None for none.

    Raises:
      InputError: an option that holds for no data.
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
    schema: str = ""
    created: str = ""
    negatives: SampledNegatives | None = None

    def __post_init__(self):
        for name in ("threshold", "neutral"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise InputError(f"--{name}={value}. Expected a finite number, such as 3.")
        if self.separator and not re.fullmatch(r'(?!["\r\n])[\x01-\x7f]', self.separator):
            raise InputError(
                f"--separator={self.separator!r}. Expected one ASCII character, and neither a "
                f"quotation mark nor a line break; a tab, comma, semicolon or bar is found "
                f"without it."
            )
        if self.user == self.item:
            raise InputError(f"--user and --item are both '{self.user}'. Expected two columns.")
        if self.created and not self.time:
            raise InputError(
                "--created says when items came to be, which means nothing without --time. Name "
                "the column of times, or leave --created out."
            )
        if not self.rating and (self.threshold or self.neutral is not None):
            raise InputError(
                "--rating is empty, so every row is a success, yet --threshold or --neutral is "
                "given. Name the column of ratings, or leave these out."
            )

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that are no row numbers, whatever they are called."""
        names = (self.user, self.item, self.rating, self.time, self.created)
        return tuple(filter(None, (*names, *self.text, *self.categorical)))


def convert(
    source: files.PathLike,
    out: files.PathLike,
    options: Options,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Writes a log to the directory `out`.

    Args:
      source: the table, or the directory or archive of tables.
      out: a new or empty directory, not inside `source`.
      options: what the columns are.
      report: takes what was guessed of them, for people, before anything is written.

    Returns:
      `ratings` read, `users`, rows per table of the log, `successes` and `neutral` ones, those
      `replaced` by a later one of the same item and request, and the `features` with their kinds;
      with negatives, these in words, and what `write_log` counts of them.

    Raises:
      InputError: what is wrong, by file, column, number of rows and an example.
    """
    outputs.output_directory(out, source)
    choices = _choices(out, source, options)
    folder = Folder(Path(source), EXPECTED)
    table = _read(folder, _find(folder, "ratings"), options, options.columns)
    users, items = (
        _Entity.read(folder, entity, column, table, options)
        for entity, column in (("user", options.user), ("item", options.item))
    )
    columns = _describe(users, items, table, choices)
    _tell(report, [kinds.report(columns), *_left_out(table, users, items, options)])
    choices.save(columns)
    features = _features(folder, columns)
    verdicts = _verdicts(table, options)
    time = _seconds(table, options.time) if options.time else None
    ratings = Ratings(users.rows, items.rows, verdicts, time)
    user_columns, item_columns = users.values(columns), items.values(columns)
    queries = _queries(len(users.ids), user_columns, features, options)
    counts = write_log(
        out,
        features,
        items=pa.table({"item_id": items.ids, **item_columns}),
        users=pa.table({"user_id": users.ids, "query_id": queries, **user_columns}),
        ratings=ratings,
        has_neutral=options.neutral is not None,
        negatives=options.negatives,
        created=items.created(options),
    )
    summary = {
        "ratings": len(ratings.verdict),
        "users": len(users.ids),
        **counts,
        **of_verdicts(ratings, counts),
        "features": ", ".join(f"{spec.name} ({spec.entity}, {spec.kind})" for spec in features),
    }
    if options.negatives is not None:
        _tell(report, sampling_warnings(counts, options.negatives.per_positive))
        summary["negatives"] = options.negatives.describe()
    return summary


def _choices(out: files.PathLike, source: files.PathLike, options: Options) -> Choices:
    schema = Path(options.schema).resolve()
    if options.schema and Path(out).resolve() in schema.parents:
        raise InputError(
            f"--schema={options.schema} lies in --out={out}, which has to be new or empty. "
            f"Expected a file elsewhere."
        )
    if options.schema and not schema.exists() and Path(source).resolve() in schema.parents:
        raise InputError(
            f"--schema={options.schema} would be written into --source={source}, which is only "
            f"read: the next run would take it for data. Expected a file elsewhere."
        )
    return Choices.read(options.schema, options.text, options.categorical, options.ignore)


def _find(folder: Folder, stem: str, optional: bool = False) -> str:
    """Returns the file `stem.*`; the only file there is may have any name for ratings."""
    names = sorted(name for name in folder.names if name.lower().startswith(f"{stem}."))
    if not names and not optional and len(folder.names) == 1:
        names = list(folder.names)
    if len(names) > 1:
        raise InputError(
            f"{folder.path} holds {' and '.join(names)}. Expected one {stem}.*: remove the others."
        )
    if not names and not optional:
        raise folder.nothing()
    return names[0] if names else ""


def _read(folder: Folder, name: str, options: Options, columns: tuple[str, ...] = ()) -> RawTable:
    return read_table(
        folder, name, separator=options.separator, columns=columns, needed=options.needed
    )


@dataclasses.dataclass(frozen=True)
class _Entity:
    """The users or the items.

    Attributes:
      entity: 'user' or 'item'.
      ids: `[V]`.
      rows: `[N]` which one each rating is of.
      table: what is known of them; None if they are known by their ratings alone.
      names: columns of the table but for the id.
    """

    entity: str
    ids: pa.Array
    rows: np.ndarray
    table: RawTable | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, folder: Folder, entity: str, column: str, ratings: RawTable, options: Options
    ) -> "_Entity":
        """Takes them from their own table, or from the ratings where there is none."""
        rated = ratings.ids(column)
        name = _find(folder, f"{entity}s", optional=True)
        if not name:
            coded = rated.dictionary_encode()
            return cls(entity, coded.dictionary, coded.indices.to_numpy())
        table = _read(folder, name, options)
        ids = table.ids(column)
        if ids.type != rated.type:  # integers in one file, text in the other
            ids, rated = ids.cast(pa.large_string()), rated.cast(pa.large_string())
        table.refuse(repeats(ids), column, ids, "repeats", f"keep one row of each {entity}")
        rows = positions(rated, ids, ratings.where, entity, first_row=ratings.first_row)
        dated = options.created if entity == "item" else ""
        names = tuple(name for name in table.rows.column_names if name not in (column, dated))
        return cls(entity, ids, rows, table, names)

    def describe(self, choices: Choices) -> list[kinds.Column]:
        """Returns what the columns of their table are."""
        if self.table is None:
            return []
        return [
            kinds.describe(self.table, name, self.entity, choices.kind(self.entity, name))
            for name in self.names
        ]

    def created(self, options: Options) -> np.ndarray | None:
        """Returns UTC seconds `[V]` when each came to be; None where no column says so."""
        if not options.created:
            return None
        if self.table is None:
            raise InputError(
                f"--created={options.created}, but there is no items.*, whose column that is. "
                f"Expected one row of each item there, or the flag left out."
            )
        return _seconds(self.table, options.created)

    def values(self, columns: list[kinds.Column]) -> dict[str, pa.Array]:
        """Returns their features, `[V]` each."""
        if self.table is None:
            return {}
        return {
            column.name: kinds.feature_values(self.table, column)
            for column in columns
            if column.entity == self.entity and column.kind != kinds.IGNORE
        }


def _describe(
    users: _Entity, items: _Entity, ratings: RawTable, choices: Choices
) -> list[kinds.Column]:
    names = [(entity.entity, name) for entity in (users, items) for name in entity.names]
    choices.check(names, ratings.rows.column_names)
    return [*users.describe(choices), *items.describe(choices)]


def _tell(report: Callable[[str], None] | None, remarks: list[str]) -> None:
    if report is not None and any(remarks):
        report("\n".join(filter(None, remarks)))


def _left_out(ratings: RawTable, users: _Entity, items: _Entity, options: Options) -> list[str]:
    """Returns which columns are not used, and why, as lines for people."""
    lines = [
        f"left out: row numbers of pandas in {table.where}"
        for table in (ratings, users.table, items.table)
        if table is not None and table.row_numbers
    ]
    used = (options.user, options.item, options.rating, options.time)
    unused = [name for name in ratings.rows.column_names if name not in used]
    if unused:
        lines.append(f"not used: {', '.join(map(repr, unused))} of {ratings.where}")
    return lines


def _features(folder: Folder, columns: list[kinds.Column]) -> list[FeatureSpec]:
    """Returns the columns that are features; their names have to be such as a log can have."""
    features = [
        FeatureSpec(column.name, column.entity, column.kind)
        for column in columns
        if column.kind != kinds.IGNORE
    ]
    try:
        refuse_repeats([feature.name for feature in features], "users and items")
        Schema(tuple(features), ("like",))
    except InputError as error:
        raise InputError(
            f"{folder.path}: {error} Features are the columns of users.* and items.*: rename that "
            f"one, or leave it out with --ignore."
        ) from error
    return features


def _queries(
    users: int, columns: dict[str, pa.Array], features: list[FeatureSpec], options: Options
) -> pa.Array:
    names = [spec.name for spec in features if (spec.entity, spec.kind) == ("user", "categorical")]
    for name in options.query:
        if name not in names:
            raise InputError(
                f"--query names '{name}', no categorical feature of users."
                + did_you_mean(name, names)
            )
    if not options.query:
        return pa.repeat("all", users)
    return joined(*(columns[name] for name in options.query))


def _verdicts(table: RawTable, options: Options) -> np.ndarray:
    """Returns `[N]` what each rating says; both kinds have to come, unless negatives are drawn."""
    remedy = f"If every row is a success, as in purchases, clicks or listens: --rating= and {HOW}."
    if not options.rating and options.negatives is None:
        raise InputError(f"{table.where}: without --rating every row is a success. {_NEEDS} {HOW}.")
    if not options.rating:
        return np.full(len(table.rows), LIKE, np.int8)
    if options.rating not in table.rows.column_names:
        nearest = did_you_mean(options.rating, table.rows.column_names)
        raise InputError(f"{table.where} has no column '{options.rating}'.{nearest} {remedy}")
    rating = table.numbers(options.rating)
    verdict = np.where(rating > options.threshold, LIKE, DISLIKE).astype(np.int8)
    if options.neutral is not None:
        verdict[rating == options.neutral] = NEUTRAL
    for kind, where, what in ((LIKE, "above", ""), (DISLIKE, "at or below", f" {_NEEDS} {HOW}.")):
        if not (verdict == kind).any() and (kind == LIKE or options.negatives is None):
            raise InputError(
                f"{table.where}: no rating lies {where} --threshold={options.threshold:g}; they "
                f"run from {rating.min():g} to {rating.max():g}. A model needs both: set another."
                f"{what}"
            )
    return verdict


def _seconds(table: RawTable, column: str) -> np.ndarray:
    """Returns UTC seconds `[N]`; a time without a zone is taken for UTC."""
    seconds = table.seconds(column)
    wrong = (seconds < EARLIEST) | (seconds > LATEST)
    if wrong.any():
        unit = likely_unit(int(seconds[np.argmax(wrong)]))
        remedy = f"these look like {unit}" if unit else WRITE_TIMES
        what = "is no time between 1990 and 2100 in UTC seconds"
        table.refuse(wrong, column, seconds, what, remedy)
    return seconds.astype(np.int64)
