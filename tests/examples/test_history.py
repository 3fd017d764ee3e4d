import numpy as np
import pytest

from interactrank_jax.examples import history
from interactrank_jax.examples.engagements import Engagements
from interactrank_jax.state.days import SECONDS_PER_DAY

DAY = SECONDS_PER_DAY


def make_engagements(count: int = 400, seed: int = 0, folds: int = 5) -> Engagements:
    """Random engagements in order of arrival, many of one second, some without user or query."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.integers(0, 20, count) * DAY + rng.integers(0, 5, count))
    return Engagements(
        user=rng.integers(-1, 6, count).astype(np.int32),
        query=rng.integers(-1, 4, count).astype(np.int32),
        item=rng.integers(1, 15, count).astype(np.int32),
        action=rng.integers(0, 3, count).astype(np.int8),
        time=time,
        event_time=time - rng.integers(0, DAY, count),
        fold=rng.integers(0, folds, count).astype(np.int8),
        segments={"country": rng.integers(-1, 2, count).astype(np.int32)},
        weight=np.ones(count),
        is_counted=np.ones(count, bool),
    )


def _user_history(engagements: Engagements, **kwargs) -> history.UserHistory:
    defaults = {"users": 6, "actions": (0, 2), "length": 5, "delay_s": 60}
    return history.UserHistory(engagements, **(defaults | kwargs))


def _no_fold(count: int) -> np.ndarray:
    return np.full(count, history.NO_FOLD)


def test_histories_equal_a_loop_over_everything():
    engagements = make_engagements()
    rng = np.random.default_rng(1)
    user, timestamp = rng.integers(0, 6, 150), rng.integers(-5, 21, 150) * DAY + 62
    result = _user_history(engagements).last(user, timestamp, _no_fold(150))
    counts = _user_history(engagements).counts(user, timestamp, _no_fold(150), (0, 1, 2))
    for row in range(150):
        past = np.flatnonzero(
            (engagements.user == user[row]) & (engagements.time <= timestamp[row] - 60)
        )
        assert counts[row].tolist() == np.bincount(engagements.action[past], minlength=3).tolist()
        past = past[engagements.action[past] != 1][::-1][:5]
        padding = [0] * (5 - len(past))
        assert result.item[row].tolist() == engagements.item[past].tolist() + padding
        assert result.action[row].tolist() == (engagements.action[past] + 1).tolist() + padding
        age = (timestamp[row] - engagements.event_time[past]) / 3600
        np.testing.assert_allclose(result.age[row], [*age, *padding], rtol=1e-6)


@pytest.mark.parametrize(("gap", "known"), [(59, False), (60, True), (61, True)])
def test_an_engagement_is_known_once_it_arrived_delay_s_before(gap, known):
    engagements = make_engagements(1).take(np.array([0]))
    engagements.user[0], engagements.action[0], engagements.time[0] = 3, 0, 1000
    result = _user_history(engagements).last(np.array([3]), np.array([1000 + gap]), _no_fold(1))
    assert bool(result.item[0, 0]) == known


def test_a_user_without_a_past_has_an_empty_history():
    nothing = make_engagements().take(np.zeros(0, int))
    result = _user_history(nothing).last(np.arange(6), np.full(6, 10**6), _no_fold(6))
    assert not result.item.any()
    assert not result.age.any()
    args = np.arange(6), np.full(6, 10**6), _no_fold(6), (0, 1, 2)
    assert not _user_history(nothing).counts(*args).any()


def test_timeless_histories_hold_the_training_rows_of_other_folds():
    engagements = make_engagements()
    built = _user_history(engagements, delay_s=None, folds=5, length=400)
    user, fold = np.repeat(np.arange(6), 6), np.tile(np.arange(-1, 5), 6)
    zeros = np.zeros(36, np.int64)
    result, counts = built.last(user, zeros, fold), built.counts(user, zeros, fold, (0, 1, 2))
    for row in range(36):
        visible = (engagements.user == user[row]) & (engagements.fold != fold[row])
        assert counts[row].sum() == visible.sum()
        expected = engagements.item[visible & (engagements.action != 1)]
        found = result.item[row][result.item[row] > 0]
        assert sorted(found) == sorted(expected)


def test_rates_are_shrunk_and_zero_for_a_new_user():
    counts = np.array([[3, 1], [0, 0]])
    mean = np.array([[0.5, 0.125]] * 2)
    features = history.rate_features(counts, np.array([8, 0]), (0, 1), mean)
    np.testing.assert_allclose(features[0], [3, (3 - 4) / 13, 1, (1 - 1) / 13], rtol=1e-6)
    assert not features[1].any()
    names = [feature.name for feature in history.rate_names(("a", "b"), (0, 1))]
    assert names == ["user_count_a", "user_rate_a", "user_count_b", "user_rate_b"]


def test_counts_do_not_need_the_order_of_arrival():
    engagements = make_engagements()
    shuffled = engagements.take(np.random.default_rng(1).permutation(len(engagements)))
    user, time = np.arange(6), np.full(6, 12 * DAY)
    before = _user_history(engagements).counts(user, time, _no_fold(6), (0, 1, 2))
    after = _user_history(shuffled).counts(user, time, _no_fold(6), (0, 1, 2))
    np.testing.assert_array_equal(before, after)


def _top(engagements: Engagements, visible: np.ndarray, length: int) -> list[int]:
    counts = np.bincount(engagements.item[visible], minlength=15)
    order = sorted((item for item in range(15) if counts[item]), key=lambda i: (-counts[i], i))
    return order[:length] + [0] * (length - len(order))


@pytest.mark.parametrize("length", [1, 3, 20])
def test_query_histories_equal_a_loop_over_everything(length):
    engagements = make_engagements(900)
    built = history.QueryHistory(engagements, actions=(0, 1), length=length, lag_days=2)
    query, days = np.meshgrid(np.arange(5), np.arange(-1, 25))
    query, days = query.ravel(), days.ravel()
    shuffle = np.random.default_rng(0).permutation(len(query))
    query, days = query[shuffle], days[shuffle]
    result = built.top(query, days)
    for row in range(len(query)):
        visible = (
            (engagements.query == query[row])
            & (engagements.action != 2)
            & (engagements.time // DAY <= days[row] - 2)
        )
        assert result[row].tolist() == _top(engagements, visible, length)


def test_timeless_query_histories_leave_the_fold_out():
    engagements = make_engagements(900)
    built = history.QueryHistory(engagements, actions=(0, 1), length=3, lag_days=None)
    query, fold = np.repeat(np.arange(4), 6), np.tile(np.arange(-1, 5), 4)
    result = built.top(query, fold)
    for row in range(len(query)):
        visible = (
            (engagements.query == query[row])
            & (engagements.action != 2)
            & (engagements.fold != fold[row])
        )
        assert result[row].tolist() == _top(engagements, visible, 3)


def test_ties_at_the_last_place_are_broken_by_item_row():
    engagements = make_engagements(200).take(np.arange(100))
    engagements.query[:], engagements.action[:], engagements.time[:] = 0, 0, 0
    engagements.item[:] = np.arange(100, 0, -1)
    built = history.QueryHistory(engagements, actions=(0,), length=3, lag_days=1)
    assert built.top(np.array([0]), np.array([5])).tolist() == [[1, 2, 3]]
