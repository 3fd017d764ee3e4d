"""Buckets and parts of the counting bound memory: neither changes what an example holds."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from interactrank_jax.examples import candidates, splits
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.io import files
from interactrank_jax.log.schema import Schema
from tests.golden import canonical
from tests.log.handmade_log import (
    ACTIONS,
    FEATURES,
    data_config,
    make_tables,
    random_config,
    write_log,
)
from tests.marks import some_quick

OPTIONS = {
    "cross.features": ("share:click:7", "rate:click:30", "item_rate:save:30:country"),
    "cross.backoff.strength": 3.0,
    "cross.backoff.query_form": "query_text",
    "history.rates": ("save",),
}
CONFIGS = {"clean_time": data_config(**OPTIONS), "clean_random": random_config(**OPTIONS)}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "log", make_tables(120))


@pytest.fixture(scope="module", params=some_quick(CONFIGS, ["clean_time"]))
def protocol(request):
    return request.param


@pytest.fixture(scope="module")
def whole(protocol, log, tmp_path_factory):
    """Examples that are one bucket a split, counted in one part."""
    out = tmp_path_factory.mktemp(protocol) / "examples"
    prepare(CONFIGS[protocol], log, out)
    return Examples(out)


def values_of(examples: Examples) -> dict[str, np.ndarray]:
    """Everything that a model sees, examples sorted by request and candidates."""
    return dict(canonical.columns(examples))


def differences(first: Examples, second: Examples) -> list[str]:
    before, after = values_of(first), values_of(second)
    assert before.keys() == after.keys()
    return [name for name in before if not np.array_equal(before[name], after[name])]


def order_of(examples: Examples, split: str) -> np.ndarray:
    """Returns request, first item and fold of each example, as they are written, `[E, 3]`."""
    result = []
    for block in examples.blocks(split):
        request = block["request_index"]
        fold = block.get("fold", np.zeros_like(request))
        result.append(np.stack([request, block["item"][:, 0], fold], axis=1))
    return np.concatenate(result)


@pytest.mark.long  # prepares a log several times
def test_neither_buckets_nor_parts_change_any_value(protocol, log, whole, tmp_path, monkeypatch):
    # Of the parts of the counting some are empty: there are fewer queries than parts.
    monkeypatch.setattr(splits, "BUCKET_CANDIDATES", 40)
    monkeypatch.setattr(candidates, "ROWS_AT_ONCE", 100)
    prepare(CONFIGS[protocol], log, tmp_path / "out")
    examples = Examples(tmp_path / "out")
    assert differences(whole, examples) == []
    assert examples.encoder.digest == whole.encoder.digest
    for split in splits.SPLITS:
        sizes, expected = examples.split(split), whole.split(split)
        assert (sizes.examples, sizes.candidates) == (expected.examples, expected.candidates)
        assert (sizes.requests, sizes.actions) == (expected.requests, expected.actions)
    for split in ("validation", "test"):
        order = order_of(examples, split)
        assert np.array_equal(order, order_of(whole, split))
        assert (np.diff(order[:, 0]) >= 0).all()
    order, order_of_whole = order_of(examples, "train"), order_of(whole, "train")
    assert not np.array_equal(order, order_of_whole)
    assert sorted(order.tolist()) == sorted(order_of_whole.tolist())
    # The first buckets are of requests from all over.
    first = order[: len(order) // 4, 0]
    assert first.min() < 0.2 * order[:, 0].max()
    assert first.max() > 0.8 * order[:, 0].max()


def test_a_bucket_holds_no_more_than_it_may_but_for_its_last_request(monkeypatch):
    monkeypatch.setattr(splits, "BUCKET_CANDIDATES", 10)
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 9, (3, 60))
    sizes[1, 7] = 35  # skips some cuts
    sizes[:2, 11] = 0
    buckets, bucket = splits._cut(sizes, seed=0)
    assert [one.number for one in buckets] == list(range(len(buckets)))
    assert np.array_equal(bucket == -1, sizes == 0)
    for index, name in enumerate(splits.SPLITS):
        numbers = [one.number for one in buckets if one.split == name]
        assert np.array_equal(np.unique(bucket[index][sizes[index] > 0]), numbers)
        for number in numbers:
            of_bucket = sizes[index, bucket[index] == number]
            assert of_bucket.sum() < 10 + of_bucket.max()
        if name != "train":  # evaluation follows the order of requests
            assert (np.diff(bucket[index][sizes[index] > 0]) >= 0).all()


def digests_of(path):
    """By name the digest of every file that a model reads."""
    digests = files.file_digests(path)
    apart = ("metadata", "raw", "state")
    return {name: digest for name, digest in digests.items() if not name.startswith(apart)}


@pytest.mark.long  # prepares a log several times
def test_bytes_do_not_depend_on_the_files_and_rows_of_the_log(protocol, whole, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "log").mkdir()
    Schema(FEATURES, ACTIONS).save(tmp_path / "log")
    for name, table in make_tables(120).items():
        table = table.take(rng.permutation(len(table)))
        (tmp_path / "log" / name).mkdir()
        for number, rows in enumerate(np.array_split(np.arange(len(table)), 5)):
            pq.write_table(table.take(rows), tmp_path / "log" / name / f"{number}.parquet")
    prepare(CONFIGS[protocol], tmp_path / "log", tmp_path / "out")
    digests = digests_of(tmp_path / "out")
    assert digests == digests_of(whole.path)
    assert any(name.startswith("train/blocks-") for name in digests)
    order = order_of(whole, "train")
    assert not (np.diff(order[:, 0]) >= 0).all()  # of requests, it is a permutation


@pytest.mark.long  # prepares a log several times
def test_bytes_do_not_depend_on_the_parts_of_the_counting(
    protocol, log, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(candidates, "ROWS_AT_ONCE", 60)
    prepare(CONFIGS[protocol], log, tmp_path / "out")
    assert digests_of(tmp_path / "out") == digests_of(whole.path)


@pytest.mark.long  # prepares a log several times
def test_another_seed_is_another_order_of_the_same_examples(log, tmp_path):
    orders = []
    for seed in (0, 1):
        prepare(data_config(seed=seed), log, tmp_path / str(seed))
        orders.append(order_of(Examples(tmp_path / str(seed)), "train").tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
