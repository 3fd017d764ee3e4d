"""Results as Markdown: figures with half the width of their 95% intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interactrank_jax.examples.format import describe_protocol
from interactrank_jax.io.printable import cell, printable
from interactrank_jax.log.negatives import SampledNegatives


def report(results: Sequence[dict[str, Any]]) -> str:
    """Returns all that `interactrank evaluate` says of one result, or of scores beside a run."""
    lines = [
        {"name": name, "metrics": line["metrics"], "intervals": {}}
        for name, line in results[-1].get("references", {}).items()
    ]
    parts = [table([*results, *lines])]
    for result in results:
        if result.get("references"):
            parts.append(reference_table(result))
        parts += [printable(f"{result['name']} lies {words}") for words in result.get("below", [])]
        if "calibration" in result:
            parts.append(printable(f"{result['name']}: {calibration(result['calibration'])}"))
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
    texts = (text for result in results for text in result.get("warnings", ()))
    parts += [f"warning: {printable(text)}" for text in dict.fromkeys(texts)]
    last = results[-1]
    corpus = ""
    if last["corpus_requests"]:
        existing = ", those that existed at the request" if last["corpus_as_of_request"] else ""
        corpus = (
            f"; recall and corpus_mrr over {last['corpus_requests']:,} requests with an engaged "
            f"item, among all {last['corpus']:,} items of the log{existing}"
        )
    parts.append(
        f"protocol {describe_protocol(last['protocol'])}, {last['requests']:,} requests, "
        f"{last['candidates']:,} candidates{corpus}. ± is half a 95% interval over requests; "
        f"heads are calibrated for weights and sampling, those of a run on validation too."
    )
    if last["negatives"]:
        parts.append(_negatives_in_words(last))
    return "\n\n".join(parts)


def _negatives_in_words(result: dict[str, Any]) -> str:
    """Returns what must be said where negatives were sampled, and what the honest test is."""
    values = dict(result["negatives"])
    sampled = values.pop("sampled")
    negatives = SampledNegatives.from_json(values)
    if result["corpus_requests"]:
        test = "recall and corpus_mrr above, which rank among all items"
    else:
        test = (
            "recall and corpus_mrr among all items, which need a run or a baseline, split "
            "validation or test, and examples of config.data.cross.corpus=True"
        )
    return (
        f"negatives: {negatives.describe()}; {sampled:,} of {result['candidates']:,} candidates. "
        f"Figures of candidates, and probabilities, hold for this sampling alone. The honest test "
        f"is {test}."
    )


def calibration(fields: Mapping[str, Sequence[Any]]) -> str:
    """Returns in words what a run's probabilities are, `Calibration.to_json` given."""
    heads = []
    for head, offset, scale, bias, fitted in zip(*fields.values(), strict=True):
        inner = f"logit {-offset:+.3f}"
        if fitted:
            heads.append(f"{head} {scale:.3f} ({inner}) {bias:+.3f}, fitted on validation")
        else:
            heads.append(f"{head} {inner}, not fitted on validation")
    return f"probabilities are the sigmoid of {'; '.join(heads)}"


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


def reference_table(result: dict[str, Any]) -> str:
    """Returns a table of a model minus its reference lines."""
    lines = result["references"]
    names = list(dict.fromkeys(name for line in lines.values() for name in line["differences"]))
    rows = []
    for name, line in lines.items():
        feature = f": {line['feature']}" if line["feature"] else ""
        differences = line["differences"]
        cells = [_difference(*differences.get(metric, (None, 0, 0))) for metric in names]
        rows.append((f"{name}{feature}", cells))
    return _markdown(f"{result['name']} minus", names, rows)


def _difference(value: float | None, low: float, high: float) -> str:
    if value is None or np.isnan(value):
        return ""
    return f"{value:+.4f}" if np.isnan(low) else f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


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
