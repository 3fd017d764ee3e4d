"""The three protocols: two do not leak, and the one that does is what was published."""

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.config import data_sets
from interactrank_jax.examples import leaks
from interactrank_jax.examples.format import Examples, describe_protocol
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.examples.protocols import LeakingMeans
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.movielens import convert
from tests.log.adapters.raw_movielens import T0, write
from tests.log.handmade_log import (
    ACTIONS,
    data_config,
    make_tables,
    published_config,
    random_config,
    write_log,
)
from tests.marks import some_quick

SPLITS = ("train", "validation", "test")
RATES = ACTIONS[::-1]  # not in the order of the actions


@pytest.fixture(scope="module")
def movielens_log(tmp_path_factory):
    """Ratings of 40 users, some of them kinder, within an hour a day, in the layout of the 1M."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(1, 41):
        kindness = rng.random()
        for place, movie in enumerate(rng.choice(np.arange(1, 31), 12, replace=False)):
            stars = rng.choice([1, 2, 3, 4, 5], p=[(0.9 - 0.9 * kindness) / 2] * 2 + [0.1] +
                               [0.9 * kindness / 2] * 2)  # fmt: skip
            second = T0 + (user % 20) * 86_400 + place // 4 * 86_400 + place
            lines.append(f"{user}::{movie}::{stars}::{second}")
    root = tmp_path_factory.mktemp("movielens")
    layout = {
        "ratings.dat": lines,
        "movies.dat": [f"{movie}::Movie {movie} (1990)::Drama|Comedy" for movie in range(1, 31)],
        "users.dat": [f"{user}::{'MF'[user % 2]}::25::{user % 3}::9" for user in range(1, 41)],
    }
    convert(write(root / "source", layout), root / "log")
    return root / "log"


def movielens_config(protocol):
    data = data_sets.movielens_data(protocol)
    data.update({"slate": 4, "block_size": 64})
    data.text.update({"buckets": 50, "max_tokens": 4})
    return data


@pytest.mark.long  # every feature is counted again
@pytest.mark.parametrize("protocol", some_quick(["clean_time", "clean_random"], ["clean_time"]))
def test_a_clean_protocol_does_not_leak(movielens_log, protocol):
    result = leaks.check(movielens_config(protocol), movielens_log)
    assert result.pop("protocol") == protocol
    assert set(result.values()) == {"nothing moved"}
    assert len(result) == 3


def test_the_published_protocol_leaks_and_the_detector_says_where(movielens_log):
    report = leaks.examine(movielens_config("published"), movielens_log)
    assert report.protocol == "published"
    assert str(report).startswith("protocol: published")
    own, evaluation = report.checks[:2]
    found = {(leak.check, leak.feature, leak.split) for leak in report.leaks}
    assert {
        (own, "user_mean_like", "train"),
        (own, "item_mean_like", "items"),
        (evaluation, "user_mean_like", "test"),
        (evaluation, "item_mean_like", "items"),
    } <= found
    assert all("mean" in feature for _, feature, _ in found if feature != "training features")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The handmade log under `published`, and what it was made of."""
    tables, root = make_tables(timeless=True), tmp_path_factory.mktemp("published")
    config = published_config(**{"history.rates": RATES})
    prepare(config, write_log(root / "log", tables), root / "examples")
    return Examples(root / "examples"), tables


def rows_of(examples):
    """Yields split, user, item, labels, user means and item means of every impression."""
    for split in SPLITS:
        users = examples.raw_requests(split)["user_id"].to_pylist()
        for block in examples.blocks(split):
            for e, request in enumerate(block["request_index"]):
                for place in np.flatnonzero(block["mask"][e]):
                    store_row = block["item"][e, place]
                    yield (
                        split,
                        users[request],
                        examples.item_ids[store_row],
                        block["actions"][e, place],
                        block["request_numeric"][e, -2:],
                        examples.items["numeric"][store_row, -2:],
                    )


def test_published_means_hold_the_own_label_of_training_with_validation_and_of_test(published):
    examples, _ = published
    rows = list(rows_of(examples))
    checked = 0
    for split, user, item, _, user_means, item_means in rows:
        part = [row for row in rows if (row[0] == "test") == (split == "test")]
        for key, place, means in ((user, 1, user_means), (item, 2, item_means)):
            labels = np.mean([row[3] for row in part if row[place] == key], axis=0)
            np.testing.assert_allclose(means, labels[::-1], rtol=1e-6)  # as RATES names them
            checked += 1
    assert checked == 2 * len(rows) > 1000


def test_leaking_means_are_those_of_both_parts_whatever_the_order():
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 5, 90), rng.integers(1, 4, 90)
    labels, split = rng.integers(0, 2, (90, 2)), rng.choice(SPLITS, 90)
    user[user == 4], item[item == 3] = 3, 2  # a user and an item without rows
    leaking = LeakingMeans(("save", "click"), users=5, items=3)
    for rows in np.array_split(rng.permutation(90), 7):
        for name in SPLITS:
            part = rows[split[rows] == name]
            leaking.add(user[part], item[part], labels[part], name)
    raw = pa.table({"item_id": [None, "a", "b", "c"]})
    items = leaking.both_items(raw)
    assert items["item_id"].to_pylist() == [None, "a", "b", "c", "a", "b", "c"]
    for copy, part in enumerate((split != "test", split == "test")):
        of_users = leaking.of_users("test" if copy else "train")
        for number in range(5):
            own = labels[part & (user == number)]
            expected = own.mean(axis=0) if len(own) else [0, 0]
            np.testing.assert_allclose(of_users[number], expected, rtol=1e-12)
        for row in range(1, 4):
            own = labels[part & (item == row)]
            expected = own.mean(axis=0) if len(own) else [0, 0]
            means = [items[f"item_mean_{name}"][row + 3 * copy].as_py() for name in leaking.names]
            np.testing.assert_allclose(means, expected, rtol=1e-12)
    assert leaking.of_users("validation").tolist() == leaking.of_users("train").tolist()


def test_the_two_copies_of_an_item_share_everything_but_the_means(published):
    examples, tables = published
    count = len(tables["items"])
    assert examples.item_ids.tolist() == [None, *sorted(tables["items"]["item_id"].to_pylist()) * 2]
    first, second = slice(1, count + 1), slice(count + 1, None)
    for name, values in examples.items.items():
        if name == "numeric":
            assert np.array_equal(values[first, :-2], values[second, :-2])
            assert not np.array_equal(values[first, -2:], values[second, -2:])
        elif name == "count":
            assert values[first].any()
            assert not values[second].any()  # training never sees the copy of the test
        else:
            assert np.array_equal(values[first], values[second]), name


def test_published_features_say_what_they_are(published):
    examples, _ = published
    names = [(feature.name, feature.entity) for feature in examples.metadata.features][-4:]
    assert names == [
        ("user_mean_save", "user"),
        ("item_mean_save", "item"),
        ("user_mean_click", "user"),
        ("item_mean_click", "item"),
    ]
    assert examples.metadata.protocol == "published"
    assert describe_protocol("published") == "published, which leaks the label"
    assert not examples.has_corpus("test")
    assert not examples.metadata.cross


def test_publishing_warns(tmp_path, caplog):
    log = write_log(tmp_path / "log", make_tables(60, timeless=True))
    prepare(published_config(), log, tmp_path / "out")
    assert "LEAKS THE LABEL" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("history.actions", ("click",)),
        ("query_history.actions", ("click",)),
        ("cross.features", ("share:click:7",)),
        ("history.rates", ()),
    ],
)
def test_published_takes_nothing_but_means(tmp_path, field, value):
    log = write_log(tmp_path / "log", make_tables(20, timeless=True))
    with pytest.raises(InputError, match=rf"config\.data\.{field} is .*published"):
        prepare(published_config(**{field: value}), log, tmp_path / "out")


@pytest.mark.parametrize("old_protocol", ["published", "clean_random"])
def test_published_examples_are_not_extended(tmp_path, old_protocol):
    log = write_log(tmp_path / "log", make_tables(60, timeless=True))
    configs = [published_config(), random_config()]
    old, new = configs if old_protocol == "published" else configs[::-1]
    prepare(old, log, tmp_path / "old")
    with pytest.raises(InputError, match="protocol 'published' are not extended"):
        prepare(new, log, tmp_path / "new", extend=tmp_path / "old")


def test_a_clean_protocol_is_named_in_the_metadata(tmp_path):
    log = write_log(tmp_path / "log", make_tables(60))
    for config in (data_config(), random_config()):
        metadata = prepare(config, log, tmp_path / config.protocol)
        assert metadata.protocol == config.protocol
        assert Examples(tmp_path / config.protocol).has_corpus("test")
