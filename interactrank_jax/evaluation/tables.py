"""Results as Markdown: figures with half the width of their 95% intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interactrank_jax.examples.format import describe_protocol
from interactrank_jax.io.printable import cell, printable


def report(results: Sequence[dict[str, Any]]) -> str:
    """Returns all that `interactrank evaluate` says of one result, or of scores beside a run."""
    parts = [table(results)]
    for result in results:
        if "feature" in result:
            parts.append(printable(f"{result['name']} ranks by {result['feature']}"))
        if "extra" in result:
            parts.append(
                printable(f"{result['name']}: {result['extra']:,} pairs that the split does not ")
                + "have were ignored"
            )
        parts += [part_table(result, part) for part in ("heads", "stages") if result[part]]
        parts += [slice_table(result, by) for by in result["slices"]]
        if "differences" in result:
            parts.append(difference_table(results[0], results[1]))
    last = results[-1]
    corpus = ""
    if last["corpus_requests"]:
        corpus = (
            f"; recall over {last['corpus_requests']:,} requests with an engaged item, among all "
            f"{last['corpus']:,} items of the log"
        )
    parts.append(
        f"protocol {describe_protocol(last['protocol'])}, {last['requests']:,} requests, "
        f"{last['candidates']:,} candidates{corpus}. ± is half a 95% interval over requests; "
        f"heads are calibrated for weights and sampling."
    )
    return "\n\n".join(parts)


def table(results: Sequence[dict[str, Any]], names: Sequence[str] = ()) -> str:
    """Returns a table of several results.

    `names` are the metrics to show, by default all that any of them has.
    """
    names = list(names or dict.fromkeys(name for result in results for name in result["metrics"]))
    return _markdown(
        "model", names, [(result["name"], _cells(result, names)) for result in results]
    )


def part_table(result: dict[str, Any], part: str) -> str:
    """Returns a table of a result's 'heads' or 'stages'; '' where there are none."""
    if not result[part]:
        return ""
    names = list(next(iter(result[part].values())))
    rows = [
        (name, [_figure(*figures[metric]) for metric in names])
        for name, figures in result[part].items()
    ]
    return _markdown(part.removesuffix("s"), names, rows)


def slice_table(result: dict[str, Any], by: str) -> str:
    """Returns a table of a result's slices by one of what `--by` named."""
    slices = result["slices"][by]
    counts = ("requests", "candidates", "engaged")
    names = list(dict.fromkeys(name for part in slices for name in part["metrics"]))
    rows = [
        (part["slice"], [f"{part[name]:,}" for name in counts] + _cells(part, names))
        for part in slices
    ]
    return _markdown(by, [*counts, *names], rows)


def difference_table(result: dict[str, Any], other: dict[str, Any]) -> str:
    """Returns a table of a result minus another, with the intervals of the differences."""
    title = f"{result['name']} minus {other['name']}"
    rows = [
        (name, [f"{value:+.4f}", f"{low:+.4f} to {high:+.4f}"])
        for name, (value, low, high) in result["differences"].items()
    ]
    return _markdown(title, ["difference", "95% interval, paired over requests"], rows)


def _markdown(title: str, names: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> str:
    lines = [f"| {cell(title)} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {cell(name)} | " + " | ".join(cells) + " |" for name, cells in rows]
    return "\n".join(lines)


def _cells(result: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    metrics, intervals = result["metrics"], result["intervals"]
    return [_figure(metrics.get(name), *intervals.get(name, (None, None))) for name in names]


def _figure(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or np.isnan(value):
        return ""
    if low is None or high is None or np.isnan(low):
        return f"{value:.4f}"
    return f"{value:.4f} ±{(high - low) / 2:.4f}"
