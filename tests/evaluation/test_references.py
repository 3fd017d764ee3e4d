"""Reference lines: what a model has to pass, and that it is said where it does not."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from interactrank_jax import metrics
from interactrank_jax.evaluation import tables
from interactrank_jax.evaluation.baseline_scorers import baseline
from interactrank_jax.evaluation.evaluate import evaluate, evaluate_baseline
from interactrank_jax.evaluation.references import REFERENCES, lines_above, reference_lines
from interactrank_jax.evaluation.regression import fit_regression
from interactrank_jax.evaluation.rows import Rows
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.runs.best import CALIBRATION, seal
from interactrank_jax.training.train import train
from tests.faults.forging import at, reseal
from tests.synthetic import tiny_config, write_examples


@pytest.fixture(scope="module")
def examples(examples_path):
    return Examples(examples_path)


@pytest.fixture(scope="module")
def rule(examples):
    return LabelRule.from_config(tiny_config("lr").label, examples.metadata.actions)


def training_rows(examples):
    blocks = list(examples.blocks("train", ("cross", "actions", "mask")))
    cross = np.concatenate([block["cross"][block["mask"]] for block in blocks])
    return cross, np.concatenate([block["actions"][block["mask"]] for block in blocks])


def test_every_line_is_scored_on_the_rows_of_the_split(examples, rule):
    lines = reference_lines(examples, rule, "test", 16)
    assert [line.name for line in lines] == list(REFERENCES)
    for line in lines:
        assert len(line.score) == examples.split("test").candidates
    constant, *_ = lines
    assert metrics.roc_auc(constant.score, constant.engaged) == 0.5
    share = rule.count_engaged(examples.split("train")) / examples.split("train").candidates
    assert 1 / (1 + np.exp(-constant.score[0])) == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("transform", ["log", "linear"])
def test_the_regression_is_the_convex_fit_of_each_head(examples, rule, transform):
    fitted = fit_regression(examples, rule, transform=transform)
    cross, actions = training_rows(examples)
    scale = [examples.metadata.cross_statistics[name].rms for name in examples.metadata.cross]
    inputs = cross / np.array(scale)
    if transform == "log":
        inputs = np.sign(inputs) * np.log1p(np.abs(inputs))
    for head, label in enumerate(rule.labels(actions).T):
        expected = LogisticRegression(max_iter=1000).fit(inputs, label)
        np.testing.assert_allclose(fitted.cross_weight[:, head], expected.coef_[0], atol=1e-3)
        np.testing.assert_allclose(fitted.bias[head], expected.intercept_[0], atol=1e-3)


def test_weights_count_rows_so_often(examples, rule):
    plain = fit_regression(
        examples, rule, weights=lambda actions, stage: np.full(len(actions), 2.0)
    )
    heavy = fit_regression(examples, rule, weights=lambda a, stage: 1.0 + 9.0 * rule.engaged(a))
    assert (heavy.bias[0] - plain.bias[0]) == pytest.approx(np.log(10), abs=0.3)


def test_a_label_that_never_happened_has_a_finite_logit(examples, rule):
    never = dataclasses.replace(rule, positive=(), heads=("engaged",), utility=(1.0,))
    fitted = fit_regression(examples, never)
    assert not fitted.cross_weight.any()
    assert -20 < fitted.bias[0] < -10


def test_the_best_feature_is_chosen_on_validation_with_its_sign(tmp_path):
    """The second feature is set against the label, so that its opposite ranks best."""
    examples = Examples(write_examples(tmp_path / "examples"))
    rule = LabelRule.from_config(tiny_config("lr").label, examples.metadata.actions)
    original = type(examples).blocks

    def planted(self, split, names=None):
        for block in original(self, split, names):
            if "cross" in block and split == "validation":
                block = dict(block)
                block["cross"] = block["cross"].copy()
                block["cross"][..., 1] = -1.0 * rule.engaged(block["actions"])
            yield block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(examples), "blocks", planted)
        scorer = baseline("best_feature", rule, examples, "test")
    assert scorer.feature == f"minus {examples.metadata.cross[1]}"


@pytest.mark.parametrize("name", ["constant", "best_feature", "regression"])
def test_each_is_a_baseline_and_takes_no_feature(name, examples_path, examples, rule):
    result = evaluate_baseline(name, tiny_config("lr"), examples_path)
    assert result["name"] == name
    assert 0 <= result["metrics"]["roc_auc"] <= 1
    with pytest.raises(InputError, match="takes no feature"):
        baseline(f"{name}:share", rule, examples, "test")


def test_the_corpus_is_ranked_as_candidates_are(examples, rule):
    for name in ("constant", "best_feature", "regression"):
        scorer = baseline(name, rule, examples, "test")
        rows = Rows(scorer, examples, "test", 16)
        for index in (0, 3):
            scores = scorer.all_items(np.array([index]))[0][rows.item[rows.request == index]]
            ours = rows.score[rows.request == index]
            # What the request has by itself moves no item.
            np.testing.assert_allclose(scores - scores[0], ours - ours[0], atol=1e-4)


def test_evaluate_prints_the_lines_beside_the_model_and_writes_them(
    tmp_path, trained_run, examples_path
):
    run = shutil.copytree(trained_run, tmp_path / "run")
    result = evaluate(run, examples_path)
    assert list(result["references"]) == list(REFERENCES)
    text = tables.report([result])
    for name in REFERENCES:
        assert f"| {name}" in text
    saved = json.loads((run / "eval" / "test.json").read_text())
    line = saved["references"]["regression"]
    value, low, high = line["differences"]["roc_auc"]
    gap = saved["metrics"]["roc_auc"] - line["metrics"]["roc_auc"]
    assert value == pytest.approx(gap, abs=1e-9)
    assert low <= value <= high
    assert "logloss" in line["differences"]


def test_a_model_below_a_line_is_said_to_be_so_in_words():
    def line(low, value, high):
        differences = {"roc_auc": [value, low, high]}
        return {"feature": "", "metrics": {"roc_auc": 0.7}, "differences": differences}

    lines = {"regression": line(-0.04, -0.03, -0.02), "popularity": line(-0.02, -0.005, 0.01)}
    found = lines_above(lines, "roc_auc")
    assert found == ["below regression, which has roc_auc 0.7000: -0.0300 [-0.0400, -0.0200]"]
    result = {"name": "interactrank", "below": found, "metrics": {}, "intervals": {}}
    result |= {"heads": {}, "stages": {}, "slices": {}, "requests": 1, "candidates": 2}
    result |= {"corpus_requests": 0, "protocol": "clean_time", "negatives": None}
    assert "interactrank lies below regression" in tables.report([result])


def test_a_log_loss_above_a_line_is_said_to_be_so_in_words():
    def line(low, value, high):
        differences = {"logloss": [value, low, high], "roc_auc": [0.1, 0.05, 0.15]}
        return {"feature": "", "metrics": {"logloss": 0.5}, "differences": differences}

    lines = {"constant": line(0.01, 0.02, 0.03), "regression": line(-0.01, 0.005, 0.02)}
    lines["popularity"] = {"feature": "", "metrics": {}, "differences": {}}
    expected = "above constant, which has logloss 0.5000: +0.0200 [+0.0100, +0.0300]"
    assert lines_above(lines, "roc_auc", "logloss") == [expected]
    assert lines_above(lines, "logloss", "logloss") == [expected]


@pytest.mark.long  # trains a model for itself
def test_an_evaluation_says_that_its_log_loss_is_above_the_constants(tmp_path, examples_path):
    """A calibration that was made worse on purpose, under checksums that are right."""
    config = tiny_config("matrix_factorization")
    train(config, examples_path, tmp_path / "run")
    assert not [
        words
        for words in evaluate(tmp_path / "run", examples_path)["below"]
        if "const" in words and "logloss" in words
    ]
    (step,) = (tmp_path / "run" / "best").glob("[0-9]*")
    reseal(step / CALIBRATION.file, at("calibration", "bias", [9.0, 0.0]))
    seal(step)
    result = evaluate(tmp_path / "run", examples_path)
    assert any(words.startswith("above constant, which has logloss") for words in result["below"])
    assert "lies above constant, which has logloss" in tables.report([result])


@pytest.mark.long  # trains a model for itself
def test_training_warns_where_a_line_is_better_on_validation(tmp_path, examples_path, caplog):
    config = tiny_config("two_tower")
    config.train.update({"max_steps": 1, "eval_every": 1})
    config.train.optimizer.learning_rate = 1e-9
    with caplog.at_level("WARNING"):
        train(config, examples_path, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    figures = {key: value for record in records for key, value in record.items()}
    model, line = figures["validation/roc_auc"], figures["validation/regression/roc_auc"]
    said = [record.message for record in caplog.records if "below its inputs" in record.message]
    assert bool([text for text in said if "regression" in text]) == (line > model)
    assert line > model


def test_without_cross_features_or_rates_two_lines_are_left(tmp_path, examples, rule):
    bare = Examples(examples.path)
    encoder = dataclasses.replace(examples.metadata.encoder, cross=(), cross_statistics={})
    bare.metadata = dataclasses.replace(examples.metadata, encoder=encoder)
    for name in ("best_feature", "regression"):
        with pytest.raises(InputError, match="no cross feature"):
            baseline(name, rule, bare, "test")
