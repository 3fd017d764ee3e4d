"""The page: a report on runs as one HTML file, which loads nothing and runs nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.report import model, results
from interactrank_jax.report.data import gather
from interactrank_jax.report.html import Html, json_block, tag
from interactrank_jax.report.online_section import online_test
from interactrank_jax.report.section import anchor
from interactrank_jax.report.style import style_sheet
from interactrank_jax.report.tables import Numbers

DATA = "report"  # identifier of the page's JSON
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # nothing is fetched, nothing is run


def write_report(
    workdirs: Sequence[files.PathLike],
    out: files.PathLike,
    examples: files.PathLike | None = None,
    split: str = "test",
    ab: files.PathLike | None = None,
) -> dict[str, Any]:
    """Writes a page on runs, whole or not at all; returns what it shows, see `data.gather`.

    A run that lacks an evaluation is evaluated, which writes RUN/eval.

    Args:
      workdirs: the runs.
      out: the page, a name that ends in .html; a file of that name is replaced.
      examples: to evaluate on; by default those that each run was trained on.
      split: which of their splits.
      ab: what `experiments.ab_test` wrote, if it is to be shown.

    Raises:
      InputError: the page cannot be written, which is checked first; see `data.gather`.
    """
    if Path(out).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out={out} is no page. Expected a file name that ends in .html.")
    outputs.check_output_file(out)
    data = gather(workdirs, examples, split, ab)
    text = page(data)
    with outputs.new_file(out) as partial:
        partial.write_text(text, encoding="utf-8")
    return data


def page(data: Mapping[str, Any]) -> Html:
    """Returns the page of what `data.gather` gave."""
    numbers = Numbers(data)
    parts = {
        "Runs": results.overview(numbers),
        "Metrics": results.metrics(numbers),
        "Online test": online_test(numbers),
        "Learning curves": model.curves(numbers),
        "Calibration": results.reliability(numbers),
        **results.slices(numbers),
        "Cross-feature weights": model.cross_weights(numbers),
        "Meta-query usage": model.meta_queries(numbers),
        "Training throughput": model.throughput(numbers),
        "Config": model.config(numbers),
    }
    shown = {title: part for title, part in parts.items() if part is not None}
    names = ", ".join(run["name"] for run in data["runs"])
    links = [tag("a", title, href=f"#{anchor(title)}") for title in shown]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"interactrank report: {names}"),
        tag("style", Html(style_sheet())),
    )
    header = tag(
        "header",
        tag("h1", "Report: ", names),
        tag("p", f"Evaluated on split '{data['split']}'.", class_="lead"),
        tag("nav", *links, aria_label="Sections"),
    )
    body = tag("body", tag("main", header, *shown.values()), json_block(DATA, data))
    return Html("<!doctype html>\n" + tag("html", head, body, lang="en") + "\n")
