"""What `state report` and `state positions` tell, and when they fail."""

import shutil

import ibis
import numpy as np
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli, metrics
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.log.schema import Schema
from interactrank_jax.state import as_of, engines, expressions, positions, report, snapshot
from interactrank_jax.state.build import build_store
from interactrank_jax.state.recipe import Recipe
from interactrank_jax.state.spec import parse_specs
from tests.log.handmade_log import ACTIONS, START, make_tables, replace, write_log
from tests.state.conftest import FEATURES, MEANS, state_config

FIRST = START // 86_400


@pytest.fixture(scope="module")
def written(log, whole, tmp_path_factory):
    """Features of the first 20 days, and of those after them."""
    place = tmp_path_factory.mktemp("features")
    with engines.connect("duckdb", place / "scratch") as backend:
        as_of.write(log, whole, backend, place / "before", None, FIRST + 19, MEANS)
        as_of.write(log, whole, backend, place / "now", FIRST + 20, None, MEANS)
        snapshot.write(log, whole, backend, place / "snapshot", FIRST + 22, MEANS)
        held = snapshot.open_snapshot(place / "snapshot", log)
        snapshot.write_served(log, held, backend, place / "served")
    return place


def test_a_snapshot_with_rates_needs_their_means(log, whole, backend, tmp_path):
    with pytest.raises(InputError, match=r"have rates of .* by --encoder"):
        snapshot.write(log, whole, backend, tmp_path / "snapshot", FIRST + 22)
    assert not (tmp_path / "snapshot").exists()


def test_coverage_is_what_a_loop_counts(written, backend):
    made = report.make(written / "now", written / "before", backend)
    rows = pq.read_table(written / "now" / "features").to_pylist()
    assert made.rows == len(rows)
    for k, name in enumerate(FEATURES):
        found = made.features[k]
        has = [row for row in rows if row[name] != 0]
        engaged = [row for row in rows if row["click"] or row["save"]]
        requests = {row["request_id"] for row in rows}
        assert found.name == name
        assert found.candidates == pytest.approx(len(has) / len(rows))
        assert found.null_rate == pytest.approx(1 - found.candidates)
        assert found.requests == pytest.approx(
            len({row["request_id"] for row in has}) / len(requests)
        )
        assert found.engagements == pytest.approx(
            len([row for row in engaged if row[name] != 0]) / len(engaged)
        )
        assert found.mean == pytest.approx(np.mean([row[name] for row in rows]))
        median = np.median([row[name] for row in has])
        assert found.quantiles[1] == pytest.approx(median, rel=1e-6)
        assert sum(found.shares) == pytest.approx(1) == sum(found.training_shares)
    assert made.staleness == 1
    assert made.counts["late"] > 0
    assert made.counts["early"] > 0


def test_each_feature_is_scored_alone_for_the_action_that_it_counts(written, backend):
    made = report.make(written / "now", written / "before", backend)
    for name in ("now", "before"):
        rows = pq.read_table(written / name / "features").to_pylist()
        for feature in made.features:
            values = [row[feature.name] for row in rows]
            assert feature.action == feature.name.split(":")[1]
            labels = [row[feature.action] for row in rows]
            auc = feature.roc_auc if name == "now" else feature.training_roc_auc
            assert auc == pytest.approx(metrics.roc_auc(values, labels), abs=1e-12)
    printed = report.table(made)
    for action in ACTIONS:
        of_action = [feature for feature in made.features if feature.action == action]
        best = max(of_action, key=lambda feature: abs(feature.training_roc_auc - 0.5))
        said = f"{action}: best alone is {best.name}, with ROC-AUC {best.roc_auc:.4f}"
        assert f"{said} ({best.training_roc_auc:.4f} in training)" in printed


def test_an_action_that_nobody_did_has_no_auc(backend, tmp_path):
    tables = make_tables(40)
    nothing = np.zeros(len(tables["impressions"]), np.int64)
    tables["impressions"] = replace(tables["impressions"], "save", nothing)
    never = open_log(write_log(tmp_path / "log", tables))
    state = build_store(state_config(), never, tmp_path / "state", backend)
    as_of.write(never, state, backend, tmp_path / "features", None, None, MEANS)
    made = report.make(tmp_path / "features", tmp_path / "features", backend)
    for feature in made.features:
        assert (feature.roc_auc is None) == (feature.action == "save")
    assert "save: best alone" not in report.table(made)


def test_features_against_themselves_have_not_drifted(written, backend):
    made = report.make(written / "now", written / "now", backend)
    assert [feature.psi for feature in made.features] == [0.0] * len(FEATURES)
    assert not made.problems


def test_a_stability_index_by_hand():
    expected = (0.5 - 0.4) * np.log(0.5 / 0.4) + (0.5 - 0.6) * np.log(0.5 / 0.6)
    assert report.stability_index((0.5, 0.5), (0.4, 0.6)) == pytest.approx(expected)
    assert report.stability_index((1.0, 0.0), (0.5, 0.5)) > 3  # and finite


def test_an_old_snapshot_is_stale(written, backend):
    bounds = report.Bounds(psi=9, null_rate=1, staleness=3)
    fresh = report.make(written / "now", written / "before", backend, bounds)
    assert not fresh.problems
    old = report.make(written / "served", written / "before", backend, bounds)
    assert old.staleness == FIRST + 29 - (FIRST + 22) + 1
    assert old.problems == ("values are 8 days old (bound 3)",)


def test_what_an_old_snapshot_serves_has_drifted(log, written, whole, backend, tmp_path):
    """Its values are those of its day, whatever day the request is of."""
    as_of.write(log, whole, backend, tmp_path / "since", FIRST + 22, None, MEANS)
    now = report.make(tmp_path / "since", tmp_path / "since", backend)
    old = report.make(written / "served", tmp_path / "since", backend)
    assert old.rows == now.rows
    assert all(feature.psi > 0.005 for feature in old.features)
    table = pq.read_table(written / "served" / "features").to_pylist()
    requests = pq.read_table(log.path / "requests.parquet").to_pylist()
    queries = {row["request_id"]: row["query_id"] for row in requests}
    values = {}
    for row in table:
        values.setdefault((queries[row["request_id"]], row["item_id"]), set()).add(row[FEATURES[0]])
    assert {len(found) for found in values.values()} == {1}
    assert len(values) < len(table)


def test_the_command_fails_past_a_bound(written, tmp_path, capsys):
    flags = [f"--features={written / 'now'}", f"--training={written / 'before'}"]
    wide = ["--max_psi=99", "--max_null_rate=1", f"--out={tmp_path / 'wide'}"]
    assert cli.main(["state", "report", *flags, *wide]) == 0
    assert sorted(path.name for path in (tmp_path / "wide").iterdir()) == [
        "report.json",
        "report.md",
        "report.png",
    ]
    narrow = ["--max_psi=0.0001", f"--out={tmp_path / 'narrow'}"]
    assert cli.main(["state", "report", *flags, *narrow]) == 2
    printed = capsys.readouterr()
    assert "past its bound" in printed.err
    assert "PSI" in printed.err
    assert (tmp_path / "narrow" / "report.md").exists()  # to look at what is wrong


def test_features_of_another_recipe_are_refused(written, backend, tmp_path):
    record = files.read_sealed(written / "before" / as_of.KIND.file)
    record["description"]["prior"] = 7.0
    (tmp_path / "other").mkdir()
    files.write_sealed(tmp_path / "other" / as_of.KIND.file, record)
    with pytest.raises(InputError, match=r"differ in prior: 5\.0, in training 7\.0"):
        report.make(written / "now", tmp_path / "other", backend)
    with pytest.raises(InputError, match="holds no features"):
        report.make(tmp_path, written / "before", backend)
    record = files.read_sealed(written / "before" / as_of.KIND.file)
    record["mean_rates"]["click"] *= 2
    files.write_sealed(tmp_path / "other" / as_of.KIND.file, record)
    with pytest.raises(InputError, match=r"mean rate of click: .* with one --encoder"):
        report.make(written / "now", tmp_path / "other", backend)


def test_what_is_damaged_or_gone_is_named(
    log, written, whole, examples_with_rates, tmp_path, capsys
):
    flags = [f"--training={written / 'before'}", f"--out={tmp_path / 'report'}"]
    copies = {
        name: shutil.copytree(written / name, tmp_path / name) for name in ("now", "snapshot")
    }
    copies["state"] = shutil.copytree(whole.path, tmp_path / "state")

    def told(*argv):
        assert cli.main(["state", *argv]) == 2
        return capsys.readouterr().err

    serve = ["features", f"--log={log.path}", f"--out={tmp_path / 'features'}"]
    commands = {
        "now": ["report", f"--features={copies['now']}", *flags],
        "snapshot": [*serve, f"--snapshot={copies['snapshot']}"],
        "state": [*serve, f"--state={copies['state']}", f"--encoder={examples_with_rates}"],
    }
    for name, command in commands.items():
        files_of_it = sorted(copies[name].rglob("*.parquet"))
        for file in files_of_it:
            with file.open("r+b") as opened:
                opened.seek(4)
                opened.write(bytes(60))
        found = told(*command)
        assert "is damaged: its checksum is not the one in" in found, found
        assert any(str(file) in found for file in files_of_it)
        for file in files_of_it:
            file.unlink()
        assert "part.parquet is missing: make" in told(*command)
        assert not (tmp_path / "features").exists()
    either = told(*serve, *(f"--{name}={copies[name]}" for name in ("state", "snapshot")))
    assert "either --state" in either
    assert "either --state" in told(*serve)
    encoder = told(*serve, f"--snapshot={copies['snapshot']}", "--encoder=examples")
    assert "--encoder is part of a snapshot" in encoder


class TestPositions:
    def test_weights_are_rates_over_the_best(self, backend, tmp_path):
        tables = make_tables(400)
        impressions = tables["impressions"]
        position = impressions["position"].to_numpy()
        rng = np.random.default_rng(0)
        click = rng.random(len(position)) < 0.8 / (1 + position)
        tables["impressions"] = replace(impressions, "click", click)
        log = open_log(write_log(tmp_path / "log", tables))
        weights = positions.position_weights(log, backend, "click")
        shown = np.array(impressions["stage"].to_pylist()) == "shown"
        rate = [click[shown & (position == at)].mean() for at in range(5)]
        np.testing.assert_allclose(weights[:5], rate / np.max(rate), atol=1e-4)
        assert len(weights) < 19  # few requests are as long as that
        assert max(weights) == 1

    def test_an_action_that_nobody_did_has_none(self, backend, tmp_path):
        tables = make_tables(40)
        nothing = np.zeros(len(tables["impressions"]), np.int64)
        tables["impressions"] = replace(tables["impressions"], "save", nothing)
        log = open_log(write_log(tmp_path / "log", tables))
        with pytest.raises(InputError, match="nobody did it"):
            positions.position_weights(log, backend, "save")
        with pytest.raises(InputError, match="Did you mean 'click'"):
            positions.position_weights(log, backend, "clik")

    def test_a_timeless_log_has_none(self, backend, tmp_path):
        log = open_log(write_log(tmp_path / "log", make_tables(40, timeless=True)))
        with pytest.raises(InputError, match="is timeless, and weights of positions"):
            positions.position_weights(log, backend, "click")

    def test_debiased_rates_are_nearer_the_truth(self, backend):
        """Items shown far behind get as high a rate as those in front, if they are as good."""
        rng = np.random.default_rng(1)
        requests, items, slate = 6000, 40, 10
        quality = rng.uniform(0.1, 0.9, items)
        # The first half of the items is shown in front, the second half behind.
        front, behind = (rng.permuted(np.tile(half, (requests, 1)), axis=1)[:, :5]
                         for half in (np.arange(20), np.arange(20, 40)))  # fmt: skip
        item = np.concatenate([front, behind], 1).ravel()
        position = np.tile(np.arange(slate), requests)
        looks = 0.7 ** np.arange(slate)
        click = np.flatnonzero(rng.random(len(item)) < looks[position] * quality[item])
        correlation = {}
        for debias in ("none", "position"):
            recipe = Recipe(
                parse_specs(["item_rate:click:30"], Schema((), ACTIONS)), 1, 5.0,
                debias=debias, position_weights=tuple(looks),
            )  # fmt: skip
            weight = recipe.impression_weight(position, None)
            rows = ibis.memtable(
                {
                    "item": np.r_[item, item[click]],
                    "action": ["impression"] * len(item) + ["click"] * len(click),
                    "period": np.zeros(len(item) + len(click), np.int32),
                    "weight": np.r_[weight, np.ones(len(click))],
                }
            )
            actions = {name: name for name in ("click", "impression")}
            counts = expressions.period_counts(rows, ("item",), actions)
            asked = ibis.memtable({"item": range(items), "period": np.ones(items, np.int32)})
            sums = {("item",): expressions.sums_of(asked, counts, ("item",), recipe)}
            asked, places = expressions.with_counts(asked, sums, recipe, also=("period",))
            levels = [recipe.levels(spec) for spec in recipe.specs]
            means = {"click": len(click) / weight.sum()}
            made = asked.select("item", **expressions.values(asked, places, recipe, levels, means))
            values = backend.to_pyarrow(made.order_by("item"))["item_rate:click:30"].to_numpy()
            correlation[debias] = np.corrcoef(values, quality)[0, 1]
        assert correlation["none"] < 0.7
        assert correlation["position"] > 0.97
