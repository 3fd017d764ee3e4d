"""The sections on how good the runs are: metrics, calibration, slices. None: without content."""

from collections.abc import Sequence
from typing import Any

from interactrank_jax.evaluation.tables import calibration
from interactrank_jax.metrics import LOWER_IS_BETTER
from interactrank_jax.report import charts
from interactrank_jax.report.charts import Series
from interactrank_jax.report.html import Child, Html, prose, tag
from interactrank_jax.report.section import evaluated, legend, name, section
from interactrank_jax.report.tables import Numbers, in_words, table


def overview(numbers: Numbers) -> Html:
    """Returns the runs side by side, and what is to be said of each."""
    runs = range(len(numbers.data["runs"]))
    texts = (
        *(("model", "model"), ("directory", "path"), ("protocol", "protocol")),
        ("examples trained on", "examples"),
    )
    counts = (
        *(("best step", "step"), ("parameters of layers", "parameters")),
        ("parameters of tables", "table_parameters"),
    )
    rows: list[tuple[Child, list[Child]]] = [
        (title, [numbers.text("runs", run, key) for run in runs]) for title, key in texts
    ]
    rows[2:2] = [
        (title, [numbers.number("runs", run, key, form=",") for run in runs])
        for title, key in counts
    ]
    sizes = ("requests", "candidates", "engaged")
    rows += [
        (
            f"{size} evaluated on",
            [numbers.number("runs", run, "evaluation", size, form=",") for run in runs],
        )
        for size in sizes
    ]
    notes = [f"{name(numbers, run)}: {note}" for run in runs for note in _notes(numbers, run)]
    notes += numbers.data["notes"]
    shown = (
        tag("ul", *(tag("li", prose(note)) for note in notes), class_="notes") if notes else None
    )
    columns = [name(numbers, run) for run in runs]
    about = "What was trained and evaluated. Intervals of metrics are 95%, over requests."
    return section("Runs", about, legend(numbers), table("", columns, rows), shown)


def _notes(numbers: Numbers, run: int) -> list[str]:
    result = numbers.at("runs", run, "evaluation") or {}
    below = [f"lies {words}" for words in result.get("below", ())]
    return [*numbers.at("runs", run, "notes"), *below, *result.get("warnings", ())]


def metrics(numbers: Numbers) -> Html | None:
    """Returns all metrics by run, differences of the first from each other, reference lines."""
    runs = evaluated(numbers)
    if not runs:
        return None
    results = [("runs", run, "evaluation") for run in runs]
    names = dict.fromkeys(metric for keys in results for metric in numbers.at(*keys, "metrics"))
    rows: list[tuple[Child, list[Child]]] = []
    for metric in names:
        best = _best(numbers, results, metric)
        cells = [numbers.metric(*keys, name=metric) for keys in results]
        rows.append(
            (
                in_words(metric),
                [
                    tag("span", cell, class_="best") if k == best else cell
                    for k, cell in enumerate(cells)
                ],
            )
        )
    parts: list[Child] = [table("metric", [name(numbers, run) for run in runs], rows)]
    if numbers.data["differences"]:
        about = "A difference is bold where its interval does not hold 0."
        title = tag("h3", "Differences, paired over the same requests")
        parts += [title, tag("p", about, class_="about"), _paired(numbers)]
    parts += [_references(numbers, run) for run in runs]
    split = numbers.data["split"]
    about = (
        f"The best model of each run on split '{split}', as `interactrank evaluate` computes them. "
        f"Lower is better for logloss, higher for the others; the best value is bold, however "
        f"small its lead. Recall and corpus_mrr rank all items, the others a request's candidates."
    )
    return section("Metrics", about, *parts)


def _best(numbers: Numbers, results: Sequence[tuple[Any, ...]], metric: str) -> int | None:
    """Returns which of several results is best in a metric; None where all are alike."""
    values = {k: numbers.at(*keys, "metrics", metric) for k, keys in enumerate(results)}
    defined = {k: value for k, value in values.items() if value is not None}
    if len(set(defined.values())) < 2:
        return None
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return max(defined, key=lambda k: sign * defined[k])


def _paired(numbers: Numbers) -> Html:
    """Returns the differences; one whose interval does not hold 0 is bold."""
    differences = numbers.data["differences"]
    columns = [
        f"{name(numbers, one['run'])} − {name(numbers, one['minus'])}" for one in differences
    ]
    rows: list[tuple[Child, list[Child]]] = []
    for metric in dict.fromkeys(metric for one in differences for metric in one["metrics"]):
        cells: list[Child] = []
        for k, one in enumerate(differences):
            _, low, high = one["metrics"].get(metric) or (None, None, None)
            is_certain = low is not None and high is not None and (low > 0 or high < 0)
            cell = numbers.figure("differences", k, "metrics", metric, form="+.4f")
            cells.append(tag("span", cell, class_="best") if is_certain else cell)
        rows.append((in_words(metric), cells))
    return table("metric", columns, rows)


def _references(numbers: Numbers, run: int) -> Html | None:
    """Returns a run's reference lines, and itself minus each of them."""
    keys = ("runs", run, "evaluation", "references")
    lines = numbers.at(*keys)
    if not lines:
        return None
    columns: list[Child] = []
    for line, figures in lines.items():
        feature = f": {figures['feature']}" if figures["feature"] else ""
        columns += [f"{line}{feature}", "minus it"]
    names = dict.fromkeys(metric for line in lines.values() for metric in line["differences"])
    rows = []
    for metric in names:
        cells: list[Child] = []
        for line in lines:
            cells.append(numbers.number(*keys, line, "metrics", metric))
            cells.append(numbers.figure(*keys, line, "differences", metric, form="+.4f"))
        rows.append((in_words(metric), cells))
    title = tag("summary", f"Reference lines of {name(numbers, run)}: baselines on the same rows")
    return tag("details", title, table("metric", columns, rows))


def reliability(numbers: Numbers) -> Html | None:
    """Returns a reliability diagram for each head, and how far off the heads are."""
    runs = evaluated(numbers)
    heads = dict.fromkeys(
        head for run in runs for head in numbers.at("runs", run, "evaluation", "heads")
    )
    if not heads:
        return None
    drawn = [chart for head in heads if (chart := _diagram(numbers, runs, head))]
    columns = ("logloss", "ece", "predicted_over_observed", "roc_auc")
    rows = []
    for head in heads:
        for run in runs:
            keys = ("runs", run, "evaluation", "heads", head)
            if numbers.at(*keys) is not None:
                cells = [numbers.figure(*keys, column) for column in columns]
                rows.append((f"{head}, {name(numbers, run)}" if len(runs) > 1 else head, cells))
    fitted = [
        tag("p", f"{name(numbers, run)}: {calibration(fields)}.", class_="about")
        for run in runs
        if (fields := numbers.at("runs", run, "evaluation", "calibration"))
    ]
    about = (
        "Predicted against observed share of positives, in bins of equal mass; on the dashed line "
        "a prediction is what happens. ece is the mean distance from that line."
    )
    boxes = tag("div", *drawn, class_="charts") if drawn else None
    titles = [in_words(column) for column in columns]
    return section(
        "Calibration", about, legend(numbers, runs), boxes, table("head", titles, rows), fitted
    )


def _diagram(numbers: Numbers, runs: Sequence[int], head: str) -> Html | None:
    series = []
    for run in runs:
        points = numbers.at("runs", run, "evaluation", "reliability", head) or ()
        points = [point for point in points if point["predicted"] is not None]
        if points:
            columns = {key: [point[key] for point in points] for key in points[0]}
            series.append(
                Series(
                    name(numbers, run),
                    run,
                    columns["predicted"],
                    columns["observed"],
                    columns["low"],
                    columns["high"],
                )
            )
    if not series:
        return None
    drawing = charts.line_chart(
        series, "predicted", f"Reliability diagram of {head}", diagonal=True
    )
    return charts.figure(head, drawing, "observed against predicted")


def slices(numbers: Numbers) -> dict[str, Html]:
    """Returns by title a section for each way that the evaluations cut the split."""
    runs = evaluated(numbers)
    cuts = dict.fromkeys(
        cut for run in runs for cut in numbers.at("runs", run, "evaluation", "slices")
    )
    return {title: _slices(numbers, runs, cut, title) for cut in cuts for title in (_title(cut),)}


def _title(cut: str) -> str:
    return f"Metrics by {cut.replace('_', ' ')}"


def _slices(numbers: Numbers, runs: Sequence[int], cut: str, title: str) -> Html:
    parts = {run: numbers.at("runs", run, "evaluation", "slices", cut) or [] for run in runs}
    labels = list(dict.fromkeys(part["slice"] for of_run in parts.values() for part in of_run))
    names = dict.fromkeys(
        m for of_run in parts.values() for part in of_run for m in part["metrics"]
    )
    selected = str(numbers.at("runs", runs[0], "select_by"))
    drawn = [
        _slice_chart(numbers, parts, labels, m) for m in dict.fromkeys((selected, "ndcg_at_10"))
    ]
    rows = []
    for label in labels:
        for run in runs:
            for position, part in enumerate(parts[run]):
                if part["slice"] == label:
                    keys = ("runs", run, "evaluation", "slices", cut, position)
                    cells: list[Child] = [name(numbers, run)] if len(runs) > 1 else []
                    counts = ("requests", "candidates", "engaged")
                    cells += [numbers.number(*keys, count, form=",") for count in counts]
                    cells += [numbers.metric(*keys, name=metric) for metric in names]
                    rows.append((label, cells))
    columns: list[Child] = ["run"] if len(runs) > 1 else []
    columns += ["requests", "candidates", "engaged", *map(in_words, names)]
    about = {
        "query_popularity": "Requests by how many training requests had their query.",
        "item_age": "Candidates by the days from their creation to the request; a request is "
        "ranked among its candidates of one age alone.",
    }.get(cut, f"The split by {cut}.")
    boxes = tag("div", *drawn, class_="charts")
    return section(
        title, about, legend(numbers, runs), boxes, table(cut.replace("_", " "), columns, rows)
    )


def _slice_chart(
    numbers: Numbers, parts: dict[int, list[Any]], labels: Sequence[str], metric: str
) -> Html | None:
    series = []
    for run, of_run in parts.items():
        kept = [part for part in of_run if part["metrics"].get(metric) is not None]
        bounds = [part["intervals"].get(metric) or (None, None) for part in kept]
        series.append(
            Series(
                name(numbers, run),
                run,
                [labels.index(part["slice"]) for part in kept],
                [part["metrics"][metric] for part in kept],
                [low for low, _ in bounds],
                [high for _, high in bounds],
            )
        )
    if not any(one.y for one in series):
        return None
    return charts.figure(metric, charts.row_chart(labels, series, metric, f"{metric} by slice"))
