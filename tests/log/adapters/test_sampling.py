"""Negatives are drawn from what existed and was not taken, in the right proportions."""

import numpy as np
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters import sampling
from interactrank_jax.log.adapters.sampling import NEVER, Rows, draw, existence
from interactrank_jax.log.negatives import SampledNegatives

A, B, C, D = range(4)
METHODS = pytest.mark.parametrize("method", ["uniform", "popularity"])


@pytest.fixture(params=["rejection", "item by item"])
def way(request, monkeypatch):
    """Both ways of drawing: the second is what is left to it, here everything."""
    if request.param == "item by item":
        monkeypatch.setattr(sampling, "_ROUNDS", 0)


def rows_of(*rows):
    """Returns rows of (user, item, second, is_success)."""
    user, item, time, is_success = (np.array(column) for column in zip(*rows, strict=True))
    return Rows.from_columns(user, item, is_success.astype(bool), time)


def drawn(negatives, rows, exists, *requests):
    """Returns the items drawn for requests of (time, user, positives), a sorted list each."""
    time, user, positives = (np.array(column) for column in zip(*requests, strict=True))
    request, item = draw(negatives, rows, exists, time=time, user=user, positives=positives)
    assert (np.diff(request) >= 0).all()
    return [sorted(item[request == r].tolist()) for r in range(len(requests))]


def test_an_item_exists_after_its_first_row_or_as_its_date_says():
    rows = rows_of((0, B, 10, True), (1, B, 20, True), (1, A, 30, False))
    assert existence(rows, 4, None).tolist() == [31, 11, NEVER, NEVER]
    dates = np.array([40, 40, 40, 5])
    assert existence(rows, 4, dates).tolist() == [31, 11, 40, 5]
    timeless = Rows.from_columns(rows.user, rows.item, rows.is_success, None)
    assert existence(timeless, 4, None).tolist() == [0, 0, NEVER, NEVER]


@METHODS
def test_what_is_left_is_drawn_and_no_more(method, way):
    rows = rows_of(
        (0, A, 10, True), (0, B, 20, True), (1, C, 30, True), (2, D, 95, True),
        (0, D, 200, True), (3, A, 210, True), (3, B, 210, True), (3, C, 210, True),
        (3, D, 210, True),
    )  # fmt: skip
    exists, three = existence(rows, 4, None), SampledNegatives(method, 3)
    assert drawn(
        three,
        rows,
        exists,
        (10, 1, 1),  # A's first row is of this very second: nothing exists yet
        (11, 1, 1),
        (100, 0, 1),  # D will be taken, in second 200
        (100, 1, 2),  # six are asked for
        (100, 2, 0),  # no positive, no negative
        (300, 3, 1),  # took everything
    ) == [[], [A], [C], [A, B, D], [], []]


@METHODS
@pytest.mark.parametrize("seed", range(6))
def test_random_logs(method, seed, monkeypatch):
    monkeypatch.setattr(sampling, "SLOTS_AT_ONCE", 50)  # many parts
    monkeypatch.setattr(sampling, "_ROUNDS", seed)
    rng = np.random.default_rng(seed)
    users, items, count = 40, 25, 300
    time = np.sort(rng.integers(0, 1_000, count))
    user, item = rng.integers(0, users, count), rng.integers(0, rng.integers(12, items), count)
    created = rng.integers(-50, 2_000, items) if seed % 2 else None
    rows = Rows.from_columns(user, item, rng.random(count) < 0.7, time)
    exists = existence(rows, items, created)
    asked = {"time": np.sort(rng.integers(0, 1_100, 80)), "user": rng.integers(0, users, 80)}
    asked["positives"] = rng.integers(0, 4, 80)
    negatives = SampledNegatives(method, 3, seed)
    request, negative = draw(negatives, rows, exists, **asked)
    taken = set(zip(user.tolist(), item.tolist(), strict=True))
    for r in range(80):
        of_request = negative[request == r].tolist()
        at, who = asked["time"][r], int(asked["user"][r])
        left = {i for i in range(items) if exists[i] <= at and (who, i) not in taken}
        assert set(of_request) <= left
        assert len(set(of_request)) == len(of_request)
        assert len(of_request) == min(3 * asked["positives"][r], len(left))
    again = draw(negatives, rows, exists, **asked)
    assert np.array_equal(request, again[0])
    assert np.array_equal(negative, again[1])
    other = draw(SampledNegatives(method, 3, seed + 1), rows, exists, **asked)
    assert not np.array_equal(negative, other[1])


def shares(method, rows, exists, time):
    """Returns how often each item is drawn, one at a time, for users who took item D alone."""
    many = 20_000
    user = 100 + np.arange(many)
    everyone = np.concatenate([rows.user, user])
    item = np.concatenate([rows.item, np.full(many, D)])
    since = np.concatenate([rows.since, np.full(many, time + 1)])
    is_success = np.concatenate([rows.is_success, np.ones(many, bool)])
    whole = Rows(everyone, item, is_success, since)
    asked = {"time": np.full(many, time), "user": user, "positives": np.ones(many, int)}
    _, negative = draw(SampledNegatives(method, 1), whole, exists, **asked)
    assert len(negative) == many
    return np.bincount(negative, minlength=4), many


def chi_square(counts, expected):
    expected = np.array(expected, float)
    assert not counts[expected == 0].any()
    kept = expected > 0
    return ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()


# A was taken once, B twice, C four times before second 100, and A a hundred times after it.
PAST = [(0, A, 1), (0, B, 2), (1, B, 3), *((u, C, 4) for u in range(4)), (0, D, 5)]
FUTURE = [(u % 50, A, 500) for u in range(100)]
HISTORY = [(*row, True) for row in PAST + FUTURE]


def test_by_popularity_items_are_drawn_as_often_as_they_were_taken_before(way):
    rows = rows_of(*HISTORY)
    counts, many = shares("popularity", rows, existence(rows, 4, None), 100)
    assert chi_square(counts, np.array([1, 2, 4, 0]) / 7 * many) < 13.8  # p = .001, 2 df


def test_uniformly_items_are_drawn_equally_often(way):
    rows = rows_of(*HISTORY)
    counts, many = shares("uniform", rows, existence(rows, 4, None), 100)
    assert chi_square(counts, np.array([1, 1, 1, 0]) / 3 * many) < 13.8


def test_a_failure_is_no_popularity_and_an_item_without_success_counts_one(way):
    """C failed only, twice; the date of A lies before its first success, so that it has two."""
    rows = rows_of((0, C, 1, False), (1, C, 2, False), (0, B, 3, True), (0, A, 50, True))
    exists = existence(rows, 4, np.array([20, 60, 60, 10]))
    counts, many = shares("popularity", rows, exists, 100)
    assert chi_square(counts, np.array([2, 1, 1, 0]) / 4 * many) < 13.8
    counts, many = shares("popularity", rows, exists, 30)  # not yet taken
    assert chi_square(counts, np.array([1, 1, 1, 0]) / 3 * many) < 13.8


def test_several_draws_are_in_proportion_to_what_is_left(way):
    """Of weights 1, 2 and 4, two draws leave out A in 4/7 2/3 + 2/7 4/5 of all cases."""
    rows, many = rows_of(*HISTORY), 20_000
    everyone = np.concatenate([rows.user, 100 + np.arange(many)])
    whole = Rows(
        everyone,
        np.concatenate([rows.item, np.full(many, D)]),
        np.ones(len(everyone), bool),
        np.concatenate([rows.since, np.full(many, 101)]),
    )
    asked = {"time": np.full(many, 100), "user": 100 + np.arange(many)}
    asked["positives"] = np.ones(many, int)
    _, item = draw(SampledNegatives("popularity", 2), whole, existence(rows, 4, None), **asked)
    without_a = 1 - (item == A).sum() / many
    expected = 4 / 7 * 2 / 3 + 2 / 7 * 4 / 5
    assert abs(without_a - expected) < 4 * np.sqrt(expected * (1 - expected) / many)


def test_a_declaration_is_read_as_it_is_written():
    negatives = SampledNegatives.parse("popularity:12", seed=3)
    assert negatives == SampledNegatives("popularity", 12, 3)
    assert SampledNegatives.from_json(negatives.to_json()) == negatives
    assert "12 sampled for each positive, in proportion to" in negatives.describe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unifrom:4", "Did you mean 'uniform'"),
        ("uniform", "Expected the number of negatives of each positive, .* such as uniform:4"),
        ("uniform:0", "1 to 1,000"),
        ("popularity:many", "such as popularity:4"),
        ("uniform:1001", "rank among all items"),
    ],
)
def test_a_wrong_declaration_says_what_is_expected(text, message):
    with pytest.raises(InputError, match=message):
        SampledNegatives.parse(text)


@pytest.mark.parametrize(
    "value", [["uniform"], {"method": "uniform"}, {"method": 3, "per_positive": 1},
              {"method": "uniform", "per_positive": 1.5}, {"method": "uniform", "of": 1}],
)  # fmt: skip
def test_a_declaration_that_was_edited_is_refused(value):
    with pytest.raises(InputError, match="negatives"):
        SampledNegatives.from_json(value)
