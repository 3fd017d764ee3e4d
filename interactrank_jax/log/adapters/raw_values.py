"""Values of raw columns: numbers however they are written, ids of other tables, joined keys."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.values import as_values, index_in

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_DECIMAL_COMMA = r"^([+-]?\d+),(\d+)$"
# 1,234 may be a thousand or little more than one.
_THOUSANDS = r"^[+-]?\d{1,3}(,\d{3})+$"
# 1,234.5 and 1.234,5 and 1 234,5: groups of three digits with one mark between them.
_GROUPS = "|".join(
    f"({mark}[0-9]{{3}})+({point}[0-9]+)?"
    for mark, point in ((",", r"\."), (r"\.", ","), ("[ \u00a0\u202f'\u2019_]", "[.,]"))
)
_GROUPED = rf"^\s*[+-]?[1-9]\d{{0,2}}({_GROUPS})\s*$"
_LONGEST_SHOWN = 60


def shown(value: object, longest: int = _LONGEST_SHOWN) -> str:
    """Returns a value for messages: on one line, and cut where it is long."""
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= longest else f"{value[:longest]!r}..."
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def is_text(kind: pa.DataType) -> bool:
    """Whether a column is of strings."""
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def parsed(values: pa.Array) -> pa.Array:
    """Returns a column as numbers, null where it holds something else; float64 `[N]`.

    Text may have spaces around its numbers, and decimal commas, but for a column in which every
    comma has three digits behind it: those may be thousands.
    """
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if not is_text(values.type):
        try:
            return pc.cast(values, pa.float64(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return pa.nulls(len(values), pa.float64())
    text = pc.utf8_trim_whitespace(values)
    try:  # plain numbers need no pattern
        figures = text.cast(pa.float64())
        return pc.if_else(pc.is_finite(figures), figures, pa.scalar(None, pa.float64()))
    except pa.ArrowInvalid:
        pass
    if has_decimal_commas(text):
        text = pc.replace_substring_regex(text, _DECIMAL_COMMA, r"\1.\2")
    matches = pc.match_substring_regex(text, _NUMBER)
    return pc.if_else(matches, text, pa.scalar(None, text.type)).cast(pa.float64())


def has_decimal_commas(text: pa.Array) -> bool:
    """Whether strings hold numbers with decimal commas, at least one of which is no thousands'."""
    commas = pc.match_substring_regex(text, _DECIMAL_COMMA)
    thousands = pc.match_substring_regex(text, _THOUSANDS)
    return bool(pc.any(pc.and_not(commas, thousands)).as_py())


def grouped(text: pa.Array) -> pa.Array:
    """Returns where strings hold numbers with a mark between thousands; bool `[N]`.

    `1.234` is among them: only its column tells whether it is rather a decimal fraction.
    """
    return pc.match_substring_regex(text, _GROUPED)


def numbers(
    values: pa.Array, where: str, what: str, *, whole: bool = False, first_row: int = 1
) -> np.ndarray:
    """Parses a column of numbers, or of text that is numbers; float64 `[N]`.

    Args:
      values: the column.
      where: file or table, for messages.
      what: the column, for messages.
      whole: whether they must be whole; `3.0` is.
      first_row: number that users know the first row by.

    Raises:
      InputError: some are missing or are no (whole) finite numbers.
    """
    counts = parsed(values).to_numpy(zero_copy_only=False)
    wrong = ~np.isfinite(counts)
    if whole:
        wrong |= counts != np.round(counts)
    if wrong.any():
        row = int(np.argmax(wrong))
        value = values[row].as_py()
        remedy = "Fill it in: or was the file truncated?"
        if isinstance(value, str) and ("," in value or grouped(pa.array([value]))[0].as_py()):
            remedy = "Write it with a decimal point, and without marks between thousands."
        raise InputError(
            f"{where}: {what} is not a {'whole' if whole else 'finite'} number in "
            f"{wrong.sum():,} of {len(counts):,} rows, for example {shown(value)} in row "
            f"{row + first_row}. {remedy}"
        )
    return counts


def positions(
    values: pa.Array, known: pa.Array, where: str, what: str, *, first_row: int = 1
) -> np.ndarray:
    """Returns the index of each value in `known`, int32 `[N]`; arguments as for `numbers`.

    Raises:
      InputError: a value that is not there.
    """
    indices = index_in(as_values(values), as_values(known))
    unknown = np.flatnonzero(indices < 0)
    if len(unknown):
        row = int(unknown[0])
        raise InputError(
            f"{where}: {len(unknown):,} of {len(indices):,} rows are of an unknown {what}, for "
            f"example {shown(values[row].as_py())} in row {row + first_row}. Expected all of them "
            f"in the {what}s' own file: were files of two data sets mixed?"
        )
    return indices


def repeats(values: pa.Array) -> np.ndarray:
    """Returns where a value was there before, bool `[N]`."""
    codes = values.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    again = np.ones(len(codes), bool)
    again[np.unique(codes, return_index=True)[1]] = False
    return again


def joined(*columns: pa.Array) -> pa.Array:
    r"""Returns one key per row, such as `F-25-34` of `F` and `25-34`; different rows differ.

    The key is the values with `-` between them. So that it can be taken apart again, a `-` in any
    value but the last is written `\-`, and a `\` there `\\`.
    """
    *front, last = (column.cast(pa.large_string()) for column in columns)
    escaped = [pc.replace_substring_regex(column, r"([\\-])", r"\\\1") for column in front]
    separator = pa.scalar("-", pa.large_string())
    return pc.binary_join_element_wise(*escaped, last, separator) if front else last
