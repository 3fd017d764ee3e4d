import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax import cli, metrics
from interactrank_jax.evaluation import evaluate, slices, tables
from interactrank_jax.evaluation.baseline_scorers import baseline
from interactrank_jax.evaluation.rows import Rows
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses.labels import LabelRule
from tests.conftest import REPOSITORY
from tests.log.handmade_log import DAY


@pytest.fixture(scope="module")
def scored(handmade):
    """Rows of IQP on the test split, with the log's rows of request and item of each."""
    examples = Examples(handmade.root / "examples")
    rule = LabelRule.from_config(handmade.config.label, examples.metadata.actions)
    rows = Rows(baseline("iqp", rule, examples, "test"), examples, "test", 16)
    requests = {row["request_id"]: row for row in handmade.tables["requests"].to_pylist()}
    items = {row["item_id"]: row for row in handmade.tables["items"].to_pylist()}
    request_ids = examples.raw_requests("test")["request_id"].to_pylist()
    return SimpleNamespace(
        rows=rows,
        engaged=rule.engaged(rows.actions),
        request=[requests[request_ids[row]] for row in rows.request],
        item=[items[examples.item_ids[row]] for row in rows.item],
        examples=examples,
    )


def figures(handmade, by):
    result = evaluate.evaluate_baseline(
        "iqp", handmade.config, handmade.root / "examples", "test", by=[by]
    )
    return {part["slice"]: part for part in result["slices"][by]}


def check(parts, scored, labels):
    """Holds slices against the rows with each label, one label a row."""
    assert set(parts) == set(labels)
    labels, rows = np.array(labels), scored.rows
    for label, part in parts.items():
        kept = labels == label
        assert part["candidates"] == kept.sum()
        assert part["requests"] == len(np.unique(rows.request[kept]))
        assert part["engaged"] == scored.engaged[kept].sum()
        expected = metrics.evaluate_all(rows.request[kept], rows.score[kept], scored.engaged[kept])
        for name in ("roc_auc", "request_auc", "hit_at_3", "ndcg_at_10"):
            assert part["metrics"][name] == pytest.approx(expected[name], nan_ok=True)
            low, high = part["intervals"][name]
            assert np.isnan(expected[name]) or low <= high


def test_a_feature_of_requests_keeps_requests_whole(handmade, scored):
    labels = [request["country"] for request in scored.request]
    check(figures(handmade, "country"), scored, labels)


def test_a_feature_of_items_ranks_its_candidates_alone(handmade, scored):
    parts = figures(handmade, "brand")
    check(parts, scored, [item["brand"] for item in scored.item])
    assert sum(part["requests"] for part in parts.values()) > len(np.unique(scored.rows.request))


def test_item_age_is_that_at_the_request(handmade, scored):
    def label(request, item):
        if item["created_at"] is None:
            return "(none)"
        days = (request["timestamp"] - item["created_at"]) / DAY
        bounds = [(0, "before it was created"), (1, "less than 1 day"), (7, "1 to 7 days")]
        bounds += [(30, "7 to 30 days"), (90, "30 to 90 days")]
        return next(name for bound, name in bounds if days < bound)

    labels = [label(*pair) for pair in zip(scored.request, scored.item, strict=True)]
    assert len(set(labels)) >= 3
    check(figures(handmade, "item_age"), scored, labels)


def test_query_popularity_counts_training_requests(handmade, scored):
    trained = scored.examples.raw_requests("train")["query_id"].to_pylist()
    counts = [trained.count(request["query_id"]) for request in scored.request]
    parts = figures(handmade, "query_popularity")
    labels = []
    for count in counts:
        inside = [
            label
            for label in parts
            if int(label.split(" to ")[0]) <= count <= int(label.split(" to ")[-1])
        ]
        assert len(inside) == 1
        labels += inside
    check(parts, scored, labels)
    assert len(parts) == 5  # queries of the log, each of another count


def test_users_are_known_by_the_vocabulary_and_by_their_history(handmade, scored):
    users = set(scored.examples.encoder.vocabularies["user"].values.to_pylist())
    labels = ["known" if request["user_id"] in users else "new" for request in scored.request]
    check(figures(handmade, "user"), scored, labels)
    has_past = np.zeros(scored.examples.split("test").requests, bool)
    for block in scored.examples.blocks("test"):
        has_past[block["request_index"]] = (block["history_item"] != 0).any(1)
    labels = ["with" if has_past[row] else "without" for row in scored.rows.request]
    check(figures(handmade, "user_history"), scored, labels)


def test_recall_of_a_slice_is_over_its_engaged_items(handmade, scored):
    examples, config = scored.examples, handmade.config
    rule = LabelRule.from_config(config.label, examples.metadata.actions)
    scorer = baseline("iqp", rule, examples, "test")
    ranks = evaluate.corpus_ranks(
        scorer, scored.rows, scored.engaged, examples, "test", config.evaluate
    )
    brand = np.array([item["brand"] for item in scored.item])[ranks.row]
    for label, part in figures(handmade, "brand").items():
        kept = brand == label
        expected = metrics.corpus_recall(ranks.rank[kept], ranks.request[kept], 10)
        assert part["metrics"]["recall_at_10"] == pytest.approx(expected)


def test_queries_fall_into_tenths_of_the_requests_and_unseen_ones_apart():
    trained = np.repeat(np.arange(1, 101), np.arange(1, 101))  # query q was asked q times
    asked = np.concatenate([np.arange(1, 101), np.full(7, 500)])
    requests = {"train": trained, "test": asked}
    examples = SimpleNamespace(
        path="examples", raw_requests=lambda split: pa.table({"query_id": requests[split]})
    )
    cut = slices._query_popularity(examples, "test")
    codes = cut.codes(SimpleNamespace(request=np.arange(107)))
    assert np.bincount(codes).tolist() == [7] + [10] * 10
    assert cut.labels[:3] == ("0", "1 to 10", "11 to 20")


def test_rare_categories_share_a_slice_and_null_has_one_of_its_own():
    values = [str(number) for number in range(30)] + ["5"] * 3 + [None]
    codes, labels = slices._categories(pa.chunked_array([values]))
    assert labels[0] == "5"
    assert labels[-2:] == ["(others)", "(none)"]
    assert len(labels) == slices.MOST_CATEGORIES + 2
    assert (codes == len(labels) - 2).sum() == 30 - slices.MOST_CATEGORIES
    assert codes[-1] == len(labels) - 1


def test_the_table_and_the_file_have_every_slice(handmade, tmp_path, capsys):
    config = REPOSITORY / "tests" / "faults" / "configs.py"
    flags = [f"--config={config}:log", f"--examples={handmade.root / 'examples'}"]
    flags += ["--baseline=iqp", "--by=country,brand", f"--json={tmp_path / 'result.json'}"]
    assert cli.main(["evaluate", *flags]) == 0
    printed = capsys.readouterr().out
    (result,) = json.loads((tmp_path / "result.json").read_text())
    for by in ("country", "brand"):
        assert f"| {by} | requests | candidates | engaged | roc_auc |" in printed
        for part in result["slices"][by]:
            assert f"| {part['slice']} | {part['requests']} | {part['candidates']} |" in printed
    assert "NaN" not in (tmp_path / "result.json").read_text()


def test_a_run_is_sliced_too_and_its_file_says_so(trained_run, examples_path):
    result = evaluate.evaluate(trained_run, examples_path, "test", by=["user_history"])
    saved = json.loads((trained_run / "eval" / "test.json").read_text())
    assert [part["slice"] for part in saved["slices"]["user_history"]] == ["without", "with"]
    assert "| user_history |" in tables.report([result])
    assert "logloss" in result["slices"]["user_history"][0]["metrics"]


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (["contry"], "Did you mean 'country'"),
        (["title"], "--by=title"),
        (["country", "country"], "names 'country' twice"),
    ],
)
def test_what_cannot_be_sliced_by_is_refused_before_any_work(handmade, by, message):
    with pytest.raises(InputError, match=message):
        slices.slicings(by, Examples(handmade.root / "examples"), "test")


def test_examples_without_what_a_slice_needs_are_refused(examples_path):
    with pytest.raises(InputError, match="no column 'created_at' of items"):
        slices.slicings(["item_age"], Examples(examples_path), "test")
    with pytest.raises(InputError, match="the requests have no column 'query_id'"):
        slices.slicings(["query_popularity"], Examples(examples_path), "test")
