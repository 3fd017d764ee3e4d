"""Which evaluation a page shows: the one beside the run, or a new one where that is not whole."""

import json
import shutil

import numpy as np
import pytest

from interactrank_jax.evaluation.evaluate import evaluate
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.report import data, evaluations
from interactrank_jax.runs.run import Run
from tests.faults.forging import reseal
from tests.report.conftest import AB_TEST

pytestmark = pytest.mark.thorough  # most of them evaluate a run again


def forbid(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("the run was evaluated again")

    monkeypatch.setattr(evaluations, "evaluate", fail)


def count(monkeypatch):
    calls = []

    def counting(*args, **kwargs):
        calls.append((args, kwargs))
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(evaluations, "evaluate", counting)
    return calls


def edit(file, change):
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def test_a_run_says_where_its_examples_are(runs):
    assert Run.open(runs.cross).examples_path == runs.examples.resolve()


def test_what_is_stored_is_taken(runs, monkeypatch):
    forbid(monkeypatch)
    again = data.gather([runs.cross, runs.fit], ab=AB_TEST)
    assert again == runs.data


def test_another_split_is_evaluated_when_it_is_asked_for(runs, tmp_path, monkeypatch):
    run, calls = runs.copy(tmp_path), count(monkeypatch)
    content = data.gather([run], split="validation")
    assert content["runs"][0]["evaluation"] == files.read_json(run / "eval" / "validation.json")
    assert content["runs"][0]["evaluation"]["split"] == "validation"
    assert len(calls) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.update(step=result["step"] + 1),
        lambda result: result["slices"].pop("item_age"),
        lambda result: result.pop("reliability"),
        lambda result: result["metrics"].update(roc_auc="high"),
        lambda result: result["calibration"].pop("fitted"),
        lambda result: result.update(bootstrap=2),
        lambda result: result.pop("bootstrap"),
        lambda result: result.update(examples_digest="0" * 16),
    ],
    ids=[
        *("other step", "no slices", "no reliability", "edited", "no calibration"),
        *("fewer resamples", "resamples unknown", "other examples"),
    ],
)
def test_a_lacking_evaluation_is_made_again(runs, tmp_path, monkeypatch, change):
    run, calls = runs.copy(tmp_path), count(monkeypatch)
    edit(run / "eval" / "test.json", change)
    content = data.gather([run])
    assert content["runs"][0]["evaluation"] == runs.data["runs"][0]["evaluation"]
    assert len(calls) == 1


def test_intervals_of_other_resamples_are_made_again(runs, tmp_path):
    run = runs.copy(tmp_path)
    config = Run.open(run).config.evaluate.copy_and_resolve_references()
    config.bootstrap = 21
    evaluate(run, runs.examples, config=config)
    assert data.gather([run])["runs"][0]["evaluation"] == runs.data["runs"][0]["evaluation"]


def test_scores_of_another_step_are_not_compared(runs, tmp_path):
    """As a kill between the two files of an evaluation leaves them."""
    run = runs.copy(tmp_path)
    file = run / "eval" / "test.npz"
    with np.load(file) as arrays:
        np.savez(file, **{**arrays, "step": arrays["step"] + 1})
    content = data.gather([run, runs.fit])
    assert content["differences"] == []
    assert "scores of the model of step" in " ".join(content["notes"])


def test_slices_that_were_there_stay(runs, tmp_path):
    run = runs.copy(tmp_path)
    evaluate(run, runs.examples, by=["brand"])
    slices = data.gather([run])["runs"][0]["evaluation"]["slices"]
    assert list(slices) == ["brand", "query_popularity", "item_age"]


class TestWithoutExamples:
    @pytest.fixture
    def run(self, runs, tmp_path):
        run = runs.copy(tmp_path)
        reseal(run / "config.json", lambda record: record.update(examples="/nowhere/examples"))
        return run

    def notes(self, run):
        content = data.gather([run])
        return content["runs"][0], " ".join(content["runs"][0]["notes"])

    def test_what_is_stored_is_shown(self, run, runs):
        content, notes = self.notes(run)
        assert content["evaluation"] == runs.data["runs"][0]["evaluation"]
        assert notes == ""

    def test_a_run_that_was_never_evaluated_names_the_command(self, run):
        shutil.rmtree(run / "eval")
        content, notes = self.notes(run)
        assert content["evaluation"] is None
        assert content["cross"] is not None
        assert content["curves"]
        assert "no longer in /nowhere/examples" in notes
        assert f"`interactrank evaluate --workdir={run} --examples=EXAMPLES --split=test" in notes

    def test_one_of_another_model_is_not_shown(self, run):
        edit(run / "eval" / "test.json", lambda result: result.update(step=10_000))
        content, notes = self.notes(run)
        assert content["evaluation"] is None
        assert "is of step 10000" in notes

    def test_one_of_other_examples_says_so(self, run):
        edit(run / "eval" / "test.json", lambda result: result.update(examples_digest="other"))
        content, notes = self.notes(run)
        assert content["evaluation"] is not None
        assert notes == "evaluated on examples other, not those of training"

    def test_what_it_lacks_is_named(self, run):
        edit(run / "eval" / "test.json", lambda result: result["slices"].clear())
        content, notes = self.notes(run)
        assert content["evaluation"]["slices"] == {}
        assert "without query_popularity and item_age" in notes

    def test_a_run_of_an_older_release_does_not_know_its_examples(self, run):
        reseal(run / "config.json", lambda record: record.pop("examples"))
        shutil.rmtree(run / "eval")
        assert "does not say where its examples are" in self.notes(run)[1]

    def test_examples_that_the_user_names_are_taken(self, run, runs):
        shutil.rmtree(run / "eval")
        content = data.gather([run], examples=runs.examples)
        assert content["runs"][0]["evaluation"] == runs.data["runs"][0]["evaluation"]


def test_examples_that_lack_time_have_no_such_slices(trained_run, examples_path, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    content = data.gather([run], examples=examples_path)["runs"][0]
    assert content["evaluation"]["slices"] == {}
    assert "no metrics by item age" in " ".join(content["notes"])
    assert "no metrics by query popularity" in " ".join(content["notes"])


def test_examples_of_another_encoder_are_refused(trained_run, runs):
    with pytest.raises(InputError, match="does not fit"):
        data.gather([trained_run], examples=runs.examples)


def test_runs_on_different_examples_are_not_compared(trained_run, examples_path, runs, tmp_path):
    other = shutil.copytree(trained_run, tmp_path / "other")
    content = data.gather([runs.cross, other])
    assert content["differences"] == []
    assert "different examples" in " ".join(content["notes"])
    assert Examples(examples_path).metadata.digest == content["runs"][1]["examples"]
