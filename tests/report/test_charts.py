"""Charts: round ticks, labels that do not overlap, values where they belong."""

import itertools
import re
from pathlib import Path

import pytest

from interactrank_jax.report import charts
from interactrank_jax.report.charts import Series
from interactrank_jax.report.data import labels
from interactrank_jax.report.html import Html, escape, prose, tag
from interactrank_jax.report.scales import Scale, mark, spanning


@pytest.mark.parametrize("low", [-3.7, 0.0, 0.6123, 1e6])
@pytest.mark.parametrize("width", [1e-5, 0.0071, 0.1, 0.29, 1.0, 7.4, 9.999, 123_456.0])
def test_ticks_are_round_few_and_inside(low, width):
    scale = Scale(low, low + width, 0, 100)
    ticks = scale.ticks()
    assert 3 <= len(ticks) <= 7
    assert all(low - 1e-9 * width <= tick <= low + width * (1 + 1e-9) for tick in ticks)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)
    digits = f"{steps[0]:.2e}".split("e")[0]
    assert float(digits) in (1, 2, 2.5, 5, 10)
    assert len({mark(tick, steps[0]) for tick in ticks}) == len(ticks) or low == 1e6


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        *((0.25, 0.05, "0.25"), (0.3, 0.1, "0.3"), (-2.0, 1.0, "−2"), (1e-18, 0.1, "0")),
        *((25_000.0, 5_000.0, "25k"), (1.5e6, 5e5, "1.5M"), (500.0, 500.0, "500")),
    ],
)
def test_ticks_are_written_with_the_decimals_they_need(value, step, text):
    assert mark(value, step) == text


def test_a_scale_holds_all_values_and_one_value_too():
    scale = spanning([3.0, None, 5.0], 10, 20, include=[0.0])
    assert scale.low < 0 < 5 < scale.high
    alone = spanning([2.0], 0, 100)
    assert alone(2.0) == pytest.approx(50)
    assert spanning([], 0, 1)(0.5) == pytest.approx(0.5)


def test_labels_are_moved_apart_and_stay_inside():
    moved = charts.apart([10.0, 11.0, 90.0, 99.0, 100.0], 13.0, 100.0)
    assert all(b - a >= 13 for a, b in itertools.pairwise(moved))
    assert max(moved) <= 100
    assert moved[0] == 10


def dots(chart: Html) -> list[tuple[float, float]]:
    return [
        (float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', chart)
    ]


def test_higher_values_are_higher_and_absent_ones_are_not_drawn():
    series = Series("a", 0, [0, 10, 20, 30], [1.0, None, 2.0, 4.0])
    chart = charts.line_chart([series], "step", "values")
    (x0, y0), (x2, y2), (x3, y3) = dots(chart)
    assert x0 < x2 < x3
    assert y0 > y2 > y3
    assert (y0 - y2) * 2 == pytest.approx(y2 - y3, abs=0.3)
    assert 'class="name' not in chart  # a single line needs none


def test_lines_have_their_names_at_their_ends():
    series = [Series(f"run {k}", k, [0, 1], [1.0, 1.0 + k / 1000]) for k in range(3)]
    chart = charts.line_chart(series, "step", "values")
    names = re.findall(r'y="([\d.]+)" class="name s\d">run (\d)', chart)
    assert [name for _, name in names] == ["2", "1", "0"]
    assert all(float(b) - float(a) >= 13 for (a, _), (b, _) in itertools.pairwise(names))


def test_a_long_line_keeps_its_last_point():
    series = Series("a", 0, list(range(10_000)), [float(k) for k in range(10_000)])
    chart = charts.line_chart([series], "step", "values")
    path = re.search(r'd="M([^"]*)"', chart)[1].split("L")
    assert len(path) <= charts.MOST_POINTS
    assert float(path[-1].split()[0]) == charts.WIDTH - charts.RIGHT


def test_a_row_has_its_dot_between_the_ends_of_its_interval():
    series = Series("a", 0, [0, 1], [0.5, 0.7], [0.4, None], [0.6, None])
    chart = charts.row_chart(["first", "second"], [series], "metric", "metric by slice")
    whiskers = re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"[^>]*class="whisker', chart)
    assert len(whiskers) == 1
    low, high = map(float, whiskers[0])
    (x0, y0), (x1, y1) = dots(chart)
    assert low < x0 < high < x1
    assert y0 < y1


def test_columns_are_as_high_as_their_shares():
    chart = charts.column_chart([0.1, 0.2, 0.7], 1 / 3, "meta query", "shares")
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="column', chart)]
    assert heights == pytest.approx([heights[0], 2 * heights[0], 7 * heights[0]], abs=0.5)


def test_runs_past_the_last_colour_are_told_apart():
    assert Series("", 0, (), ()).style != Series("", charts.COLOURS, (), ()).style


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/runs/a", "/runs/b"], ["a", "b"]),
        (["/a/trial/run", "/b/trial/run"], ["a", "b"]),
        (["/x/run"], ["run"]),
        (["/a/x/run", "/a/y/run", "/b/y/run"], ["/a/x/run", "/a/y/run", "/b/y/run"]),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(paths, names):
    assert labels([Path(path) for path in paths]) == names


def test_text_is_escaped_and_markup_is_not():
    assert tag("p", "<b>", tag("b", "x & y"), None, class_='"') == (
        '<p class="&quot;">&lt;b&gt;<b>x &amp; y</b></p>'
    )
    assert escape("a\u202eb") == "a\\u202eb"
    assert prose("run `a<b` now") == "run <code>a&lt;b</code> now"
    assert prose("a lone ` stays") == "a lone ` stays"
