"""Truncated timelines with fresh events are worth the whole past, at any time after the day."""

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.export.past import _counts, _last_of_each, _save_timelines
from interactrank_jax.serving.keys import KeyIndex
from interactrank_jax.serving.past import CrossFeatures, CrossTable, FreshEvents, UserPast
from interactrank_jax.state.histories import IMPRESSION, NO_FOLD, Timelines, UserHistory

DAY = 86_400
START = 1000 * DAY  # of the bundle's day
ACTIONS = 3
DELAYS = (0, 60, 3600, 3 * DAY)


def draw_events(rng, users: int, count: int, first: int, end: int) -> dict[str, np.ndarray]:
    """Returns events of some users, by user and arrival; many arrive at one time."""
    user = np.sort(rng.integers(0, users, count))
    time = rng.integers(first, end, count)
    time[rng.random(count) < 0.3] = first + (end - first) // 2
    order = np.lexsort((time, user))
    action = rng.integers(IMPRESSION, ACTIONS, count).astype(np.int8)
    return {
        "user": user,
        "item": rng.integers(1, 50, count).astype(np.int32),
        "action": action,
        "time": time[order],
        "event_time": time[order] - rng.integers(0, 500, count),
    }


@pytest.mark.parametrize("seed", range(12))
def test_the_past_as_it_is_served(seed, tmp_path):
    rng = np.random.default_rng(seed)
    users, length, delay = 9, int(rng.integers(1, 8)), int(rng.choice(DELAYS))
    actions = [[0], [0, 2], [0, 1, 2], []][seed % 4]
    earlier = users - 2  # two users came to be on the day
    old = draw_events(rng, earlier, int(rng.integers(0, 400)), START - 9 * DAY, START)
    new = draw_events(rng, users, int(rng.integers(0, 120)), START, START + 3 * DAY)
    both = {name: np.concatenate([old[name], new[name]]) for name in old}
    order = np.lexsort((np.arange(len(both["user"])), both["time"], both["user"]))
    whole = Timelines({name: array[order] for name, array in both.items()}, users)
    options = {"actions": actions, "length": length, "delay_s": delay}
    expected = UserHistory(whole, **options)

    # As `PastExport` writes it.
    timelines = Timelines(old, earlier)
    is_late = timelines.time > START - delay
    chosen = np.isin(timelines.action, np.asarray(actions, np.int8))
    last = _last_of_each(timelines, earlier, chosen & ~is_late, length)
    ids = pa.array([f"user {n}" for n in range(users)], pa.large_string())
    KeyIndex.build(ids[:earlier]).save(tmp_path / "ids")
    _save_timelines(tmp_path, timelines, earlier, last | (chosen & is_late))
    _save_timelines(tmp_path / "recent", timelines, earlier, is_late)
    every = [*range(ACTIONS), IMPRESSION]
    np.save(tmp_path / "count.npy", _counts(timelines, earlier, ~is_late, every))
    past = UserPast.open(tmp_path, ACTIONS, has_counts=True, **options)

    asked = rng.integers(0, users + 1, 200)  # and one whom nobody knows
    timestamp = START + rng.integers(0, 4 * DAY, 200)
    timestamp[:20] = START
    timestamp[20:60] = rng.choice(np.append(both["time"], START), 40) + delay
    timestamp = np.maximum(timestamp, START)
    user_ids = pa.array([f"user {n}" if n < users else "nobody" for n in asked], pa.large_string())
    fresh = FreshEvents(KeyIndex.build(ids), past.history(Timelines(new, users)))
    got, counts = (
        past.last(user_ids, timestamp, fresh),
        past.counts(user_ids, timestamp, every, fresh),
    )
    is_known, fold = asked < users, np.full(200, NO_FOLD)
    wanted = expected.last(asked[is_known], timestamp[is_known], fold[is_known])
    for name in ("item", "action", "age"):
        np.testing.assert_array_equal(getattr(got, name)[is_known], getattr(wanted, name), name)
        assert not getattr(got, name)[~is_known].any()
    wanted = expected.counts(asked[is_known], timestamp[is_known], fold[is_known], every)
    np.testing.assert_array_equal(counts[is_known], wanted)
    assert not counts[~is_known].any()


def test_the_file_has_no_more_than_histories_need(tmp_path):
    """However long a user's past is."""
    rng = np.random.default_rng(0)
    timelines = Timelines(draw_events(rng, 5, 5000, START - 90 * DAY, START - DAY), 5)
    chosen = timelines.action >= 0
    kept = _last_of_each(timelines, 5, chosen, 6)
    assert kept.sum() == 5 * 6
    assert not kept[~chosen].any()


def test_the_finest_level_that_knows_its_keys_decides():
    """Its items have a value; others have 0, although a coarser level knows them."""

    def table(keys, groups, rows):
        pair = np.array([group << 32 | item for group, item, _ in rows], np.int64)
        value = np.array([[value] for *_, value in rows], np.float32)
        index = KeyIndex.build(
            *(pa.array(part, pa.large_string()) for part in zip(*groups, strict=True))
        )
        return CrossTable(keys, ("x",), index, pair, value)

    fine = table(("query", "country"), [("a", "de")], [(0, 1, 0.5), (0, 4, 0.25)])
    coarse = table(("query",), [("a",), ("b",)], [(0, 1, 0.1), (0, 2, 0.2), (1, 2, 0.3)])
    features = CrossFeatures(
        {"x": [fine.keys, coarse.keys]}, {fine.keys: fine, coarse.keys: coarse}, None
    )
    asked = {
        "query": pa.array(["a", "a", "b", "c", None], pa.large_string()),
        "country": pa.array(["de", "fr", "de", "de", "de"], pa.large_string()),
    }
    groups = features.groups(asked)
    values = features.values(groups, np.tile(np.arange(6), (5, 1)))[..., 0]
    expected = np.zeros((5, 6), np.float32)
    expected[0, [1, 4]] = 0.5, 0.25
    expected[1, [1, 2]] = 0.1, 0.2
    expected[2, 2] = 0.3
    np.testing.assert_array_equal(values, expected)
    assert [features.items(groups, n).tolist() for n in range(5)] == [
        [1, 2, 4], [1, 2], [2], [], []
    ]  # fmt: skip
