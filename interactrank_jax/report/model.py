"""The sections on what the runs are: curves, weights, meta queries, speed, configs."""

from interactrank_jax.report import charts
from interactrank_jax.report.charts import Series
from interactrank_jax.report.html import Child, Html, tag
from interactrank_jax.report.section import legend, name, section
from interactrank_jax.report.tables import Numbers, in_words, table

FIRST_CURVES = ("train/loss", "validation/logloss", "validation/roc_auc", "validation/ndcg_at_10")
SIMILARITY = "train/model/query_similarity"
RATES = ("train/candidates_per_second", "train/steps_per_second")


def curves(numbers: Numbers) -> Html | None:
    """Returns the loss and validation metrics by step."""
    runs = range(len(numbers.data["runs"]))
    selected = [f"validation/{numbers.at('runs', run, 'select_by')}" for run in runs]
    wanted = dict.fromkeys((FIRST_CURVES[0], *selected, *FIRST_CURVES[1:]))
    drawn = [chart for metric in wanted if (chart := _curve(numbers, metric))]
    if not drawn:
        return None
    about = "By training step, from each run's metrics.jsonl."
    return section("Learning curves", about, legend(numbers), tag("div", *drawn, class_="charts"))


def _curve(
    numbers: Numbers, metric: str, form: str = ".4f", note: str = "", zero: bool = False
) -> Html | None:
    """Returns a chart of a curve of all runs that have it."""
    series = []
    for run, content in enumerate(numbers.data["runs"]):
        values = content["curves"].get(metric, ())
        if any(value is not None for value in values):
            series.append(Series(content["name"], run, content["steps"], values))
    if not series:
        return None
    drawing = charts.line_chart(series, "step", f"{metric} by step", form=form, zero=zero)
    return charts.figure(metric, drawing, note)


def cross_weights(numbers: Numbers) -> Html | None:
    """Returns the weights of cross features, of the ranked score and of each head."""
    runs = [run for run, content in enumerate(numbers.data["runs"]) if content["cross"]]
    if not runs:
        return None
    features = list(
        dict.fromkeys(f for run in runs for f in numbers.at("runs", run, "cross", "features"))
    )
    series, columns = [], []
    cells: dict[str, list[Child]] = {feature: [] for feature in features}
    for run in runs:
        cross, heads = numbers.at("runs", run, "cross"), numbers.at("runs", run, "heads")
        rows_of_run = [features.index(feature) for feature in cross["features"]]
        series.append(Series(name(numbers, run), run, rows_of_run, cross["ranked"]))
        prefix = f"{name(numbers, run)}: " if len(runs) > 1 else ""
        columns += [f"{prefix}{column}" for column in ("ranked score", *heads)]
        for feature in features:
            k = cross["features"].index(feature) if feature in cross["features"] else -1
            keys = ("runs", run, "cross")
            row = [(*keys, "ranked", k), *((*keys, "weights", k, h) for h in range(len(heads)))]
            cells[feature] += [
                numbers.number(*path, form="+.4f") if k >= 0 else None for path in row
            ]
    drawing = charts.row_chart(
        features, series, "weight", "Weights of cross features", form="+.4f", zero=True
    )
    about = (
        "What a cross feature's value, after config.model.cross.transform, is multiplied by in the "
        "logit of each head, and in the ranked score: the heads weighted by label.utility."
    )
    rows: list[tuple[Child, list[Child]]] = [
        (in_words(feature), cells[feature]) for feature in features
    ]
    chart = tag("div", charts.figure("ranked score", drawing), class_="charts")
    shown = table("cross feature", columns, rows)
    return section("Cross-feature weights", about, legend(numbers, runs), chart, shown)


def meta_queries(numbers: Numbers) -> Html | None:
    """Returns how much each of FIT's meta queries is used."""
    runs = [run for run, content in enumerate(numbers.data["runs"]) if content["meta"]]
    if not runs:
        return None
    drawn, rows = [], []
    for run in runs:
        meta = numbers.at("runs", run, "meta")
        usage = meta["usage"]
        description = f"Share of candidates by meta query, {name(numbers, run)}"
        drawing = charts.column_chart(usage, 1 / len(usage), "meta query", description, run)
        note = f"share of candidates, at step {meta['step']:,}"
        drawn.append(charts.figure(name(numbers, run), drawing, note))
        for k in range(len(usage)):
            title = f"{name(numbers, run)}, {k}" if len(runs) > 1 else str(k)
            rows.append((title, [numbers.number("runs", run, "meta", "usage", k)]))
    effective = [
        Series(name(numbers, run), run, content["steps"], content["meta"]["effective"])
        for run in runs
        for content in (numbers.data["runs"][run],)
    ]
    drawing = charts.line_chart(effective, "step", "Meta queries in use by step", form=".2f")
    drawn.append(charts.figure("meta queries in use", drawing, "exp of the entropy of the shares"))
    similarity = _curve(numbers, SIMILARITY, note="cosine of soft and hard query: 1 at the end")
    drawn += [similarity] if similarity else []
    about = (
        "FIT serves an item by its nearest meta query. Shares far from even say that fewer would "
        "do; a cosine below 1 says that training ended before soft and hard queries agreed."
    )
    listed = tag("details", tag("summary", "All shares"), table("meta query", ["share"], rows))
    charts_of = tag("div", *drawn, class_="charts")
    return section("Meta-query usage", about, legend(numbers, runs), charts_of, listed)


def throughput(numbers: Numbers) -> Html | None:
    """Returns how fast the runs trained."""
    runs = [run for run, content in enumerate(numbers.data["runs"]) if content["throughput"]]
    if not runs:
        return None
    rows: list[tuple[Child, list[Child]]] = []
    for title, key, form in (
        ("candidates per second", "candidates_per_second", ",.0f"),
        ("steps per second", "steps_per_second", ",.2f"),
    ):
        cells = [numbers.number("runs", run, "throughput", key, form=form) for run in runs]
        rows.append((title, list(cells)))
    drawn = [
        chart
        for rate in RATES
        if (chart := _curve(numbers, rate, form=",.2f", zero=True)) is not None
    ]
    about = (
        "As training logged it, on the machine that it ran on: medians, without the first span, "
        "which has the compilation in it."
    )
    shown = table("median", [name(numbers, run) for run in runs], rows)
    charts_of = tag("div", *drawn, class_="charts")
    return section("Training throughput", about, legend(numbers, runs), shown, charts_of)


def config(numbers: Numbers) -> Html:
    """Returns the fields in which the runs' configs differ, and all fields."""
    fields, names = numbers.data["config"], [content["name"] for content in numbers.data["runs"]]
    different = [
        field for field, values in fields.items() if any(value != values[0] for value in values)
    ]
    shown: Child = None
    if different:
        shown = _fields(numbers, different, names)
        about = f"{len(different)} of {len(fields)} fields differ between the runs."
    elif len(names) > 1:
        about = f"All {len(fields)} fields are alike."
    else:
        about = f"{len(fields)} fields. Several runs on one page are compared here."
    every = tag("details", tag("summary", "All fields"), _fields(numbers, list(fields), names))
    return section("Config", about, shown, every)


def _fields(numbers: Numbers, fields: list[str], names: list[str]) -> Html:
    rows = [
        (in_words(field), [numbers.text("config", field, run) for run in range(len(names))])
        for field in fields
    ]
    return table("config", names, rows)
