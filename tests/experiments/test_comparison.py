"""The rows of a comparison: its figures by hand, its intervals, its table."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from experiments import comparison
from experiments.comparison import Scored
from interactrank_jax.io.errors import InputError

ENGAGED = np.array([1, 0, 1, 0, 1, 0], bool)
USER = np.array([0, 0, 1, 1, 1, 1])
REQUEST = np.array([0, 0, 1, 1, 2, 2])


def scored(*score, logloss=0.5, request=REQUEST):
    return Scored(request, np.arange(len(score)) + 1, ENGAGED, np.array(score, float), logloss)


# Of 9 pairs of a positive and a negative, in order: all, 6 and 2.
PERFECT = scored(3, 0, 3, 0, 3, 0, logloss=0.3)
FAIR = scored(3, 0, 2, 1, 0.5, 2.5)
POOR = scored(0, 3, 1, 0.5, 2, 2.5)


def test_a_row_holds_what_can_be_counted_by_hand():
    aucs = [roc_auc_score(ENGAGED, run.score) for run in (PERFECT, FAIR, POOR)]
    np.testing.assert_allclose(aucs, [1, 6 / 9, 2 / 9])
    row = comparison.make_row(
        ("movielens_1m", "clean_random", "fit"),
        [PERFECT, FAIR],
        [FAIR],
        USER,
        USER,
        {"dat": [POOR]},
        grouped_metric="per-user AUC",
    )
    assert row["seeds"] == 2
    assert row["auc_mean"] == pytest.approx(15 / 18, abs=1e-6)
    assert row["auc_std"] == pytest.approx(3 / 9 / math.sqrt(2), abs=1e-6)
    assert row["logloss_mean"] == pytest.approx(0.4)
    assert row["relaimpr"] == pytest.approx((6 / 18) / (3 / 18) - 1, abs=1e-6)
    # Within users: FAIR has 1 and, of the second user's four pairs, 1 in order.
    assert row["grouped_auc_mean"] == pytest.approx((1 + (1 + 0.25) / 2) / 2)
    assert row["diff_vs_two_tower"] == pytest.approx(3 / 18, abs=1e-6)
    assert row["diff_low"] <= row["diff_vs_two_tower"] <= row["diff_high"]
    difference, low, high = row["versus"]["dat"]
    assert difference == pytest.approx(15 / 18 - 2 / 9, abs=1e-6)
    assert low <= difference <= high
    assert comparison.versus([row]) == [
        f"fit minus dat: {difference:+.4f} [{low:+.4f}, {high:+.4f}]"
    ]
    by_request = comparison.make_row(("", "", "fit"), [FAIR], None, USER, REQUEST, {})
    assert by_request["grouped_auc_mean"] == pytest.approx(2 / 3)
    assert by_request["auc_std"] is by_request["diff_low"] is None
    assert by_request["relaimpr"] == 0


def many_rows(seed=0, users=40, each=8):
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), each)
    engaged = rng.random(len(user)) < 0.5
    place = (user, np.arange(len(user)))

    def run(signal):  # what it knows of a user holds for all that the user was shown
        known = rng.normal(signal, 2, size=users)[user]
        return Scored(*place, engaged, known * engaged + rng.normal(size=len(user)), 0.5)

    return user, [run(1.0) for _ in range(3)], [run(0.8) for _ in range(2)]


def test_interval_is_that_of_a_literal_bootstrap_over_users_and_seeds():
    user, ours, base = many_rows()
    found = comparison.paired_difference(user, ours, base, replicates=30)

    def auc(run, rows):
        return roc_auc_score(run.engaged[rows], run.score[rows])

    draw_users, draw_seeds = np.random.default_rng(0), np.random.default_rng(0)
    differences = []
    for _ in range(30):
        drawn = draw_users.integers(40, size=40)
        rows = np.concatenate([np.flatnonzero(user == each) for each in drawn])
        means = []
        for runs in (ours, base):
            seeds = draw_seeds.integers(len(runs), size=len(runs))
            means.append(np.mean([auc(runs[seed], rows) for seed in seeds]))
        differences.append(means[0] - means[1])
    np.testing.assert_allclose(found[1:], np.quantile(differences, (0.025, 0.975)))
    everything = np.arange(len(user))
    means = [np.mean([auc(run, everything) for run in runs]) for runs in (ours, base)]
    assert found.difference == pytest.approx(means[0] - means[1])


def test_interval_grows_with_clusters_and_not_with_copies_of_rows():
    user, ours, base = many_rows()
    row = np.arange(len(user))
    twice = np.tile(row, 2)

    def copies(runs):
        return [Scored(*(np.asarray(column)[twice] for column in run[:4]), 0.5) for run in runs]

    of_users = comparison.paired_difference(user, ours, base, 200)
    doubled = comparison.paired_difference(user[twice], copies(ours), copies(base), 200)
    np.testing.assert_allclose(of_users, doubled)
    of_rows = comparison.paired_difference(row, ours, base, 200)
    assert of_users.high - of_users.low > 1.2 * (of_rows.high - of_rows.low)


def test_models_tested_on_other_rows_are_not_compared():
    moved = PERFECT._replace(item=PERFECT.item[::-1])
    with pytest.raises(InputError, match="same rows"):
        comparison.paired_difference(USER, [PERFECT], [moved])


def row(model, dataset="search", protocol="clean_time", auc=0.7, **more):
    key = {"dataset": dataset, "protocol": protocol, "model": model}
    figures = {"seeds": 5, "auc_mean": auc, "auc_std": 0.001, "logloss_mean": 0.4}
    figures |= {"logloss_std": None, "relaimpr": 0.25, "grouped_auc_mean": 0.65}
    figures |= {"grouped_auc_std": 0.002, "grouped_metric": "request AUC", "parameters": 1234567}
    figures |= {"serving_flops_per_candidate": 143.0, "examples_per_s": None}
    figures |= {"diff_vs_two_tower": 0.01, "diff_low": -0.002, "diff_high": 0.02}
    figures |= {"versus": {}}
    return key | figures | more


def test_rows_are_merged_by_data_set_protocol_and_model(tmp_path):
    file = tmp_path / "new/results.json"
    first = [row("fit"), row("fit", protocol="published"), row("dat")]
    comparison.merge(file, first)
    comparison.merge(file, [row("fit", auc=0.8), row("fit", dataset="movielens_1m")])
    held = json.loads(file.read_text())
    assert held == [row("fit", auc=0.8), *first[1:], row("fit", dataset="movielens_1m")]
    comparison.merge(file, [row("fit", auc=0.8, versus={"dat": [0.1, 0.0, 0.2]})])
    comparison.merge(file, [row("fit", auc=0.8, versus={"inttower": [0.2, 0.1, 0.3]})])
    assert json.loads(file.read_text())[0]["versus"].keys() == {"dat", "inttower"}
    comparison.merge(file, [row("fit", auc=0.81)])  # trained anew: what was compared is no more
    assert json.loads(file.read_text())[0]["versus"] == {}
    file.write_text("{}")
    with pytest.raises(InputError, match="no list of rows"):
        comparison.merge(file, first)
    assert file.read_text() == "{}"


def test_an_undefined_figure_is_none_and_an_empty_cell(tmp_path):
    each_alone = np.arange(len(ENGAGED))  # one candidate per request: nothing is ranked
    made = comparison.make_row(
        ("", "", "fit"), [FAIR, POOR], [POOR], USER, each_alone, {}, grouped_metric="request AUC"
    )
    assert made["grouped_auc_mean"] is made["grouped_auc_std"] is None
    costs = dict.fromkeys(("parameters", "serving_flops_per_candidate", "examples_per_s"))
    comparison.merge(tmp_path / "results.json", [made | costs])
    assert "NaN" not in (tmp_path / "results.json").read_text()
    assert "nan" not in comparison.table([made | costs])


def test_table_shows_every_figure_and_never_mixes_protocols():
    base = row("two_tower", diff_vs_two_tower=None)
    header, _, first, second = comparison.table([base, row("fit", published_auc=None)]).splitlines()
    assert "request AUC" in header
    assert "published" not in header
    assert first.endswith("| 1,234,567 | 143 |  |  |")
    assert second == (
        "| fit | 5 | 0.7000 ± 0.0010 | 0.4000 | +25.00% | 0.6500 ± 0.0020 | 1,234,567 | 143 |  | "
        "+0.0100 [-0.0020, +0.0200] |"
    )
    with_figures = comparison.table(
        [base, row("dat", published_auc=0.8712, published_logloss=0.4556)]
    )
    assert with_figures.splitlines()[-1].endswith("| 0.8712 / 0.4556 |")
    with pytest.raises(InputError, match="do not belong in one table"):
        comparison.table([base, row("fit", protocol="published")])
