"""Text of a log as it may be printed: a terminal must not obey what an item's title says."""

import re

# Control characters (escape sequences begin with one), line separators, halves of a surrogate pair,
# and the marks that turn the direction of writing, behind which text can hide.
_UNSAFE = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Returns a text with what a terminal would obey escaped, as `\x1b`; lines stay lines."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def cell(text: str) -> str:
    """Returns a text as it may stand in a cell of a Markdown table, in one line."""
    return printable(text).replace("\n", "\\n").replace("|", "\\|")
