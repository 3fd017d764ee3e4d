import json
import shutil

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation import evaluate, scorers
from interactrank_jax.examples.format import Examples, write_metadata
from interactrank_jax.examples.input import evaluation_batches, request_batches
from interactrank_jax.io.errors import InputError
from interactrank_jax.ranking.corpus import CorpusScorer
from interactrank_jax.ranking.index import Index, build_index
from interactrank_jax.ranking.score import QueryEncoder, score
from interactrank_jax.runs.run import Run
from interactrank_jax.training.train import train
from tests.synthetic import tiny_config, write_examples


@pytest.fixture(scope="module")
def examples(examples_path):
    return Examples(examples_path)


@pytest.fixture(scope="module")
def index_path(tmp_path_factory, trained_run, examples_path):
    path = tmp_path_factory.mktemp("index") / "index"
    build_index(trained_run, examples_path, path)
    return path


@pytest.fixture(scope="module")
def opened(trained_run, index_path, examples):
    run = Run.open(trained_run)
    model, _ = run.restore_model()
    return run, model, Index(index_path, run, model, examples)


def own_logits(run, model, examples, split="test"):
    """Ranked scores by the model's own forward pass: {(request_index, item): score}."""
    parallel = DataParallel("pmap")
    scorer = scorers.ModelScorer(run, examples, split, parallel).use(parallel.replicate(model))
    rows = evaluate.Rows(scorer, examples, split, 32)
    return {
        (int(request), int(item)): value
        for request, item, value in zip(rows.request, rows.item, rows.score, strict=True)
    }


def dense_scores(run, model, index, examples, batch):
    """Brute force: every item aligned with every request, cross features written out in full."""
    sparse = examples.sparse_cross("test")
    cross = np.zeros((len(batch["mask"]), examples.num_items, sparse.value.shape[1]), np.float32)
    for row, request in enumerate(batch["request_index"]):
        group = sparse.group[max(request, 0)]
        entries = slice(sparse.indptr[group], sparse.indptr[group + 1])
        cross[row, sparse.item[entries]] = sparse.value[entries]
    query = QueryEncoder(run, model, examples)(batch)
    items = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (len(cross), *leaf.shape)), index.items)
    logits = run.model.apply({"params": model["params"]}, query, items, cross, method="score")
    return np.asarray(logits @ np.asarray(run.rule.utility, np.float32))


@pytest.mark.parametrize("tile", [7, 40, 81, 1000])
def test_corpus_scores_and_top_k_equal_brute_force_at_every_tile_size(opened, examples, tile):
    run, model, index = opened
    batch = next(iter(request_batches(examples, "test", 32)))
    expected = dense_scores(run, model, index, examples, batch)
    scorer = CorpusScorer(
        run.model, model["params"], index.items, run.rule.utility, pairs=tile * 32
    )
    query = QueryEncoder(run, model, examples)(batch)
    cross = examples.sparse_cross("test").padded(batch["request_index"], examples.num_items)
    np.testing.assert_allclose(
        np.asarray(scorer.scores(query, *cross))[:, 1:], expected[:, 1:], atol=1e-5
    )
    value, item = scorer.top_k(query, *cross, k=12)
    best = np.argsort(-expected[:, 1:], kind="stable")[:, :12] + 1
    np.testing.assert_allclose(value, np.take_along_axis(expected, best, 1), atol=1e-5)
    # The same items, but where two scores are equal to within rounding.
    np.testing.assert_allclose(
        np.take_along_axis(expected, item, 1), np.take_along_axis(expected, best, 1), atol=1e-5
    )


def test_cross_features_matter_to_the_corpus_ranking(opened, examples):
    run, model, index = opened
    batch = next(iter(request_batches(examples, "test", 32)))
    scorer = CorpusScorer(run.model, model["params"], index.items, run.rule.utility)
    query = QueryEncoder(run, model, examples)(batch)
    items, values = examples.sparse_cross("test").padded(batch["request_index"], 81)
    with_cross = np.asarray(scorer.scores(query, items, values))
    without = np.asarray(scorer.scores(query, items, 0 * values))
    assert (with_cross != without).any(1).all()


def test_slate_scores_are_the_models_own_logits_with_the_logs_ids(
    tmp_path, trained_run, index_path, examples_path, opened, examples
):
    score(trained_run, index_path, examples_path, tmp_path / "scores", k=100, batch_size=16)
    table = pq.read_table(tmp_path / "scores" / "scores.parquet").to_pylist()
    expected = own_logits(opened[0], opened[1], examples)
    assert len(table) == len(expected) == examples.split("test").candidates
    for row in table:
        request = int(row["request_id"].removeprefix("test-"))
        item = int(row["item_id"].removeprefix("item-"))
        assert row["score"] == pytest.approx(expected[request, item], abs=1e-5)
    by_request = {}
    for row in table:
        by_request.setdefault(row["request_id"], []).append(row)
    for rows in by_request.values():
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
        assert [row["score"] for row in rows] == sorted(
            (row["score"] for row in rows), reverse=True
        )


def test_corpus_scores_file_has_k_items_of_every_request(
    tmp_path, trained_run, index_path, examples_path, opened, examples
):
    summary = score(
        trained_run,
        index_path,
        examples_path,
        tmp_path / "scores",
        k=9,
        candidates="corpus",
        batch_size=16,
    )
    assert summary == {"requests": 45, "rows": 45 * 9}
    table = pq.read_table(tmp_path / "scores" / "scores.parquet").to_pylist()
    expected = own_logits(opened[0], opened[1], examples)
    compared = 0
    for row in table:
        assert row["item_id"] is not None
        request = int(row["request_id"].removeprefix("test-"))
        key = request, int(row["item_id"].removeprefix("item-"))
        if key in expected:
            assert row["score"] == pytest.approx(expected[key], abs=1e-5)
            compared += 1
    assert compared > 10


def test_k_beyond_the_candidates_gives_all_of_them(
    tmp_path, trained_run, index_path, examples_path
):
    summary = score(
        trained_run, index_path, examples_path, tmp_path / "s", k=10_000, candidates="corpus"
    )
    assert summary["rows"] == 45 * 80


class TestRefusals:
    @pytest.mark.long  # a training
    def test_an_index_of_another_model(self, tmp_path, index_path, examples_path):
        config = tiny_config("interactrank")
        config.train.update({"seed": 5, "max_steps": 1})
        train(config, examples_path, tmp_path / "other")
        with pytest.raises(InputError, match="was built by another model"):
            score(tmp_path / "other", index_path, examples_path, tmp_path / "scores")
        assert not (tmp_path / "scores").exists()

    def test_other_examples(self, tmp_path, trained_run, index_path):
        other = write_examples(tmp_path / "examples", seed=4)
        with pytest.raises(
            InputError, match=r"row 3 of vocabulary 'user' was 'user-1', is '4-user-1'.*--extend"
        ):
            score(trained_run, index_path, other, tmp_path / "scores")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"candidates": "corpsu"}, "Did you mean 'corpus'"),
            ({"split": "tets"}, "Did you mean 'test'"),
            ({"split": "train", "candidates": "corpus"}, "Use validation or test"),
            ({"k": 0}, "at least 1"),
        ],
    )
    def test_a_wrong_argument(
        self, tmp_path, trained_run, index_path, examples_path, fields, message
    ):
        with pytest.raises(InputError, match=message):
            score(trained_run, index_path, examples_path, tmp_path / "scores", **fields)

    def test_an_output_that_exists(self, tmp_path, trained_run, index_path, examples_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(InputError, match="exists already"):
            score(trained_run, index_path, examples_path, tmp_path)
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
    def test_a_damaged_index(self, tmp_path, trained_run, index_path, examples_path, damage):
        copy = shutil.copytree(index_path, tmp_path / "index")
        file = copy / "representation" / "0.npy"
        content = bytearray(file.read_bytes())
        if damage == "flip":
            content[-5] ^= 4
            file.write_bytes(content)
        elif damage == "truncate":
            file.write_bytes(content[:-40])
        else:
            file.unlink()
        with pytest.raises(InputError, match=r"representation/0\.npy is (damaged|missing): "):
            score(trained_run, copy, examples_path, tmp_path / "scores")

    def test_no_index(self, tmp_path, trained_run, examples_path):
        with pytest.raises(InputError, match="Expected the --out of `interactrank index`"):
            score(trained_run, tmp_path / "nowhere", examples_path, tmp_path / "scores")

    def test_examples_given_as_the_index(self, tmp_path, trained_run, examples_path):
        with pytest.raises(InputError, match=r"no index .*the --out of `interactrank index`"):
            score(trained_run, examples_path, examples_path, tmp_path / "scores")

    def test_a_run_without_a_model(self, tmp_path, trained_run, examples_path):
        shutil.copytree(trained_run / "encoder", tmp_path / "run" / "encoder")
        shutil.copy(trained_run / "config.json", tmp_path / "run")
        with pytest.raises(InputError, match="no model yet"):
            build_index(tmp_path / "run", examples_path, tmp_path / "index")

    def test_an_index_of_a_model_that_does_not_decouple(self, tmp_path, examples):
        Run(tmp_path / "run", tiny_config("deepfm"), examples.metadata).claim(examples)
        with pytest.raises(InputError, match=r"'deepfm' model, a network over each pair"):
            build_index(tmp_path / "run", examples.path, tmp_path / "index")


@pytest.mark.long  # trains a model for itself
def test_fit_is_served_by_the_number_of_an_items_meta_query(tmp_path, examples):
    """Through the index an item scores what the model's own forward pass gives it, hard mode."""
    workdir, path = tmp_path / "run", tmp_path / "index"
    train(tiny_config("fit"), examples.path, workdir)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    logged = [entry for entry in map(json.loads, lines) if "train/loss" in entry]
    usage = [name for name in logged[-1] if name.startswith("train/model/meta_usage/")]
    assert sum(logged[-1][name] for name in usage) == pytest.approx(1, abs=1e-5)
    assert 0 < logged[0]["train/model/query_similarity"] <= 1 + 1e-5
    build_index(workdir, examples.path, path)
    run = Run.open(workdir)
    model, _ = run.restore_model()
    index = Index(path, run, model, examples)
    assert index.items.meta.dtype == np.int32
    assert len(np.unique(index.items.meta)) > 1
    scorer = CorpusScorer(run.model, model["params"], index.items, run.rule.utility)
    batch = next(iter(evaluation_batches(examples, "test", 45)))
    cross = examples.sparse_cross("test").padded(batch["request_index"], scorer.num_items)
    scores = np.asarray(scorer.scores(QueryEncoder(run, model, examples)(batch), *cross))
    own = own_logits(run, model, examples)
    for row, column in np.argwhere(batch["mask"]):
        key = int(batch["request_index"][row]), int(batch["item"][row, column])
        assert scores[row, key[1]] == pytest.approx(own[key], abs=1e-4)


def test_integer_ids_stay_integers(tmp_path, trained_run, examples_path):
    """The nulls of the padding row must not turn them into floats."""
    import pyarrow as pa

    copy = shutil.copytree(examples_path, tmp_path / "examples")
    ids = pa.table({"item_id": pa.array([None, *range(2**53 + 1, 2**53 + 81)])})
    pq.write_table(ids, copy / "items" / "ids.parquet")
    write_metadata(copy, Examples(copy).metadata)
    build_index(trained_run, copy, tmp_path / "index")
    saved = pq.read_table(tmp_path / "index" / "ids.parquet")["item_id"]
    assert saved.to_pylist()[:2] == [None, 2**53 + 1]


def test_the_index_records_where_it_came_from(index_path, examples):
    metadata = json.loads((index_path / "index.json").read_text())
    assert metadata["examples_digest"] == examples.metadata.digest
    assert metadata["items"] == examples.num_items


def test_evaluation_batches_and_scores_agree_on_the_slate(opened, examples):
    run, model, index = opened
    batch = next(iter(evaluation_batches(examples, "test", 45)))
    expected = dense_scores(run, model, index, examples, batch)
    own = own_logits(run, model, examples)
    for row, column in np.argwhere(batch["mask"]):
        key = int(batch["request_index"][row]), int(batch["item"][row, column])
        assert expected[row, key[1]] == pytest.approx(own[key], abs=1e-5)
