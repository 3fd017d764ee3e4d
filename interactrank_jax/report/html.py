"""Markup that cannot be forged: all text is escaped when it enters, by construction."""

import html
import json
from collections.abc import Iterable
from typing import Any

from interactrank_jax.io.printable import printable

_VOID = frozenset(("meta", "br", "circle", "line", "path", "rect"))


class Html(str):
    """Markup. Every other string is text, and is escaped where it becomes part of a page."""


Child = str | None | Iterable[Any]


def escape(text: str) -> Html:
    """Returns text as markup: as it reads, with what would turn the writing around made visible."""
    return Html(html.escape(printable(text)))


def join(children: Child) -> Html:
    """Returns children, and children of children, one after the other; None is nothing."""
    if children is None:
        return Html()
    if isinstance(children, Html):
        return children
    if isinstance(children, str):
        return escape(children)
    return Html("".join(join(child) for child in children))


def tag(name: str, /, *children: Child, **attributes: Any) -> Html:
    """Returns an element.

    Args:
      name: of it.
      *children: text, which is escaped, markup, or several of these.
      **attributes: by name, `_` for `-`, with a `_` behind where Python has the word; one of None
        is left out. Numbers have one decimal, which is enough for coordinates.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            text = f"{value:.1f}" if isinstance(value, float) else str(value)
            # What is for programs is kept to the letter.
            escaped = html.escape(text) if key.startswith("data_") else escape(text)
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escaped}"')
    start = " ".join(parts)
    return Html(f"<{start}/>" if name in _VOID else f"<{start}>{join(children)}</{name}>")


def prose(text: str) -> Html:
    """Returns text in which what stands between backticks is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return join(tag("code", part) if number % 2 else part for number, part in enumerate(parts))


def json_block(identifier: str, value: Any) -> Html:
    """Returns a block of JSON, which a browser keeps and does not run."""
    text = json.dumps(value, allow_nan=False)
    for character in "<>&":  # within JSON they are in strings alone
        text = text.replace(character, f"\\u{ord(character):04x}")
    return tag("script", Html(text), type="application/json", id=identifier)
