"""Ablations: which changes there are, what is made of trained models, each script as a whole."""

import json
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import (
    ablation,
    contenders,
    fit_ablation,
    interactrank_ablation,
    trials,
)
from experiments.ablation import Change
from experiments.comparison import Scored
from interactrank_jax.config import configuration, fields
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run
from tests.conftest import REPOSITORY

SEED = "train.seed"


def spec(model, argument="search"):
    return f"{REPOSITORY / 'configs' / model}.py:{argument}"


def setting(argument="search"):
    return contenders.Setting(argument, Path("log"), Path("out"), (0,), 1, 1, 1.0, {})


INTERACTRANK = interactrank_ablation.changes(configuration.load(spec("interactrank")))
FIT = fit_ablation.changes("mean", fit_ablation.BESIDE)


# --- which changes there are ------------------------------------------------------------------


@pytest.mark.long  # compiles a model for every change
@pytest.mark.parametrize(("model", "changes"), [("interactrank", INTERACTRANK), ("fit", FIT)])
def test_every_change_is_a_model_of_its_own(model, changes, tiny_examples):
    metadata = Examples(tiny_examples).metadata
    assert len({change.name for change in changes}) == len(changes)
    kept = ablation.effective(changes, model, setting())
    # FIT as configured has 8 meta queries, and 4 heads on either side.
    assert {change.name for change in changes} - {change.name for change in kept} == (
        {"N = 8", "4 x 4 heads"} if model == "fit" else set()
    )
    for change in kept:
        if change.model:
            continue  # configs as they stand have tests of their own
        config = trials.resolve(spec(model), change.overrides)
        fields.check(config)
        if change.group != interactrank_ablation.COUNTS:  # the same model, on other examples
            assert jax.tree.leaves(Run("unused", config, metadata).model_template), change.name


def test_counts_lose_every_window_action_and_segment():
    features = ("share:click:7", "share:click:365", "share:save:365:country")
    changes = interactrank_ablation.without_counts(features)
    kept = {change.name: change.overrides["data.cross.features"] for change in changes}
    assert kept == {
        "no ItemQueryPerf": (),
        "window of 7 days less": features[1:],
        "window of 365 days less": features[:1],
        "action click less": features[2:],
        "action save less": features[:2],
        "unsegmented less": features[2:],
        "country less": features[:2],
    }
    # What equals another change is trained once; what would leave nothing is the first.
    one = interactrank_ablation.without_counts(features[:1])
    assert [change.name for change in one] == ["no ItemQueryPerf"]


def test_a_change_that_changes_nothing_is_left_out():
    changes = [
        Change("one head", {"label.heads": ("engaged",)}, "label"),  # as MovieLens has already
        Change("no softmax", {"train.loss.softmax_weight": 0.0}, "loss"),
        Change("the same", {"train.loss.softmax_weight": 0.0}, "loss"),
        Change("cold", {}, "models", "cold"),
    ]
    kept = ablation.effective(changes, "interactrank", setting("movielens_1m"))
    assert [change.name for change in kept] == ["no softmax", "cold"]


def test_changes_are_chosen_by_group_and_name():
    arguments = types.SimpleNamespace(groups=["towers", "label"], changes=None)
    names = [change.name for change in ablation.selected(INTERACTRANK, arguments)]
    assert names == ["no MaskNet", "all rows weigh the same", "one head, engagement"]
    arguments.changes = ["no MaskNett"]
    with pytest.raises(InputError, match="Did you mean 'no MaskNet'"):
        ablation.selected(INTERACTRANK, arguments)
    arguments.changes = ["no MaskNet", "no logQ"]
    message = "'no logQ' is of group 'loss', .*by --changes some of: no MaskNet, all rows"
    with pytest.raises(InputError, match=message):
        ablation.selected(INTERACTRANK, arguments)


@pytest.mark.parametrize("flags", [["--quick"], ["--changes", "no logQ"]])
def test_a_change_of_a_group_that_is_left_out_is_no_run_without_it(flags, tmp_path, capsys):
    log = tmp_path / "out" / "quick" / "log-tiny"  # is not looked at
    log.mkdir(parents=True)
    flags = [*flags, "--groups", "towers", f"--out={tmp_path / 'out'}", "--preset=tiny"]
    (tmp_path / "out" / "tiny" / "log-tiny").mkdir(parents=True)
    assert interactrank_ablation.main(flags) == 2
    assert "which is not among --groups towers" in capsys.readouterr().err


# --- what is made of trained models -----------------------------------------------------------


def scores(strength, seed, requests=400):
    """Scores of 5 candidates per request, of which one is engaged with."""
    request = np.repeat(np.arange(requests), 5)
    item = np.tile(np.arange(5), requests)
    engaged = item == request % 5
    noise = np.random.default_rng(7).normal(size=engaged.size)
    noise += np.random.default_rng(seed).normal(size=engaged.size) / 10
    return Scored(request, item, engaged, strength * engaged + noise, 0.5)


@pytest.fixture
def fake_training(monkeypatch):
    """Trains nothing: the wider embeddings, the better on validation and the worse on test.

    Those of width 1 fail.
    """

    def make(spec, sweep, examples, place, common):
        return [types.SimpleNamespace(workdir="none", overrides=overrides) for overrides in sweep]

    def run(made, parallel):
        record = types.SimpleNamespace(seconds=2.0)
        narrow = [trial.overrides.get("model.embedding_dim") == 1 for trial in made]
        return [
            types.SimpleNamespace(trial=trial, record=record, error="out of memory" * fails)
            for trial, fails in zip(made, narrow, strict=True)
        ]

    def score(outcomes, splits):
        changed = [outcome.trial.overrides for outcome in outcomes]
        width = {"validation": 1 / 32, "test": -1 / 32}
        return {
            split: [
                scores(1 + width[split] * (one.get("model.embedding_dim", 32) - 32), one[SEED])
                for one in changed
            ]
            for split in splits
        }

    monkeypatch.setattr(contenders.Setting, "examples", lambda self, data: Path("none"))
    monkeypatch.setattr(ablation.trials, "make", make)
    monkeypatch.setattr(ablation.trials, "run", run)
    monkeypatch.setattr(ablation.contenders, "score_splits", score)
    sizes = {"parameters": 10, "serving_flops_per_candidate": 143.0}
    monkeypatch.setattr(ablation.contenders, "sizes", lambda trial: sizes)
    monkeypatch.setattr(ablation, "Run", types.SimpleNamespace(open=lambda workdir: None))
    monkeypatch.setattr(ablation, "request_flops", lambda run: 1000.0)


def test_a_change_is_worse_level_or_better_by_its_interval(fake_training):
    changes = [
        Change("narrow", {"model.embedding_dim": 16}, "size"),
        Change("wide", {"model.embedding_dim": 64}, "size"),
        Change("same", {"model.embedding_scale": 0.06}, "size"),
        Change("tiny", {"model.embedding_dim": 1}, "size"),
    ]
    several = contenders.Setting("search", Path(), Path(), (0, 1, 2), 1, 1, 1.0, {})
    rows = [one.row for one in ablation.measure(several, "interactrank", changes, "search")]
    whole, narrow, wide, same, tiny = rows
    assert whole["change"] == ablation.WHOLE
    assert [row.get("verdict") for row in rows] == ["", "worse", "better", "level", None]
    _, low, high = narrow["validation"]["roc_auc"]["difference"]
    assert low < high < 0
    # The test split says the opposite, and has no say.
    value, low, high = narrow["test"]["request_auc"]["difference"]
    assert 0 < low < value < high
    assert wide["test"]["roc_auc"]["difference"][2] < 0
    assert value == pytest.approx(
        narrow["test"]["request_auc"]["mean"] - whole["test"]["request_auc"]["mean"]
    )
    assert whole["validation"]["roc_auc"]["std"] > 0
    assert same["validation"]["roc_auc"]["difference"][0] == 0
    assert wide["overrides"] == {"model.embedding_dim": 64}
    assert tiny["error"] == "out of memory"
    lines = ablation.table(rows).splitlines()
    assert lines[2].startswith(f"| {ablation.WHOLE} | 0.")
    assert "| worse |" in lines[3]
    assert lines[6].startswith("| tiny | failed: out of memory |")
    assert len({line.count("|") for line in lines[:7]}) == 1
    assert "Verdicts: 3, each at 95%." in lines[-1]
    assert "about 0.2 of them would still be 'worse' or 'better', by chance" in lines[-1]
    assert ablation.status(0, rows) == 1
    assert ablation.status(0, rows[:4]) == 0


def test_a_change_is_compared_with_its_base(fake_training):
    wide = Change("wide", {"model.embedding_dim": 64}, "size")
    less = Change("less wide", {"model.embedding_dim": 48}, "size", base="wide")
    of_failed = [
        Change("tiny", {"model.embedding_dim": 1}, "size"),
        Change("small", {"model.embedding_dim": 8}, "size", base="tiny"),
    ]
    several = contenders.Setting("search", Path(), Path(), (0, 1, 2), 1, 1, 1.0, {})
    trained = ablation.measure(several, "interactrank", [wide, less, *of_failed], "search")
    rows = {one.row["change"]: one.row for one in trained}
    # Better than the unchanged config, yet worse than what it takes something away from.
    value, _, high = rows["less wide"]["validation"]["roc_auc"]["difference"]
    assert value < high < 0
    assert rows["less wide"]["verdict"] == "worse"
    whole, base, changed = (
        rows[name]["validation"]["roc_auc"]["mean"]
        for name in (ablation.WHOLE, "wide", "less wide")
    )
    assert value == pytest.approx(changed - base)
    assert changed > whole
    assert rows["small"]["verdict"] == ""
    table = ablation.table(list(rows.values()))
    assert "| less wide (base: wide) | " in table
    assert "Verdicts: 2, each at 95%." in table
    with pytest.raises(InputError, match="'less wide' is compared with 'wide', which has to"):
        ablation.measure(several, "interactrank", [less], "search")


def test_a_base_that_is_no_change_of_a_data_set_is_the_config_that_it_equals(fake_training):
    wide = Change("as wide as it is", {"model.embedding_dim": 32}, "size")
    less = Change("narrow", {"model.embedding_dim": 16}, "size", base=wide.name)
    one_seed = contenders.Setting("search", Path(), Path(), (0,), 1, 1, 1.0, {})
    whole, narrow = ablation.measure(one_seed, "interactrank", [wide, less], "search")
    value, *_ = narrow.row["validation"]["roc_auc"]["difference"]
    means = [one.row["validation"]["roc_auc"]["mean"] for one in (narrow, whole)]
    assert value == pytest.approx(means[0] - means[1])


def test_logq_is_measured_at_the_weight_at_which_it_can_matter():
    parts = {change.name: change for change in interactrank_ablation.PARTS}
    without = parts["softmax weight .1, no logQ"]
    base = parts[without.base]
    assert dict(without.overrides) == {**base.overrides, "train.loss.log_q": "none"}
    arguments = types.SimpleNamespace(groups=["loss"], changes=[without.name])
    assert ablation.selected(INTERACTRANK, arguments) == (base, without)


# --- the scripts as a whole -------------------------------------------------------------------


@pytest.mark.long  # two trainings
@pytest.mark.parametrize("script", [interactrank_ablation, fit_ablation])
def test_the_smallest_ablation_ends_in_its_table_and_file(script, tmp_path):
    file = tmp_path / "result.json"
    assert script.main(["--quick", f"--out={tmp_path / 'out'}", f"--json={file}"]) == 0
    content = json.loads(file.read_text())
    rows = content["rows"]
    assert [row["change"] for row in rows] == [ablation.WHOLE, *script.QUICK]
    for row in rows[1:]:
        value, low, high = row["validation"]["roc_auc"]["difference"]
        assert low <= value <= high
        assert row["test"]["roc_auc"]["mean"] - rows[0]["test"]["roc_auc"]["mean"] == (
            pytest.approx(row["test"]["roc_auc"]["difference"][0])
        )
    assert content["seeds"] == [0]
    assert content["versions"]["jax"]
    assert rows[0]["config"]["model"]["name"] == rows[0]["model"]
    assert all(row["change"] in script.table(content) for row in rows)
    if script is fit_ablation:
        assert sum(content["meta_queries"][0]["matrix"]["usage"]) == pytest.approx(1)
        assert (tmp_path / "query_similarity.png").is_file()
        assert (tmp_path / "auc_against_queries.png").is_file()
