"""Kinds of raw columns: guessed from what a column holds, unless the user names one.

A guess can be wrong: a list written as text looks like a category, a code like a number. So every
column is described, with examples and with what looks odd about it, before its values are used.
"""

import dataclasses
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.raw_tables import RawTable
from interactrank_jax.log.adapters.raw_values import (
    grouped,
    has_decimal_commas,
    is_text,
    parsed,
    shown,
)
from interactrank_jax.log.columns import is_list_of_floats

IGNORE = "ignore"
# What stands for a missing number in text, such as NA; a category may well be called so.
_MISSING = pa.array(sorted({*pa_csv.ConvertOptions().null_values, "None"}), pa.large_string())
_CODES = frozenset(
    (
        *("id", "code", "zip", "zipcode", "postcode", "postal", "ean", "gtin", "upc", "isbn"),
        *("category", "cat", "class", "type", "group", "genre", "brand", "sku"),
    )
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_LISTS = {
    "lists": r"^\s*[\[({].*[\])}]\s*$",
    "values with control characters between them": r"[\x01-\x08\x0e-\x1f]",
    "values with '|' between them": r"[^|]\|[^|]",
    "values with ';' between them": r"[^;];[^;]",
    "values with ',' between them": r"[^,\s],[^,\s]",
}
_DATE = (
    r"^\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/. ](\d{1,2}|[A-Za-z]{3,9})[-/. ]\d{2,4})"
    r"([T ].*)?$"
)
_FEW = 20  # distinct values
_CODE_DIGITS = 8  # a date such as 20240531 has as many, an EAN 13
_LONG = 20  # characters


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of users or items, and what is made of it.

    Attributes:
      name, entity: as in a `FeatureSpec`.
      kind: one of `KINDS`, or IGNORE.
      distinct: number of distinct values; None for lists.
      examples: up to three of them, for people.
      warnings: why a guess may be wrong.
    """

    name: str
    entity: str
    kind: str
    distinct: int | None
    examples: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def describe(table: RawTable, name: str, entity: str, kind: str | None) -> Column:
    """Describes a column.

    Args:
      table: where it is.
      name: of the column.
      entity: 'user' or 'item'.
      kind: what the user says it is; None to guess.

    Raises:
      InputError: no kind fits what it holds.
    """
    values = table.column(name)
    if pa.types.is_nested(values.type):
        examples, distinct = values.drop_null()[:1], None
    else:
        stated = values.drop_null().unique()
        if is_text(stated.type):
            stated = stated.filter(pc.not_equal(stated, ""))
        examples, distinct = stated[:3], len(stated)
    warnings: tuple[str, ...] = ()
    if kind is None and not (pa.types.is_null(values.type) or distinct == 0):
        kind, warnings = _guess(table, name, values, examples if distinct is None else stated)
    elif kind is None:
        kind, warnings = IGNORE, ("it has no values: left out",)
    listed = tuple(shown(example, 24) for example in examples.to_pylist())
    return Column(name, entity, kind, distinct, listed, warnings)


def feature_values(table: RawTable, column: Column) -> pa.Array:
    """Returns the values of a column as its kind has them in a log.

    A missing category or text is an empty one.

    Raises:
      InputError: a missing number, or values that the kind cannot be made of.
    """
    if column.kind == "numeric":
        return pa.array(table.numbers(column.name))
    values = table.column(column.name)
    if column.kind == "embedding":
        if not is_list_of_floats(values.type):
            raise _unfit(table, column.name, values.type, "an embedding is a list of floats")
        return values
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    try:
        return pc.fill_null(values.cast(pa.large_string()), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _unfit(table, column.name, values.type, f"{column.kind} is one string a row") from (
            error
        )


def report(columns: Sequence[Column], unless: str = "a flag or --schema says") -> str:
    """Returns a table of columns for people, and the warnings below it; '' if there are none.

    Args:
      columns: the columns.
      unless: what a user can do about a guess.
    """
    if not columns:
        return ""
    rows = [("column", "entity", "kind", "distinct", "examples")]
    for column in columns:
        distinct = "" if column.distinct is None else f"{column.distinct:,}"
        name = column.name if column.name.isprintable() else repr(column.name)
        rows.append((name, column.entity, column.kind, distinct, ", ".join(column.examples)))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += [f"warning: {c.name}: {text}." for c in columns for text in c.warnings]
    return "\n".join([f"features, their kinds guessed unless {unless}", *lines])


def _guess(
    table: RawTable, name: str, values: pa.Array, stated: pa.Array
) -> tuple[str, tuple[str, ...]]:
    """Returns a kind and warnings; `stated` are the distinct values of the column."""
    kind = values.type
    if is_text(kind):
        return _guess_text(table, name, stated, len(values))
    if pa.types.is_boolean(kind):
        return "categorical", ()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numeric", _code_warnings(table, name, parsed(stated), len(values))
    if is_list_of_floats(kind):
        return "embedding", ()
    raise _unfit(
        table,
        name,
        kind,
        f"expected numbers, UTF-8 text, booleans or lists of floats: "
        f"{table.choice(name, 'categorical')} or {table.choice(name, 'text')} if it is one value a "
        f"row",
    )


def _guess_text(
    table: RawTable, name: str, stated: pa.Array, rows: int
) -> tuple[str, tuple[str, ...]]:
    written = stated.cast(pa.large_string())
    candidates = written.filter(pc.invert(pc.is_in(written, value_set=_MISSING)))
    figures = parsed(candidates)
    share = 1 - figures.null_count / max(len(candidates), 1)
    if share == 1 and len(candidates):
        zeros = candidates.filter(pc.match_substring_regex(candidates, r"^\s*[+-]?0\d"))
        if len(zeros):
            return "categorical", (f"leading zeros as in {_first(zeros)}, so these are codes",)
        if not table.is_text:
            return "categorical", (
                f"all its strings are numbers: if they count something, "
                f"{table.choice(name, 'numeric')}",
            )
        marks = _mark_warnings(table, name, candidates)
        return "numeric", (*marks, *_code_warnings(table, name, figures, rows))
    return "categorical", _text_warnings(table, name, written, share, rows)


def _mark_warnings(table: RawTable, name: str, written: pa.Array) -> tuple[str, ...]:
    """Warns of numbers as text whose commas or points may not be what they are read as."""
    if has_decimal_commas(written):
        choice = table.choice(name, "text")
        return (f"decimal commas as in {_first(written)}; if these are lists, {choice}",)
    marked = grouped(written)
    rest = written.filter(pc.invert(marked))
    is_below_thousand = pc.all(pc.match_substring_regex(rest, r"^\s*[+-]?\d{1,3}\s*$")).as_py()
    if pc.any(marked).as_py() and is_below_thousand is not False:
        return (
            f"three digits after every decimal point, as in {_first(written.filter(marked))}: if "
            f"the points stand between thousands, write the numbers without them",
        )
    return ()


def _code_warnings(table: RawTable, name: str, figures: pa.Array, rows: int) -> tuple[str, ...]:
    """Warns of integers that are more likely names of things than amounts of them."""
    count = len(figures)
    is_whole = pc.and_(pc.is_finite(figures), pc.equal(figures, pc.floor(figures)))
    if not pc.all(is_whole).as_py():
        return ()
    words = {word.lower() for word in _WORDS.findall(name)}
    categorical, ignore = table.choice(name, "categorical"), table.choice(name, IGNORE)
    if words & _CODES or name.lower().endswith(("id", "code")):
        return (f"integers named like codes: if so, {categorical}",)
    digits = {len(str(int(pc.abs(edge).as_py()))) for edge in pc.min_max(figures).values()}
    if count >= 2 and len(digits) == 1 and min(digits) >= _CODE_DIGITS:
        return (
            f"integers of {min(digits)} digits each: if they are codes, {categorical}; if they are "
            f"times or dates, {ignore}, or write the part that matters, such as the year",
        )
    is_flag = pc.all(pc.is_in(figures, value_set=pa.array([0.0, 1.0]))).as_py()
    if 2 <= count <= _FEW and 2 * count <= rows and not is_flag:
        return (f"integers of only {count} distinct values: if they are codes, {categorical}",)
    return ()


def _text_warnings(
    table: RawTable, name: str, stated: pa.Array, number_share: float, rows: int
) -> tuple[str, ...]:
    """Warns of strings that are probably no categories, by their distinct values."""
    text, ignore = table.choice(name, "text"), table.choice(name, IGNORE)
    if _share(stated, _DATE) >= 0.9:
        return (
            f"dates as text ({_first(stated, _DATE)}), each a category of its own: "
            f"{ignore}, or write the part that matters, such as the year",
        )
    marked = grouped(stated)
    if pc.any(marked).as_py() and pc.mean(marked.cast(pa.int8())).as_py() + number_share >= 0.9:
        return (
            f"numbers with marks between thousands ({_first(stated.filter(marked))}), each a "
            f"category of its own: write them without these marks and with a decimal point; if "
            f"they are lists, {text} takes them apart",
        )
    for what, pattern in _LISTS.items():
        if _share(stated, pattern) >= 0.2:
            return (
                f"{what} ({_first(stated, pattern)}), each combination a category of its own: "
                f"{text} takes their words apart",
            )
    if number_share >= 0.8:
        example = _first(stated.filter(parsed(stated).is_null()))
        return (f"most values are numbers, but not all, for example {example}",)
    length = pc.mean(pc.utf8_length(stated)).as_py()
    spaces = pc.mean(pc.count_substring_regex(stated, r"\s+")).as_py()
    is_long = length >= _LONG or spaces >= 1
    if len(stated) >= 0.9 * rows and (is_long or rows > 2 * _FEW):
        return (
            f"nearly every row has a value of its own: if it is free text, {text}; if it is "
            f"another id, {ignore}",
        )
    return ()


def _share(values: pa.Array, pattern: str) -> float:
    return pc.mean(pc.match_substring_regex(values, pattern).cast(pa.int8())).as_py()


def _first(values: pa.Array, pattern: str = "") -> str:
    matching = values.filter(pc.match_substring_regex(values, pattern))
    return shown(matching[0].as_py(), 24)


def _unfit(table: RawTable, name: str, kind: pa.DataType, expected: str) -> InputError:
    return InputError(
        f"{table.where}: column '{name}' holds {kind}, but {expected}; or leave it out with "
        f"{table.choice(name, IGNORE)}."
    )
