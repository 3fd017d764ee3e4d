import shutil

import numpy as np
import pytest

from interactrank_jax import metrics
from interactrank_jax.evaluation import evaluate
from interactrank_jax.evaluation.baseline_scorers import baseline
from interactrank_jax.evaluation.baselines import popularity_column
from interactrank_jax.evaluation.rows import Rows
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import LabelRule
from tests.log import handmade_log
from tests.log.handmade_log import DAY


class TestFeature:
    NAMES = (
        "item_rate:click:365",
        "item_share:view:365",
        "item_share:save:30",
        "item_share:click:7",
        "item_share:click:90",
        "item_share:click:365:country",
        "share:click:365",
    )

    def test_default_is_the_longest_unsegmented_item_share_of_engagement(self):
        column = popularity_column(self.NAMES, ("purchase", "click", "save"))
        assert self.NAMES[column] == "item_share:click:90"

    def test_a_rate_or_the_share_of_another_action_is_none(self):
        assert popularity_column(self.NAMES[:2], ("click",)) is None
        assert popularity_column((), ("click",)) is None

    def test_a_named_feature_must_be_of_items(self):
        assert popularity_column(self.NAMES, ("click",), "item_rate:click:365") == 0
        with pytest.raises(InputError, match="Did you mean 'item_share:click:90'"):
            popularity_column(self.NAMES, ("click",), "item_share:click:900")
        with pytest.raises(InputError, match="These examples have none"):
            popularity_column(("share:click:365",), ("click",), "share:click:365")


def rows_of(config, path, split="test"):
    """Returns popularity's scorer, its rows, and their ids as in the log."""
    examples = Examples(path)
    rule = LabelRule.from_config(config.label, examples.metadata.actions)
    scorer = baseline("popularity", rule, examples, split)
    rows = Rows(scorer, examples, split, 16)
    requests = examples.raw_requests(split)["request_id"].to_pylist()
    ids = [
        (requests[r], examples.item_ids[i]) for r, i in zip(rows.request, rows.item, strict=True)
    ]
    return scorer, rows, ids, examples


def test_without_a_feature_it_counts_what_had_arrived_before_the_day(handmade):
    scorer, rows, ids, examples = rows_of(handmade.config, handmade.root / "examples")
    arrived = {}
    for event in handmade.tables["events"].to_pylist():
        first = arrived.setdefault(event["event_id"], event)
        if event["arrival_time"] < first["arrival_time"]:
            arrived[event["event_id"]] = event
    events = [event for event in arrived.values() if event["query_id"] is not None]
    day_of = {
        row["request_id"]: row["timestamp"] // DAY
        for row in handmade.tables["requests"].to_pylist()
    }

    def share(request, item):
        before = [e for e in events if e["arrival_time"] // DAY < day_of[request]]
        return sum(e["item_id"] == item for e in before) / max(len(before), 1)

    expected = [share(*pair) for pair in ids]
    assert len(set(expected)) > 10
    np.testing.assert_allclose(rows.score, expected, rtol=1e-6)
    assert "click, save" in scorer.feature
    # The corpus has the same numbers as the candidates.
    batch = {"request_index": np.arange(examples.split("test").requests)}
    scores = np.concatenate([part for _, part in scorer.corpus(batch, 7)])
    np.testing.assert_array_equal(scores[rows.request, rows.item], rows.score)


def test_without_state_it_counts_the_training_split(handmade, tmp_path):
    shutil.copytree(handmade.root / "examples", tmp_path / "examples")
    shutil.rmtree(tmp_path / "examples" / "state")
    scorer, rows, ids, examples = rows_of(handmade.config, tmp_path / "examples")
    trained = set(examples.raw_requests("train")["request_id"].to_pylist())
    engaged = [
        row["item_id"]
        for row in handmade.tables["impressions"].to_pylist()
        if row["request_id"] in trained and (row["click"] or row["save"])
    ]
    assert rows.score.tolist() == [engaged.count(item) for _, item in ids]
    assert "training split" in scorer.feature
    with pytest.raises(InputError, match="would rank the training split by its own labels"):
        rows_of(handmade.config, tmp_path / "examples", "train")


def test_a_log_without_time_counts_the_training_split(handmade, tmp_path):
    log = handmade_log.write_log(tmp_path / "log", handmade_log.make_tables(timeless=True))
    prepare(handmade_log.random_config(), log, tmp_path / "examples")
    scorer, rows, _, examples = rows_of(handmade.config, tmp_path / "examples")
    counts = np.zeros(examples.num_items)
    for block in examples.blocks("train"):
        np.add.at(counts, block["item"], block["mask"] & block["actions"].any(-1))
    np.testing.assert_array_equal(rows.score, counts[rows.item])
    assert "training split" in scorer.feature


def test_an_item_share_is_preferred_and_known_in_every_split(handmade, tmp_path):
    config = handmade.config.copy_and_resolve_references()
    config.data.cross.features = ("share:click:7", "item_share:click:9", "item_share:click:30")
    prepare(config.data, handmade.log, tmp_path / "examples")
    result = evaluate.evaluate_baseline("popularity", config, tmp_path / "examples", "test")
    assert result["feature"] == "item_share:click:30"
    examples = Examples(tmp_path / "examples")
    blocks = list(examples.blocks("test"))
    score = np.concatenate([block["cross"][block["mask"]][:, 2] for block in blocks])
    engaged = np.concatenate([block["actions"][block["mask"]].any(-1) for block in blocks])
    assert result["metrics"]["roc_auc"] == pytest.approx(metrics.roc_auc(score, engaged))
    of_train = evaluate.evaluate_baseline("popularity", config, tmp_path / "examples", "train")
    assert "recall_at_10" not in of_train["metrics"]
    named = evaluate.evaluate_baseline(
        "popularity:item_share:click:9", config, tmp_path / "examples", "test"
    )
    assert (named["name"], named["feature"]) == (
        "popularity:item_share:click:9",
        "item_share:click:9",
    )
