"""Tables of a page. Every number in one says which number of the page's JSON it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from interactrank_jax.report.html import Child, Html, escape, tag


class Numbers:
    """The page's JSON, and its numbers as markup.

    An element with a number has an attribute `data-json`, the JSON pointer (RFC 6901) of it.

    Attributes:
      data: the JSON.
    """

    def __init__(self, data: Mapping[str, Any]):
        self.data = data

    def at(self, *keys: Any) -> Any:
        """Returns what is at a path of keys and positions; None where something is absent."""
        value: Any = self.data
        for key in keys:
            if isinstance(value, Mapping):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value

    def number(self, *keys: Any, form: str = ".4f") -> Html | None:
        """Returns a number as `form` writes it, None where it is not defined."""
        value = self.at(*keys)
        if value is None:
            return None
        return tag("span", f"{value:{form}}".replace("-", "−"), data_json=pointer(keys))

    def text(self, *keys: Any) -> Html | None:
        """Returns text, or anything else in JSON's words."""
        value = self.at(*keys)
        if value is None:
            return None
        return tag("span", value if isinstance(value, str) else _plain(value), **_of(keys))

    def interval(self, low: Sequence[Any], high: Sequence[Any], form: str = ".4f") -> Html | None:
        """Returns the interval between numbers at two paths, None where it is not defined."""
        bounds = self.number(*low, form=form), self.number(*high, form=form)
        if None in bounds:
            return None
        return tag("small", "[", bounds[0], ", ", bounds[1], "]")

    def metric(self, *keys: Any, name: str) -> list[Child]:
        """Returns a metric with its interval, of a result with `metrics` and `intervals`."""
        bounds = (*keys, "intervals", name)
        value = self.number(*keys, "metrics", name)
        return with_interval(value, self.interval((*bounds, 0), (*bounds, 1)))

    def figure(self, *keys: Any, form: str = ".4f") -> list[Child]:
        """Returns a [value, low, high] with its interval."""
        interval = self.interval((*keys, 1), (*keys, 2), form)
        return with_interval(self.number(*keys, 0, form=form), interval)


def with_interval(value: Html | None, interval: Html | None) -> list[Child]:
    """Returns a value and its interval, which may break into another line between the two."""
    return [value, " " if interval else None, interval]


def pointer(keys: Sequence[Any]) -> str:
    """Returns the JSON pointer of a path."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def table(
    corner: str, columns: Sequence[Child], rows: Sequence[tuple[Child, Sequence[Child]]]
) -> Html:
    """Returns a table in a box of its own, in which it scrolls where it is too wide.

    Args:
      corner: what the rows are.
      columns: titles of the others.
      rows: the title and the cells of each; an empty cell shows a dash.
    """
    titles = [tag("th", title, scope="col") for title in (corner, *columns)]
    body = [
        tag("tr", tag("th", title, scope="row"), *(tag("td", _filled(cell)) for cell in cells))
        for title, cells in rows
    ]
    whole = tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *body))
    return tag("div", whole, class_="wide", tabindex="0", role="region", aria_label=corner)


def in_words(name: str) -> Html:
    """Returns a name of the code, which may break into another line behind its marks."""
    text = escape(name)
    for mark in "_/.:":
        text = Html(text.replace(mark, f"{mark}<wbr>"))
    return text


def _filled(cell: Child) -> Child:
    is_list = isinstance(cell, list | tuple)
    is_empty = cell is None or cell == "" or (is_list and not any(cell or ()))
    return tag("span", "–", class_="none") if is_empty else cell


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_plain, value)) + ")"
    return str(value)


def _of(keys: Sequence[Any]) -> dict[str, str]:
    return {"data_json": pointer(keys)}
