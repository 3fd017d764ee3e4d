"""The page: its numbers are those of its JSON, and nothing that it quotes becomes markup."""

import json

import numpy as np
import pytest

from interactrank_jax.evaluation import evaluate
from interactrank_jax.io import files
from interactrank_jax.report.page import page, write_report
from interactrank_jax.runs.run import Run
from tests.report.conftest import AB_TEST, Page, check_numbers, forged

pytestmark = pytest.mark.long  # reports on two trained runs


def test_every_number_is_that_of_the_json(runs):
    shown = Page(runs.text)
    assert shown.data == json.loads(json.dumps(runs.data))
    check_numbers(shown.data, shown.numbers)


def test_all_metrics_slices_weights_shares_and_arms_are_in_tables(runs):
    pointers = {pointer for pointer, _ in Page(runs.text).numbers}
    for number, run in enumerate(runs.data["runs"]):
        result, root = run["evaluation"], f"/runs/{number}"
        expected = {f"{root}/evaluation/metrics/{name}" for name in result["metrics"]}
        expected |= {f"{root}/throughput/{name}" for name in run["throughput"]}
        for cut, parts in result["slices"].items():
            for position, part in enumerate(parts):
                of_part = f"{root}/evaluation/slices/{cut}/{position}"
                defined = [name for name, value in part["metrics"].items() if value is not None]
                expected |= {f"{of_part}/metrics/{name}" for name in defined}
        for pointer in expected:
            assert pointer in pointers
    cross, fit = runs.data["runs"]
    assert {f"/runs/0/cross/ranked/{k}" for k in range(len(cross["cross"]["features"]))} <= pointers
    assert {f"/runs/1/meta/usage/{k}" for k in range(len(fit["meta"]["usage"]))} <= pointers
    assert {f"/ab/arms/{arm}/lift_vs_bm25/2" for arm in runs.data["ab"]["arms"]} <= pointers


def test_the_evaluation_is_the_one_beside_the_run(runs):
    for run, path in zip(runs.data["runs"], (runs.cross, runs.fit), strict=True):
        assert run["evaluation"] == files.read_json(path / "eval" / "test.json")
        assert set(run["evaluation"]["slices"]) == {"query_popularity", "item_age"}


def test_differences_are_those_of_evaluate(runs, tmp_path):
    pair = runs.copy(tmp_path), runs.copy(tmp_path, "fit")
    again = evaluate.evaluate_pair(*pair, runs.examples)[0]["differences"]
    again.pop("logloss")
    (shown,) = runs.data["differences"]
    assert (shown["run"], shown["minus"], set(shown["metrics"])) == (0, 1, set(again))
    for name, values in again.items():
        np.testing.assert_array_equal(values, shown["metrics"][name])


def test_cross_weights_are_those_of_the_model(runs):
    run = Run.open(runs.cross)
    weight = np.asarray(run.restore_model()[0]["params"]["cross_terms"]["weight"])
    cross, of_fit = (one["cross"] for one in runs.data["runs"])
    np.testing.assert_allclose(cross["weights"], weight)
    np.testing.assert_allclose(cross["ranked"], weight @ np.array(run.rule.utility), rtol=1e-6)
    assert cross["features"] == list(run.metadata.cross)
    assert of_fit is None


def test_meta_usage_is_what_fit_logged_last(runs):
    lines = [json.loads(line) for line in (runs.fit / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "train/model/meta_usage/0" in line]
    meta = runs.data["runs"][1]["meta"]
    assert meta["usage"] == [logged[-1][f"train/model/meta_usage/{k}"] for k in range(3)]
    assert meta["step"] == logged[-1]["step"]
    in_use = [value for value in meta["effective"] if value is not None]
    assert len(in_use) == len(logged)
    assert all(1 <= value <= 3.0001 for value in in_use)
    assert runs.data["runs"][0]["meta"] is None


def test_only_fields_that_differ_are_in_the_first_table(runs):
    text = Page(runs.text).sections["Config"]
    fields = runs.data["config"]
    different = [name for name, (one, other) in fields.items() if one != other]
    assert 0 < len(different) < len(fields)
    first, _, every = text.partition("All fields")
    for name in fields:
        assert (name in first) == any(name in other for other in different)
        assert name in every
    assert f"{len(different)} of {len(fields)} fields differ" in first


def test_the_online_test_is_that_of_the_file(runs):
    content = json.loads(AB_TEST.read_text())
    assert {name: content[name] for name in runs.data["ab"]} == runs.data["ab"]
    text = Page(runs.text).sections["Online test"]
    for arm in content["arms"]:
        assert arm in text
    assert "A/A" in text


def test_it_loads_nothing_and_runs_nothing(runs):
    shown = Page(runs.text)
    assert "http" not in runs.text.replace("http-equiv", "")
    assert {"link", "img", "iframe", "object", "embed", "base"}.isdisjoint(shown.tags)
    names = {name for name, _ in shown.attributes}
    assert not [name for name in names if name.startswith("on") or name == "src"]
    assert dict(shown.attributes)["type"] == "application/json"  # of the one script
    targets = {value for name, value in shown.attributes if name == "id"}
    links = [str(value) for name, value in shown.attributes if name == "href"]
    assert links
    assert {link.removeprefix("#") for link in links} <= targets
    assert "url(" not in runs.text
    assert "@import" not in runs.text


def test_no_text_becomes_markup(runs):
    data = forged(runs.data)
    shown, before = Page(page(data)), Page(runs.text)
    assert len(shown.scripts) == 1
    assert shown.data == data
    assert set(shown.tags) <= {*before.tags, "li", "ul", "code"}
    assert {name for name, _ in shown.attributes} <= {name for name, _ in before.attributes}
    assert "alert(1)" in shown.sections["Runs"]  # it is there, as text
    assert not [text for text in shown.sections.values() if "\u202e" in text]
    check_numbers(data, shown.numbers)


def test_the_page_of_one_run_has_no_legend_and_no_differences(runs, tmp_path):
    data = write_report([runs.fit], tmp_path / "page.html")
    shown = Page((tmp_path / "page.html").read_text())
    assert data["differences"] == []
    assert ("class", "legend") not in shown.attributes
    assert "Meta-query usage" in shown.sections
    assert {"Online test", "Cross-feature weights"}.isdisjoint(shown.sections)
    check_numbers(shown.data, shown.numbers)


@pytest.mark.parametrize("field", ["low", "high"])
def test_an_interval_that_is_not_defined_is_left_out(runs, field):
    data = json.loads(json.dumps(runs.data))
    for run in data["runs"]:
        intervals = run["evaluation"]["intervals"]
        intervals.update({name: [None, None] for name in intervals})
        for points in run["evaluation"]["reliability"].values():
            for point in points:
                point[field] = None
    shown = Page(page(data))
    assert not [p for p, _ in shown.numbers if p.startswith("/runs/0/evaluation/intervals")]
    check_numbers(shown.data, shown.numbers)
