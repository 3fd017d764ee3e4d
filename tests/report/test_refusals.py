"""What `interactrank report` refuses, and that it does so before any work."""

import json
import shutil

import pytest

from interactrank_jax import cli
from interactrank_jax.report import evaluations, page
from interactrank_jax.runs.run import Run
from tests.report.conftest import AB_TEST, Page

pytestmark = pytest.mark.long  # reports on two trained runs


def run(*argv) -> int:
    return cli.main(["report", *(str(argument) for argument in argv)])


@pytest.fixture
def refused(capsys, tmp_path):
    """Returns a function: what a command line is refused with."""

    def message(*argv, out=tmp_path / "page.html"):
        assert run(*argv, f"--out={out}") == 2
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        return printed

    return message


def test_the_command_writes_the_page_of_runs_around_its_flags(runs, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert run(runs.cross, f"--out={out}", runs.fit, f"--ab={AB_TEST}") == 0
    assert out.read_text() == runs.text
    assert f"report in {out}" in capsys.readouterr().out
    assert list(out.parent.iterdir()) == [out]


def test_a_page_that_is_there_is_replaced(runs, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("of yesterday")
    assert run(runs.cross, f"--out={out}") == 0
    assert len(Page(out.read_text()).data["runs"]) == 1


def test_a_page_that_fails_leaves_the_one_before(runs, tmp_path, refused):
    out = tmp_path / "page.html"
    out.write_text("of yesterday")
    assert "does not exist" in refused(runs.cross, "--ab=nowhere.json", out=out)
    assert out.read_text() == "of yesterday"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "missing RUNS"),
        (["nowhere"], "nowhere holds no run (no config.json)"),
        (["{examples}"], "holds no run"),
        (["{cross}", "{cross}"], "is named twice"),
        (["{cross}", "{cross}/../run"], "is named twice"),
        (["{cross}", "--split=tset"], "Did you mean 'test'"),
        (["{cross}", "--examples=nowhere"], "nowhere"),
        (["{cross}", "--ab=nowhere.json"], "nowhere.json does not exist"),
        (["{cross}", "--ab={cross}"], "is no file"),
        (["{cross}", "--example=x"], "Did you mean 'examples'"),
        (["{cross}", "--config.train.seed=1"], "leave it out"),
    ],
)
def test_what_is_wrong_is_named(runs, refused, argv, message):
    directories = {"cross": runs.cross, "examples": runs.examples}
    assert message in refused(*(argument.format(**directories) for argument in argv))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "Expected an object"),
        ("{}", "has no 'arms'"),
        ('{"arms": {}, "searches": 1, "aa": {}, "paper": {}}', "has no 'aa.lift'"),
        ('{"arms": {"bm25": {"fulfilment": "high"}}}', "arms.bm25.fulfilment is 'high'"),
        ('{"arms": {}, "searches": null}', "searches is None. Expected a whole number"),
        (
            '{"arms": {"a": {"fulfilment": 1, "lift_vs_bm25": [1, 2]}}}',
            "Expected a list of 3",
        ),
    ],
)
def test_a_file_of_another_kind_is_no_online_test(runs, tmp_path, refused, text, message):
    file = tmp_path / "ab.json"
    file.write_text(text)
    printed = refused(runs.cross, f"--ab={file}")
    assert message in printed
    assert str(file) in printed


def test_an_online_test_without_arms_is_refused(runs, tmp_path, refused):
    content = json.loads(AB_TEST.read_text()) | {"arms": {}}
    (tmp_path / "ab.json").write_text(json.dumps(content))
    assert "has no arm" in refused(runs.cross, f"--ab={tmp_path / 'ab.json'}")


def test_the_least_online_test_is_shown(runs, tmp_path):
    content = json.loads(AB_TEST.read_text())
    least = {name: content[name] for name in ("searches", "aa", "paper")}
    names = ("fulfilment", "lift_vs_bm25", "lift_vs_two_tower")
    least["arms"] = {
        arm: {name: figures[name] for name in names} for arm, figures in content["arms"].items()
    }
    (tmp_path / "ab.json").write_text(json.dumps(least))
    out = tmp_path / "page.html"
    assert run(runs.cross, f"--ab={tmp_path / 'ab.json'}", f"--out={out}") == 0
    assert Page(out.read_text()).data["ab"] == least


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("page.txt", "ends in .html"),
        ("page", "ends in .html"),
        ("directory.html", "is a directory"),
        ("file/page.html", "is read-only or a file"),
        ("a" * 300 + ".html", "too long"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    runs, tmp_path, refused, monkeypatch, out, message
):
    (tmp_path / "directory.html").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(page, "gather", lambda *args: pytest.fail("worked before it looked"))
    assert message in refused(runs.cross, out=tmp_path / out)


def test_damaged_curves_are_named(runs, tmp_path, refused):
    copy = runs.copy(tmp_path)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write("half a li\n")
    assert "metrics.jsonl, line" in refused(copy)
    (copy / "metrics.jsonl").write_text('{"step": 1, "train/loss": "low"}\n')
    assert "train/loss is 'low'" in refused(copy)


class TestPartsOfARun:
    """A run that lacks a part has a page without that part, which says so."""

    def page(self, path, tmp_path):
        out = tmp_path / "page.html"
        assert run(path, f"--out={out}") == 0
        return Page(out.read_text())

    def test_no_model_yet(self, runs, tmp_path, monkeypatch):
        monkeypatch.setattr(evaluations, "evaluate", lambda *args: pytest.fail("no model"))
        copy = runs.copy(tmp_path)
        shutil.rmtree(copy / "best")
        shown = self.page(copy, tmp_path)
        assert "no model yet" in shown.sections["Runs"]
        assert "Learning curves" in shown.sections
        assert {"Metrics", "Calibration", "Cross-feature weights"}.isdisjoint(shown.sections)

    def test_no_curves(self, runs, tmp_path):
        copy = runs.copy(tmp_path)
        (copy / "metrics.jsonl").unlink()
        shown = self.page(copy, tmp_path)
        assert "no learning curves" in shown.sections["Runs"]
        assert "Metrics" in shown.sections
        assert {"Learning curves", "Training throughput"}.isdisjoint(shown.sections)

    def test_nothing_fitted_on_validation(self, runs, tmp_path):
        copy = runs.copy(tmp_path)
        _, step = Run.open(copy).restore_model()
        (copy / "best" / str(step) / "calibration.json").unlink()
        (copy / "best" / str(step) / "checksums.json").unlink()
        shutil.rmtree(copy / "eval")
        assert "not fitted on validation" in self.page(copy, tmp_path).sections["Calibration"]
