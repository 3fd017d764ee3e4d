"""Ragged cross features of whole requests: of every item that has a value, for those sampled."""

import dataclasses
import shutil

import ibis
import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.evaluation import evaluate
from interactrank_jax.examples import corpus
from interactrank_jax.examples.candidates import cross_values
from interactrank_jax.examples.corpus import sampled
from interactrank_jax.examples.format import NO_GROUP, Examples, SparseCross, write_metadata
from interactrank_jax.examples.plan import make_plan
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.examples.rates import item_means
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.ranking.index import build_index
from interactrank_jax.ranking.score import score
from interactrank_jax.state import engines
from interactrank_jax.state.as_of import counts_as_of
from interactrank_jax.state.histories import NO_FOLD
from interactrank_jax.state.source import Source
from interactrank_jax.state.store import open_store
from interactrank_jax.training.train import train
from tests.log.handmade_log import data_config, make_tables, write_log
from tests.synthetic import tiny_config, without_blocks

EVALUATION = ("validation", "test")
ALL_KINDS = ("share:click:7", "share:save:30:country", "item_share:click:9", "rate:click:14",
             "item_rate:save:30:country")  # fmt: skip
FORMS = {"cross.backoff.strength": 2.0, "cross.backoff.query_form": "query_text"}
OF_QUERIES = ALL_KINDS[:2]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "log", make_tables(100))


def _every_item(sparse: SparseCross, request: int, items: int) -> np.ndarray:
    """Returns the features of all items for a request, `[I, K]`."""
    group = sparse.group[request]
    rows = slice(sparse.indptr[group], sparse.indptr[group + 1])
    dense = np.zeros((items, sparse.value.shape[1]), np.float32)
    dense[sparse.item[rows]] = sparse.value[rows]
    return dense


def _counted_one_by_one(config, log_path, examples: Examples, scratch) -> dict[str, np.ndarray]:
    """Returns the features of all items, `[I, K]`, of every request, with no pair left out."""
    log = open_log(log_path)
    plan = make_plan(config, log)
    with engines.connect("duckdb", scratch / "engine") as backend:
        store = open_store(examples.path / "state", log)
        source = Source(log, plan.cross, backend)
        if plan.cross.query_form:
            source = dataclasses.replace(source, forms=store.all_forms(source))
        rows = np.arange(1, examples.num_items, dtype=np.int32)
        items = pa.table({"item": pa.array(examples.item_ids[1:]), "item_row": rows})
        asked = source.asked()
        if plan.timeless:
            asked = asked.mutate(period=ibis.literal(NO_FOLD, "int32"))
        pairs = asked.cross_join(engines.write_arrow(backend, items, scratch / "items"))
        (counted,), places = counts_as_of(source.with_fresh(pairs), store, source)
        table = backend.to_pyarrow(counted)
    counts = {name: table[name].to_numpy() for name in set(places.values())}
    means = item_means(examples.encoder.mean_rates)
    values = cross_values(plan.cross, counts, places, means, len(table))
    result: dict[str, np.ndarray] = {}
    for request, row, value in zip(
        table["request_id"].to_pylist(), table["item_row"].to_pylist(), values, strict=True
    ):
        shape = (examples.num_items, values.shape[1])
        result.setdefault(request, np.zeros(shape, np.float32))[row] = value
    return result


@pytest.mark.long  # prepares a log several times
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"cross.features": OF_QUERIES}, marks=pytest.mark.thorough),
        {"cross.features": ALL_KINDS, "protocol": "clean_random"},
        pytest.param({"cross.features": OF_QUERIES, **FORMS}, marks=pytest.mark.thorough),
        {"cross.features": (*ALL_KINDS, "share:click:9:fresh"), "cross.fresh_days": 9, **FORMS},
    ],
    ids=["queries", "random split", "forms", "everything"],
)
def test_whole_requests_hold_every_item_with_a_value(options, log, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "PAIRS_AT_ONCE", 300)  # several queries to the engine
    config = data_config(**options)
    prepare(config, log, tmp_path / "examples")
    examples = Examples(tmp_path / "examples")
    expected = _counted_one_by_one(config, log, examples, tmp_path)
    for split in EVALUATION:
        sparse = examples.sparse_cross(split)
        requests = examples.raw_requests(split)["request_id"].to_pylist()
        for index, request in enumerate(requests):
            values = _every_item(sparse, index, examples.num_items)
            assert np.array_equal(values, expected[request])
        assert sparse.value.any(axis=1).all()
        for low, high in zip(sparse.indptr[:-1], sparse.indptr[1:], strict=True):
            assert (np.diff(sparse.item[low:high]) > 0).all()
        # The slates hold the same bits.
        for block in examples.blocks(split):
            for example, index in enumerate(block["request_index"]):
                mask = block["mask"][example]
                of_slate = expected[requests[index]][block["item"][example][mask]]
                assert np.array_equal(block["cross"][example][mask], of_slate)


def test_requests_alike_share_one_group(tmp_path):
    tables = make_tables(100)
    config = data_config(**{"cross.features": OF_QUERIES})
    prepare(config, write_log(tmp_path / "log", tables), tmp_path / "examples")
    examples = Examples(tmp_path / "examples")
    sparse = examples.sparse_cross("test")
    raw = examples.raw_requests("test").to_pylist()
    keys = [(row["query_id"], row["timestamp"] // 86_400, row["country"]) for row in raw]
    pairs = set(zip(keys, sparse.group.tolist(), strict=True))
    assert len(pairs) == len(set(keys)) == len(sparse.indptr) - 1 < len(raw)


def test_without_cross_features_the_lists_are_empty(log, tmp_path):
    prepare(data_config(**{"cross.features": ()}), log, tmp_path / "examples")
    examples = Examples(tmp_path / "examples")
    for split in EVALUATION:
        sparse = examples.sparse_cross(split)
        assert len(sparse.group) == examples.split(split).requests
        assert (sparse.group != NO_GROUP).all()
        assert not len(sparse.item)
        assert sparse.value.shape == (0, 0)


# --- Of some requests ----------------------------------------------------------------------------

LIMIT = 4


def _config(**data):
    """A run config for the handmade log."""
    config = tiny_config("interactrank")
    config.data = data_config(**{"cross.features": ALL_KINDS, **data})
    config.model.sequence.features = ("item_id", "brand")
    without_blocks(config)
    config.train.update({"max_steps": 2, "eval_every": 2})
    config.evaluate.corpus_requests = 0
    return config


@pytest.fixture(scope="module")
def whole(log, tmp_path_factory):
    """Examples with the features of all requests."""
    path = tmp_path_factory.mktemp("whole") / "examples"
    prepare(_config().data, log, path)
    return Examples(path)


@pytest.fixture(scope="module")
def limited(log, tmp_path_factory):
    """The same, of so many requests of each split alone."""
    path = tmp_path_factory.mktemp("limited") / "examples"
    prepare(_config(**{"cross.corpus_requests": LIMIT}).data, log, path)
    return Examples(path)


@pytest.fixture(scope="module")
def run(limited, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    train(_config(**{"cross.corpus_requests": LIMIT}), limited.path, workdir)
    return workdir


def test_a_sample_depends_on_the_seed_alone():
    requests = np.arange(7, 300, 3)
    chosen = sampled(requests, 20, seed=1)
    assert len(np.unique(chosen)) == 20
    assert (np.diff(chosen) > 0).all()
    assert np.isin(chosen, requests).all()
    assert np.array_equal(chosen, sampled(requests, 20, seed=1))
    assert not np.array_equal(chosen, sampled(requests, 20, seed=2))
    assert np.array_equal(sampled(requests, len(requests), seed=1), requests)


@pytest.mark.long  # prepares a log several times
@pytest.mark.parametrize("split", EVALUATION)
def test_sampled_requests_have_the_values_of_an_unlimited_preparation(split, whole, limited):
    every, some = whole.sparse_cross(split), limited.sparse_cross(split)
    assert len(every.group) == len(some.group) > LIMIT
    assert (every.group != NO_GROUP).all()
    chosen = np.flatnonzero(some.group != NO_GROUP)
    assert len(chosen) == LIMIT
    for request in chosen:
        expected = _every_item(every, request, whole.num_items)
        assert np.array_equal(_every_item(some, request, limited.num_items), expected)
        assert expected.any()
    assert np.array_equal(np.unique(some.group), np.arange(NO_GROUP, len(some.indptr) - 1))
    items, values = some.padded(np.arange(len(some.group)), limited.num_items)
    assert (items[some.group == NO_GROUP] == limited.num_items).all()
    assert not values[some.group == NO_GROUP].any()


@pytest.mark.long  # prepares a log several times
def test_a_sample_changes_nothing_but_the_lists(whole, limited):
    assert whole.encoder.digest == limited.encoder.digest
    for split in whole.metadata.splits:
        blocks = zip(whole.blocks(split), limited.blocks(split), strict=True)
        for before, after in blocks:
            assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.long  # trains a model for itself
def test_corpus_metrics_are_those_of_the_sampled_requests(run, whole, limited):
    config = _config().evaluate
    of_sample = evaluate.evaluate(run, limited.path, "test", config)
    of_all = evaluate.evaluate(run, whole.path, "test", config)
    assert 0 < of_sample["corpus_requests"] <= LIMIT < of_all["corpus_requests"]
    for name in ("roc_auc", "ndcg_at_10"):
        assert of_sample["metrics"][name] == of_all["metrics"][name]
    assert 0 <= of_sample["metrics"]["recall_at_10"] <= 1


@pytest.mark.long  # trains a model for itself
def test_without_any_engaged_request_in_the_sample_there_is_no_recall(run, limited, tmp_path):
    path = shutil.copytree(limited.path, tmp_path / "examples")
    file = path / "cross" / "test" / "group.npy"
    np.save(file, np.full_like(np.load(file), NO_GROUP))
    write_metadata(path, limited.metadata)
    result = evaluate.evaluate(run, path, "test", _config().evaluate)
    assert result["corpus_requests"] == 0
    assert not any(name.startswith("recall") for name in result["metrics"])
    assert np.isfinite(list(result["metrics"].values())).all()


@pytest.mark.long  # trains a model for itself
def test_scoring_with_the_corpus_refuses_requests_without_features(run, limited, tmp_path):
    build_index(run, limited.path, tmp_path / "index")
    advice = r"of split 'test' have no cross features.*--config\.data\.cross\.corpus_requests=0"
    with pytest.raises(InputError, match=advice):
        score(run, tmp_path / "index", limited.path, tmp_path / "scores", candidates="corpus")
    assert not (tmp_path / "scores").exists()
    rows = score(run, tmp_path / "index", limited.path, tmp_path / "scores", candidates="slate")
    assert rows
