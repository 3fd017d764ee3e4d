"""What the experiments on ItemQueryPerf make of trained models, without training any."""

import json
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import defaults, freshness, over_inputs, unseen_queries
from experiments.comparison import Scored
from interactrank_jax.log.read import open_log
from interactrank_jax.state.normalized_query import form

BEST = [0.690, 0.694]
FOUND = {("lag", 1): BEST, ("lag", 4): [0.660, 0.666], ("age", 0): BEST, ("age", 3): [0.67, 0.676]}
ROWS = [
    freshness.summary("interactrank", what, days, auc, BEST) | {"iqp_auc": 0.6}
    for (what, days), auc in FOUND.items()
] + [freshness.summary("two_tower", "none", 0, [0.651, 0.651], BEST)]


def test_freshness_shows_every_lag_and_age(tmp_path):
    lines = freshness.table(ROWS).splitlines()
    assert lines[2:] == [
        "| lag_days | 1 | 0.6920 ± 0.0028 | +0.0000 ± 0.0000 | 0.6000 |",
        "| lag_days | 4 | 0.6630 ± 0.0042 | -0.0290 ± 0.0014 | 0.6000 |",
        "| snapshot older by | 0 | 0.6920 ± 0.0028 | +0.0000 ± 0.0000 | 0.6000 |",
        "| snapshot older by | 3 | 0.6730 ± 0.0042 | -0.0190 ± 0.0014 | 0.6000 |",
        "| two-tower | | 0.6510 ± 0.0000 | -0.0410 ± 0.0028 | |",
    ]
    assert freshness.draw({"rows": ROWS}, tmp_path) == [tmp_path / "freshness.png"]
    assert (tmp_path / "freshness.png").stat().st_size > 10_000


class FakeExamples:
    """Queries of each split's requests."""

    def __init__(self, queries):
        self._queries = queries

    def __call__(self, path):
        return self

    def raw_requests(self, split):
        return pa.table({"query_id": self._queries[split]})


@pytest.fixture
def outcome(monkeypatch):
    queries = {"train": ["a"] * 3 + ["b"] * 2 + ["c"], "test": ["a", "d", "c", "d"] * 5}
    monkeypatch.setattr(unseen_queries, "Examples", FakeExamples(queries))
    return types.SimpleNamespace(trial=types.SimpleNamespace(examples=Path("none")))


def test_a_query_has_the_history_of_its_nearest_head(outcome, monkeypatch):
    """c lies by b; d, which training never saw, by a, as of its first request."""
    vectors = [
        ("train", "a", 1, [1.0, 0.0]), ("train", "b", 2, [0.0, 1.0]),
        ("train", "c", 3, [0.9, 0.5]), ("train", "c", 4, [0.0, 1.0]),
        ("test", "c", 9, [1.0, 0.0]),  # of no effect: training saw c
        ("validation", "d", 7, [0.0, 1.0]), ("test", "d", 6, [1.0, 0.1]),
    ]  # fmt: skip
    rows = [(split, query, time, np.array(vector)) for split, query, time, vector in vectors]
    monkeypatch.setattr(unseen_queries, "_request_vectors", lambda outcome: iter(rows))
    found = unseen_queries.nearest_heads(outcome, head_share=0.7)
    assert found == {"a": "a", "b": "b", "c": "b", "d": "a"}


def test_deciles_are_of_requests_from_the_rarest_query_on(outcome, monkeypatch):
    request = np.repeat(np.arange(20), 2)
    engaged = np.tile([True, False], 20)
    unseen = np.isin(request % 4, (1, 3))  # requests of d
    score = np.where(engaged, 1.0, 0.0)
    score[unseen] *= -1  # ranked the wrong way round
    tested = Scored(request, request, engaged, score, 0.0)
    monkeypatch.setattr(unseen_queries.contenders, "score_test", lambda outcome: tested)
    found = unseen_queries.auc_by_decile(outcome)
    assert found[:5] == [0.0] * 5
    assert found[5:10] == [1.0] * 5
    assert len(found) == 11


def test_a_gain_is_that_of_each_seed_over_the_same_seed():
    base, words = [[0.6, 0.7], [0.65, 0.72]], [[0.62, 0.7], [0.67, 0.74]]
    none = unseen_queries.summary("none", base, None)
    assert none["auc_mean"] == pytest.approx([0.625, 0.71])
    row = unseen_queries.summary("words", words, base)
    assert row["gain_mean"] == pytest.approx([0.02, 0.01])
    # The seeds differ by more than the gains do.
    assert row["gain_std"] == pytest.approx([0.0, 0.01 * 2**0.5])
    lines = unseen_queries.table([none, row]).splitlines()
    assert lines[2].startswith("| none | 0.6250 ± 0.0354 | 0.7100 ± 0.0141 |")
    assert lines[3].startswith("| words | +0.0200 ± 0.0000 | +0.0100 ± 0.0141 |")


def test_a_retyped_query_is_another_query_of_the_same_words(tiny_log, tmp_path):
    unseen_queries.retype(tiny_log, 0.6, tmp_path / "log")
    open_log(tmp_path / "log")

    def read(log, table):
        return pq.read_table(log / table).to_pandas().set_index(["user_id"], append=True)

    before, after = read(tiny_log, "requests"), read(tmp_path / "log", "requests")
    other = before["query_id"] != after["query_id"]
    assert other.mean() == pytest.approx(0.6, abs=0.05)
    assert (after["query_id"].str.split(".").str[0] == before["query_id"]).all()
    assert (after["query_text"].map(form) == before["query_text"].map(form)).all()
    assert (after["query_text"] == before["query_text"])[~other].all()
    # The texts of an id are one, and its user types it so in the events too.
    assert after.groupby("query_id")["query_text"].nunique().max() == 1
    known = {
        (user, old): new
        for (_, user), old, new in zip(
            before.index, before["query_id"], after["query_id"], strict=True
        )
    }
    was, now = read(tiny_log, "events"), read(tmp_path / "log", "events")
    pairs = zip(was.index, was["query_id"], now["query_id"], strict=True)
    compared = [known[user, old] == new for (_, user), old, new in pairs if (user, old) in known]
    assert len(compared) > 100
    assert all(compared)


def test_a_seed_below_a_line_by_more_than_its_interval_is_counted():
    def result(auc, low, below):
        lines = {
            "constant": {"metrics": {"roc_auc": 0.5, "logloss": 0.69}, "differences": {}},
            "popularity": {
                "metrics": {"roc_auc": 0.6},
                "differences": {"roc_auc": [auc - 0.6, low, low + 0.02]},
            },
            "regression": {
                "metrics": {"roc_auc": 0.65, "logloss": 0.6},
                "differences": {"roc_auc": [auc - 0.65, low - 0.05, low - 0.03]},
            },
        }
        metrics = {"roc_auc": auc, "logloss": 0.61}
        heads = {"engaged": {"ece": [0.011, 0.01, 0.02]}}
        return {"metrics": metrics, "references": lines, "below": below, "heads": heads}

    row = over_inputs.summary([result(0.66, 0.05, []), result(0.64, 0.03, ["below regression"])])
    assert row["below"] == 1
    assert row["best_line"] == "regression"
    assert row["difference"] == pytest.approx([0.0, -0.01, 0.01])
    assert set(row["lines"]) == {"popularity", "regression"}
    line = over_inputs.table([{"variant": "drift", "model": "interactrank", **row}]).splitlines()[2]
    assert line == (
        "| drift | interactrank | 0.6500 ± 0.0141 | 0.6000 |  | 0.6500 "
        "| +0.0000 [-0.0100, +0.0100] | 1 of 2 | 0.6100 | 0.6900 | 0.0110 |"
    )


def test_a_change_of_a_default_is_worth_its_mean_difference():
    values = {name: [0.70, 0.71] for name in defaults.CHANGES}
    values["id dropout .1"] = [0.69, 0.72]
    lines = defaults.table({"search": values, "drift": values}).splitlines()
    assert lines[:3] == [
        "| | search | drift |",
        "|---|---|---|",
        "| defaults | 0.7050 | 0.7050 |",
    ]
    assert "| id dropout .1 | +0.0000 ± 0.0141 | +0.0000 ± 0.0141 |" in lines
    assert len(lines) == 2 + len(defaults.CHANGES)


def test_one_seed_has_no_deviation(tmp_path):
    """Neither in what is measured now nor in files that have a deviation of 0 for it."""
    fresh = [
        freshness.summary("interactrank", "lag", 1, [0.69], [0.69]) | {"iqp_auc": 0.6},
        freshness.summary("two_tower", "none", 0, [0.65], [0.69]),
    ]
    assert [row["auc_std"] for row in fresh] == [None, None]
    unseen = unseen_queries.summary("words", [[0.6, 0.7]], [[0.5, 0.7]])
    assert unseen["gain_std"] == [None, None]
    over = {
        **dict.fromkeys(("auc_mean", "logloss", "constant_logloss", "ece"), 0.5),
        **{"variant": "drift", "model": "fit", "seeds": 1, "below": 0, "lines": {}},
        **{"auc_std": None, "difference": [0.1, 0.0, 0.2]},
    }
    older = [{**row, "auc_std": 0.0, "difference_std": 0.0} for row in fresh]
    values = {name: [0.7] for name in defaults.CHANGES}
    tables = [
        freshness.table(fresh),
        freshness.table(older),
        unseen_queries.table([unseen]),
        unseen_queries.table([{**unseen, "gain_std": [0.0, 0.0]}]),
        over_inputs.table([over]),
        over_inputs.table([{**over, "auc_std": 0.0}]),
        defaults.table({"search": values}),
    ]
    assert not any("±" in table for table in tables)
    assert tables[0] == tables[1]
    assert freshness.draw({"rows": fresh}, tmp_path) == [tmp_path / "freshness.png"]


def test_step_0_does_not_hide_a_training_that_does_harm(monkeypatch):
    outcome = types.SimpleNamespace(
        curve=((0, {"roc_auc": 0.7}), (20, {"roc_auc": 0.6}), (40, {"roc_auc": 0.65}))
    )
    setting = types.SimpleNamespace(
        spec=lambda model: "unused",
        examples=lambda data: "unused",
        seeds=(0,), out=Path("unused"), common={}, parallel=1,
    )  # fmt: skip
    config = types.SimpleNamespace(data=None)
    monkeypatch.setattr(defaults.configuration, "load", lambda spec: config)
    monkeypatch.setattr(defaults.trials, "make", lambda *given: given)
    monkeypatch.setattr(defaults.simulated, "trained", lambda made, parallel: [outcome])
    assert set(map(tuple, defaults.measure(setting).values())) == {(0.65,)}


@pytest.mark.long  # trainings in processes of their own
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        (over_inputs, ["--variants", "drift", "--models", "interactrank"]),
        (freshness, []),
        (unseen_queries, []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_smallest_one_ends_in_its_table_and_file(script, flags, tmp_path, capsys):
    assert script.main(["--quick", "--seeds=0", f"--out={tmp_path}", *flags]) == 0
    name = script.__name__.rpartition(".")[2]
    content = json.loads((tmp_path / "quick" / f"{name}.json").read_text())
    assert content["seeds"] == [0]
    assert content["commit"]
    configs = [row["config"] for row in content["rows"] if "config" in row]
    configs += content.get("configs", {}).values()
    assert "interactrank" in {config["model"]["name"] for config in configs}
    assert script.table(content["rows"]) in capsys.readouterr().out
