"""Ablations: which changes there are, what is made of trained models, each script as a whole."""

import json
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import (
    ablation,
    contenders,
    fit_ablation,
    fit_figures,
    interactrank_ablation,
    interactrank_offline,
    trials,
)
from experiments.ablation import Change
from experiments.comparison import Scored
from interactrank_jax import metrics
from interactrank_jax.config import configuration, fields
from interactrank_jax.evaluation import evaluate as evaluation
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run
from tests.conftest import REPOSITORY
from tests.log.simulator.test_judged import judged

SEED = "train.seed"


def spec(model, argument="search"):
    return f"{REPOSITORY / 'configs' / model}.py:{argument}"


def setting(argument="search"):
    return contenders.Setting(argument, Path("log"), Path("out"), (0,), 1, 1, 1.0, {})


INTERACTRANK = interactrank_ablation.changes(configuration.load(spec("interactrank")))
FIT = fit_ablation.changes("mean", fit_ablation.BESIDE)


# --- which changes there are ------------------------------------------------------------------


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


def test_the_front_is_what_nothing_cheaper_reaches():
    points = [(100.0, 0.7), (100.0, 0.6), (200.0, 0.65), (300.0, 0.8), (400.0, 0.8)]
    assert fit_figures.front(points) == [(100.0, 0.7), (300.0, 0.8)]


def test_principal_axes_keep_distances_in_a_plane():
    plane = np.random.default_rng(0).normal(size=(6, 2)) @ np.random.default_rng(1).normal(
        size=(2, 5)
    )
    axes = fit_ablation.principal_axes(plane)

    def distances(points):
        return np.linalg.norm(points[:, None] - points, axis=-1)

    np.testing.assert_allclose(distances(axes), distances(plane), atol=1e-9)
    assert fit_ablation.principal_axes(np.ones((1, 5))).tolist() == [[0.0, 0.0]]


def test_the_front_counts_what_meta_queries_cost_the_request(tmp_path):
    """Of equal cost per candidate, the model with more work on the request costs more."""
    few, many = (
        {**fit_row(f"N = {count}", auc, 1_633, vectors=count), "flops_per_request": flops}
        for count, auc, flops in ((1, 0.67, 427_617), (256, 0.66, 56_192_604))
    )
    assert fit_figures.cost(few) == 427_617 + 10_000 * 1_633
    assert fit_figures.cost(many) == 56_192_604 + 10_000 * 1_633
    (axis,) = fit_figures._draw_pareto([many, few]).axes
    assert axis.get_xlabel() == "FLOPs of a request with 10,000 candidates"
    drawn = {float(x) for line in axis.lines for x in line.get_xdata()}
    assert drawn == {fit_figures.cost(few), fit_figures.cost(many)}


def test_meta_matrices_have_panels_for_each_log():
    def detail(log, change, count):
        group = "" if change == ablation.WHOLE else "queries"
        matrix = {
            "points": [[number, number**2] for number in range(count)],
            "usage": [1 / count] * count,
            "category": ["toys"] * count,
            "purity": [0.5] * count,
        }
        key = {"log": log, "model": "fit", "group": group, "change": change}
        return {**key, "steps": [[1, 0.5]], "matrix": matrix}

    counts = (1, 2, 4, 8, 16, 32)
    logs = ("search", "drift", "movielens_1m")
    details = [
        detail(log, change, count)
        for log in logs
        for change, count in [(ablation.WHOLE, 8), *((f"N = {count}", count) for count in counts)]
        if log != "drift" or count < 4 or change == ablation.WHOLE
    ]
    figure = fit_figures._draw_matrices(details)
    titles = [axis.get_title().split(":")[0] for axis in figure.axes if axis.axison]
    assert titles == [
        *("as configured, search", "N = 8, search", "N = 16, search", "N = 32, search"),
        *("as configured, drift", "N = 2, drift"),
        *(f"{name}, movielens_1m" for name in ("as configured", "N = 8", "N = 16", "N = 32")),
    ]


def fit_row(change, auc, flops, group="", model="fit", overrides=None, vectors=0):
    figure = {"mean": auc, "std": None, "difference": None}
    figures = {"roc_auc": figure, "request_auc": figure}
    return {
        "log": "search", "group": group, "change": change, "model": model, "verdict": "",
        "base": ablation.WHOLE,
        "overrides": overrides or {}, "validation": figures, "test": figures,
        "serving_flops_per_candidate": flops, "flops_per_request": 1e6,
        **({"meta_vectors": vectors, "meta_vectors_used": 2, "query_similarity": 0.99,
            "query_similarity_last": 0.999, "soft_minus_hard": {"test": [0.01, -0.01, 0.02]}}
           if vectors else {}),
    }  # fmt: skip


def test_figures_are_drawn_of_what_there_is(tmp_path):
    matrix = {
        "points": [[0, 0], [1, 0], [0, 1]],
        "usage": [0.75, 0.25, 0],
        "category": ["toys", "pets", ""],
        "purity": [0.5, 0.6, 0],
    }
    detail = {"log": "search", "model": "fit", "group": "", "change": ablation.WHOLE}
    rows = [
        fit_row(ablation.WHOLE, 0.68, 600, vectors=3),
        fit_row("N = 1", 0.67, 600, "queries", overrides={"model.meta.vectors": 1}, vectors=1),
        fit_row("two_tower", 0.66, 129, "models", "two_tower"),
        {
            "log": "search",
            "group": "parts",
            "change": "no MQM",
            "model": "fit",
            "base": ablation.WHOLE,
            "error": "none",
        },
    ]
    content = {
        "rows": rows,
        "meta_queries": [{**detail, "steps": [[50, 0.4], [100, 0.99]], "matrix": matrix}],
    }
    names = ["auc_against_queries", "query_similarity", "meta_queries", "pareto"]
    assert fit_figures.draw(content, tmp_path) == [tmp_path / f"{name}.png" for name in names]
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in names)
    table = fit_ablation.table(content).splitlines()
    line = "| search | 0.9900 | 0.9990 | 2 of 3 | +0.0100 [-0.0100, +0.0200] |"
    assert f"| {ablation.WHOLE} {line}" in table
    assert fit_figures.draw({"rows": rows[:1], "meta_queries": []}, tmp_path / "none") == []


def test_the_offline_table_has_the_papers_flops_beside_ours():
    results = [
        {
            "metrics": dict.fromkeys(interactrank_offline.METRICS, value),
            "intervals": dict.fromkeys(interactrank_offline.METRICS, (0.6, 0.7)),
        }
        for value in (0.64, 0.66)
    ]
    ours = interactrank_offline.figures(results)
    assert ours["hit_at_3"]["mean"] == pytest.approx(0.65)
    assert ours["hit_at_3"]["std"] == pytest.approx(0.02 / 2**0.5)
    line = interactrank_offline.figures(results[:1])
    assert line["roc_auc"] == {"mean": 0.64, "std": None, "interval": [0.6, 0.7]}
    cost = {"serving_flops_per_candidate": 143.0, "ms_per_100k_candidates": 3.25}
    rows = [
        {
            "log": "search", "ranker": "iqp", "metrics": line,
            "serving_flops_per_candidate": 0.0, "ms_per_100k_candidates": None,
            "interactrank_minus": dict.fromkeys(interactrank_offline.COMPARED, (0.01, 0.0, 0.02)),
        },
        {"log": "search", "ranker": "interactrank", "metrics": ours, **cost,
         "interactrank_minus": {}},
    ]  # fmt: skip
    lines = interactrank_offline.table({"rows": rows}).splitlines()
    assert lines[2] == "| iqp |" + " 0.6400 |" * 7 + " 0 |  |  |"
    assert lines[3].endswith(" 0.6500 ± 0.0141 | 143 | 142 | 3.2 |")
    assert lines[7] == "| iqp |" + " +0.0100 [+0.0000, +0.0200] |" * 3
    # What is empty, and what was not run, is said.
    assert interactrank_offline.COSTS in lines
    assert interactrank_offline.SKIPPED in lines
    both = [*rows, *({**row, "log": "homedepot"} for row in rows)]
    lines = interactrank_offline.table({"rows": both}).splitlines()
    assert lines[0] == "search:"
    assert lines.count("homedepot:") == 1
    assert interactrank_offline.SKIPPED not in lines


def test_the_home_depot_log_is_made_of_the_judgments_that_a_flag_names(tmp_path):
    source = judged(tmp_path / "data")
    parser = interactrank_offline.parser()
    flags = ["--quick", f"--out={tmp_path / 'out'}"]
    (tmp_path / "out/quick/log-tiny").mkdir(parents=True)  # of the search log: not looked at
    assert set(interactrank_offline.settings(parser.parse_args(flags))) == {"search"}
    arguments = parser.parse_args([*flags, f"--judgments={source}"])
    setting = interactrank_offline.settings(arguments)["homedepot"]
    assert setting.argument == "search"
    assert setting.out == tmp_path / "out/quick/homedepot"
    assert json.loads((setting.log / "truth/config.json").read_text())["judgments"]


@pytest.fixture
def evaluations(monkeypatch):
    """Counts the models that are evaluated."""
    workdirs = []
    evaluate = evaluation.evaluate

    def counted(workdir, examples):
        workdirs.append(workdir)
        return evaluate(workdir, examples)

    monkeypatch.setattr(evaluation, "evaluate", counted)
    return workdirs


def test_a_model_is_evaluated_once(trained_run, examples_path, tmp_path, evaluations):
    shutil.copytree(trained_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/eval", ignore_errors=True)
    _, step = Run.open(tmp_path / "run").restore_model()
    trial = types.SimpleNamespace(workdir=tmp_path / "run", examples=Path(examples_path))
    outcome = types.SimpleNamespace(trial=trial, best=(step, {}))
    first = contenders.evaluated(outcome)
    second = contenders.evaluated(outcome)
    assert len(evaluations) == 1
    np.testing.assert_equal(second, first)
    scored = contenders.saved_scores(outcome, 0.5)
    auc = metrics.roc_auc(scored.score, scored.engaged)
    assert auc == pytest.approx(first["metrics"]["roc_auc"])
    # What is of another step, or of other examples, is not taken for it.
    file = tmp_path / "run/eval/test.json"
    for name, value in (("step", step + 1), ("examples_digest", "another")):
        files.write_json(file, {**files.read_json(file), name: value})
        np.testing.assert_equal(contenders.evaluated(outcome), first)
    assert len(evaluations) == 3
    arrays = dict(np.load(tmp_path / "run/eval/test.npz"))
    np.savez(tmp_path / "run/eval/test.npz", **{**arrays, "examples": np.array("another")})
    with pytest.raises(InputError, match="has scores of other examples"):
        contenders.saved_scores(outcome, 0.5)


# --- the scripts as a whole -------------------------------------------------------------------


@pytest.mark.script  # two trainings
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
    assert all(row["change"] in script.table(content) for row in rows)
    if script is fit_ablation:
        assert sum(content["meta_queries"][0]["matrix"]["usage"]) == pytest.approx(1)
        assert (tmp_path / "query_similarity.png").is_file()
        assert (tmp_path / "auc_against_queries.png").is_file()


@pytest.mark.script  # two trainings
def test_the_smallest_offline_comparison_ends_in_its_table_and_file(tmp_path):
    file = tmp_path / "result.json"
    flags = ["--quick", f"--out={tmp_path / 'out'}", f"--json={file}"]
    assert interactrank_offline.main(flags) == 0
    content = json.loads(file.read_text())
    rows = {row["ranker"]: row for row in content["rows"]}
    assert set(rows) == {*interactrank_offline.BASELINES, *interactrank_offline.QUICK}
    assert rows["interactrank"]["serving_flops_per_candidate"] == 143
    for row in rows.values():
        means = {name: figure["mean"] for name, figure in row["metrics"].items()}
        assert all(0 <= value <= 1 for value in means.values())
        assert means["recall_at_10"] <= means["recall_at_100"] <= means["recall_at_1000"]
    value, low, high = rows["bm25"]["interactrank_minus"]["roc_auc"]
    assert low <= value <= high
    ours, bm25 = (rows[name]["metrics"]["roc_auc"]["mean"] for name in ("interactrank", "bm25"))
    assert value == pytest.approx(ours - bm25)
