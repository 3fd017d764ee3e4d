"""What README, docs/results.md and configs/ say of results is what the JSON files make of them."""

import copy
import re

import pytest

from experiments import make_results
from interactrank_jax.io.errors import InputError
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def results():
    return make_results.read(make_results.RESULTS)


@pytest.fixture(scope="module")
def template():
    return make_results.TEMPLATE.read_text()


def test_every_file_is_what_the_script_writes():
    texts = make_results.written()
    assert {REPOSITORY / "docs/results.md", REPOSITORY / "README.md"} < texts.keys()
    for path, text in texts.items():
        assert path.read_text() == text, f"run python -m experiments.make_results: {path.name}"


def test_every_file_of_results_is_shown(results):
    shown = {make_results.COMPARED, make_results.QUICKSTART, *make_results.TABLES}
    assert results.keys() == shown


def test_the_readme_shows_the_quickstarts_online_test_and_the_page_its_metrics(results):
    readme, page = make_results.README.read_text(), make_results.PAGE.read_text()
    for arm, figures in results["quickstart"]["ab_test"]["cuts"]["alone"].items():
        assert f"| {arm} | {figures['fulfilment']:.4f} | " in readme
    for model, metrics in results["quickstart"]["models"].items():
        assert f"| {model} | {metrics['roc_auc']:.4f} ±" in page


def test_no_result_names_a_machines_path():
    for path in make_results.RESULTS.glob("*.json"):
        assert not re.search(r'"/\w', path.read_text()), path.name


def test_a_changed_result_changes_page_and_docstring(results, template):
    changed = copy.deepcopy(results)
    row = next(row for row in changed["public_datasets"] if row["model"] == "fit")
    row["auc_mean"] = 0.9876
    assert "| fit | 5 | 0.9876" not in make_results.page(results, template)
    assert "| fit | 5 | 0.9876" in make_results.page(changed, template)
    assert "ROC-AUC 0.9876" in make_results.expected("fit", changed["public_datasets"])


def test_a_data_set_that_is_new_needs_its_field_alone(results, template):
    more = copy.deepcopy(results)
    row = {**more["public_datasets"][0], "dataset": "books", "model": "fit", "note": "one failed"}
    more["public_datasets"].append(row)
    with pytest.raises(InputError, match=re.escape("lacks {table[books clean_random]}")):
        make_results.page(more, template)
    page = make_results.page(more, template + "{table[books clean_random]}")
    assert page.endswith("\n\n- fit: one failed.")


@pytest.mark.parametrize(
    "field",
    ["{row[search clean_time nobody][auc_mean]}", "{table[nothing]}", "{prepare[seconds_1m]:q}"],
)
def test_a_field_without_a_result_is_an_error(results, template, field):
    with pytest.raises(InputError, match="names no result"):
        make_results.page(results, template + field)


def test_the_leaking_protocol_is_no_expectation(results):
    rows = [row for row in results["public_datasets"] if row["protocol"] == "published"]
    with pytest.raises(InputError, match="no result of fit"):
        make_results.expected("fit", rows)


def test_a_file_without_a_place_for_results_is_an_error(tmp_path):
    file = tmp_path / "config.py"
    file.write_text('"""A config."""\n')
    with pytest.raises(InputError, match="nothing like"):
        make_results.replaced(re.compile("^Expected"), "", file)
