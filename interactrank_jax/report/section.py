"""What the sections of a page share."""

from collections.abc import Sequence

from interactrank_jax.report.charts import Series
from interactrank_jax.report.html import Child, Html, prose, tag
from interactrank_jax.report.tables import Numbers


def section(title: str, about: str, *children: Child) -> Html:
    """Returns a section with an anchor of its title."""
    heading = tag("h2", title), tag("p", prose(about), class_="about")
    return tag("section", *heading, *children, id=anchor(title))


def anchor(title: str) -> str:
    """Returns the name by which a link finds a section."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def legend(numbers: Numbers, runs: Sequence[int] | None = None) -> Html | None:
    """Returns which colour is which run; None where the page has one run."""
    if len(numbers.data["runs"]) < 2:
        return None
    entries = []
    for run in range(len(numbers.data["runs"])) if runs is None else runs:
        style = Series("", run, (), ()).style
        entries.append(tag("li", tag("span", class_=f"key {style}"), name(numbers, run)))
    return tag("ul", *entries, class_="legend")


def name(numbers: Numbers, run: int) -> str:
    """Returns the name of a run."""
    return str(numbers.at("runs", run, "name"))


def evaluated(numbers: Numbers) -> list[int]:
    """Returns the runs that have an evaluation."""
    runs = range(len(numbers.data["runs"]))
    return [run for run in runs if numbers.at("runs", run, "evaluation") is not None]
