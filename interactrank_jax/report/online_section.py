"""The section of an online test: arms, lifts with intervals, and what the funnel kept."""

from typing import Any

from interactrank_jax.report import charts
from interactrank_jax.report.charts import Series
from interactrank_jax.report.html import Child, Html, tag
from interactrank_jax.report.section import section
from interactrank_jax.report.tables import Numbers, in_words, table, with_interval

LIFTS = {"lift_vs_bm25": "lift over BM25", "lift_vs_two_tower": "lift over two-tower"}
PERCENT = "+.2%"


def online_test(numbers: Numbers) -> Html | None:
    """Returns the online test; None for a page without one."""
    content = numbers.data["ab"]
    if content is None:
        return None
    users = f" of {content['users']:,} users" if "users" in content else ""
    worlds = f" in {content['worlds']:,} simulated worlds" if "worlds" in content else ""
    cut = f" The pre-ranker keeps {content['cut']:,} candidates." if "cut" in content else ""
    about = (
        f"{content['searches']:,} searches{users}{worlds}. Fulfilment is the probability that a "
        f"slate has a long click or a save; lifts are relative, with 95% intervals.{cut}"
    )
    drawn = [_lifts(content["arms"], lift) for lift in LIFTS]
    parts: list[Child] = [tag("div", *drawn, class_="charts"), _arms(numbers, "ab", "arms")]
    for name in content.get("cuts", {}):
        title = "Without a full ranker" if name == "alone" else f"Cut at {name}"
        shown = _arms(numbers, "ab", "cuts", name)
        parts.append(tag("details", tag("summary", title), shown))
    parts += [tag("h3", "Checks"), _checks(numbers)]
    return section("Online test", about, *parts)


def _lifts(arms: dict[str, Any], lift: str) -> Html:
    rows = list(arms)
    figures = [arms[arm][lift] for arm in rows]
    percent = [[None if value is None else 100 * value for value in row] for row in figures]
    value, low, high = zip(*percent, strict=True)
    series = Series("", 0, list(range(len(rows))), value, low, high)
    drawing = charts.row_chart(rows, [series], "%", LIFTS[lift], form="+.2f", zero=True)
    return charts.figure(LIFTS[lift], drawing, "in percent")


def _arms(numbers: Numbers, *keys: Any) -> Html:
    """Returns a table of arms, with what the file has of each."""
    arms = numbers.at(*keys)
    has = {name for arm in arms.values() for name in arm}
    rows: list[tuple[Child, list[Child]]] = []
    for arm in arms:
        cells: list[Child] = [numbers.number(*keys, arm, "fulfilment")]
        cells += [numbers.figure(*keys, arm, lift, form=PERCENT) for lift in LIFTS]
        for name in ("drawn", "survival_at_500"):
            cells += [numbers.number(*keys, arm, name)] if name in has else []
        if "survival" in has:
            kept = ("full_ranker", "oracle")
            cells += [numbers.number(*keys, arm, "survival", of) for of in kept]
        rows.append((in_words(arm), cells))
    columns = ["fulfilment", *LIFTS.values()]
    columns += ["drawn fulfilment"] if "drawn" in has else []
    columns += ["kept of the full ranker's ten, cut at 500"] if "survival_at_500" in has else []
    if "survival" in has:
        columns += ["kept of the full ranker's ten", "kept of the oracle's ten"]
    return table("arm", columns, rows)


def _checks(numbers: Numbers) -> Html:
    """Returns the tests as they are run online, the A/A test, and the paper's lifts."""
    tests = numbers.at("ab", "split_tests") or {}
    rows: list[tuple[Child, list[Child]]] = []
    for name in tests:
        keys = ("ab", "split_tests", name)
        needed = numbers.number(*keys, "searches_needed", form=",")
        paper = numbers.number("ab", "paper", name, form="+.1%")
        title = f"InteractRank {name.replace('_', ' ')}, users split"
        rows.append((title, [_lift(numbers, *keys), paper, needed]))
    if not tests:
        for name in numbers.at("ab", "paper"):
            paper = numbers.number("ab", "paper", name, form="+.1%")
            rows.append((f"InteractRank {name.replace('_', ' ')}", [None, paper, None]))
    rows.append(("A/A, which must find nothing", [_lift(numbers, "ab", "aa"), None, None]))
    return table("drawn clicks", ["lift", "paper's lift", "searches for a power of 80%"], rows)


def _lift(numbers: Numbers, *keys: Any) -> list[Child]:
    interval = numbers.interval((*keys, "low"), (*keys, "high"), PERCENT)
    return with_interval(numbers.number(*keys, "lift", form=PERCENT), interval)
