"""The simulator: the same seed gives the same bytes, and the log is plausible."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.log.simulator.draws import hash_normal
from interactrank_jax.log.simulator.presets import PRESETS, resolve
from interactrank_jax.log.simulator.retrieval import candidate_pools
from interactrank_jax.log.simulator.simulate import _slates, simulate
from interactrank_jax.log.simulator.world import START, World
from interactrank_jax.log.validate import validate


def digests(path):
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def columns(path, table):
    whole = pq.read_table(path / table)
    return {name: whole[name].to_numpy() for name in whole.column_names}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    path = tmp_path_factory.mktemp("simulated") / "log"
    return path, simulate("tiny", 0, path)


def test_the_log_is_valid_and_the_summary_counts_it(simulated):
    path, summary = simulated
    found = validate(open_log(path))
    for name in ("items", "requests", "impressions", "events", "actions"):
        assert summary[name] == found[name]
    assert found["duplicate_events"] == 0
    assert summary["requests"] == PRESETS["tiny"].requests
    assert found["last_timestamp"] - found["first_timestamp"] > 700 * 86_400


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(simulated, tmp_path):
    path, _ = simulated
    simulate("tiny", 0, tmp_path / "same")
    simulate("tiny", 1, tmp_path / "other")
    first, same, other = digests(path), digests(tmp_path / "same"), digests(tmp_path / "other")
    assert first == same
    assert first.keys() == other.keys()
    equal = {name for name in first if first[name] == other[name]}
    assert equal == {"schema.json"}


def test_rates_are_those_of_a_search_log(simulated):
    impressions = columns(simulated[0], "impressions")
    click, long_click = impressions["click"], impressions["long_click"]
    assert 0.10 < click.mean() < 0.20
    assert 0.4 < long_click.sum() / click.sum() < 0.65
    assert 0.01 < impressions["save"].mean() < 0.05
    assert 0.01 < impressions["short_click"].sum() / click.sum() < 0.15
    assert not (long_click & ~click).any()
    assert not (impressions["short_click"] & ~click).any()
    assert not (impressions["short_click"] & long_click).any()


def test_clicks_decay_with_position_given_appeal(simulated):
    impressions, truth = (
        columns(simulated[0], table) for table in ("impressions", "truth/impressions")
    )
    position, click = impressions["position"], impressions["click"]
    early, late = click[position < 3].mean(), click[position >= 7].mean()
    assert early > 1.5 * late
    # The log behaves as the truth says: within five standard errors.
    expected = truth["click_probability"]
    error = np.sqrt((expected * (1 - expected)).sum())
    assert abs(click.sum() - expected.sum()) < 5 * error


def test_slates_are_complete_in_order_and_never_show_what_does_not_exist_yet(simulated):
    path, _ = simulated
    impressions, requests = columns(path, "impressions"), columns(path, "requests")
    items = columns(path, "items")
    assert (np.diff(requests["timestamp"]) >= 0).all()
    assert impressions["position"].reshape(-1, 10).tolist() == [list(range(10))] * len(
        requests["request_id"]
    )
    created = dict(zip(items["item_id"], items["created_at"], strict=True))
    shown_at = np.repeat(requests["timestamp"], 10)
    assert all(created[item] <= t for item, t in zip(impressions["item_id"], shown_at, strict=True))
    later = [item for item, t in created.items() if t > requests["timestamp"][0]]
    assert 0.3 < len(later) / len(created) < 0.5
    assert set(later) & set(impressions["item_id"])  # and once there, they are shown


def test_events_are_the_actions_and_arrive_after_they_happen(simulated):
    path, summary = simulated
    events, requests = columns(path, "events"), columns(path, "requests")
    delay = events["arrival_time"] - events["event_time"]
    assert (delay >= 0).all()
    assert np.median(delay) < 60
    assert 0.002 < (delay > 3600).mean() < 0.05  # the late tail
    assert len(set(events["event_id"])) == len(events["event_id"])
    organic = np.array([query is None for query in events["query_id"]])
    assert 0.2 < organic.mean() < 0.6
    for name, count in summary["actions"].items():
        assert (events["action"][~organic] == name).sum() == count
    assert events["event_time"].min() > requests["timestamp"].min()
    of_user = dict(zip(requests["user_id"], requests["country"], strict=True))
    assert all(
        of_user.get(user, country) == country
        for user, country in zip(events["user_id"], events["country"], strict=True)
    )


def test_propensities_are_probabilities_and_explore(simulated):
    propensity = columns(simulated[0], "impressions")["propensity"]
    assert ((propensity > 0) & (propensity <= 1)).all()
    assert propensity.std() > 0.1


def test_inverse_propensity_weights_are_unbiased():
    """E[1{shown} / propensity] = 1 for every candidate, however seldom it is shown."""
    config = resolve("tiny", slate=2, pool=6, requests=1, items=20)
    world = World(config, 0)
    requests, existing = 100_000, np.flatnonzero(world.items.created < START)[:6]
    pool = np.tile(existing.astype(np.int32), (requests, 1))
    logits = np.tile(np.array([1, 0.5, 0, -0.5, -1, -1.5], np.float32), (requests, 1))
    time = np.full(requests, START)
    slates = _slates(world, np.random.default_rng(0), pool, logits, time)
    assert slates.shown.all()
    assert (slates.item[:, 0] != slates.item[:, 1]).all()
    for candidate in existing:
        weight = ((slates.item == candidate) / slates.propensity).sum(1)
        assert abs(weight.mean() - 1) < 5 * weight.std() / np.sqrt(requests)


def test_fewer_candidates_than_a_slate_are_all_shown_for_certain():
    config = resolve("tiny", slate=4, pool=8, requests=1, items=40)
    world = World(config, 0)
    old = np.flatnonzero(world.items.created < START)[:3]
    new = np.flatnonzero(world.items.created > START)[:5]
    pool = np.concatenate([old, new]).astype(np.int32)[None]
    time = np.array([START])
    slates = _slates(world, np.random.default_rng(0), pool, np.zeros((1, 8), np.float32), time)
    assert sorted(slates.item[slates.shown]) == sorted(old)
    assert (slates.propensity[slates.shown] == 1).all()


def test_lexical_match_finds_the_topic_but_not_perfectly():
    config = resolve("small", items=2_000, queries=200)
    world = World(config, 0)
    pool, lexical = candidate_pools(world, 0)
    matched = lexical > 0
    cosine = np.einsum("qt,qpt->qp", world.queries.topics, world.items.topics[pool])
    everything = (world.queries.topics @ world.items.topics.T).mean()
    assert everything + 0.2 < cosine[matched].mean() < 0.9
    rows = [set(row[np.isfinite(score)]) for row, score in zip(pool, lexical, strict=True)]
    assert all(len(row) == n for row, n in zip(rows, np.isfinite(lexical).sum(1), strict=True))
    assert len(set(world.queries.texts)) == config.queries


def test_tastes_drift_and_keep_their_variance():
    world = World(resolve("tiny", users=2_000), 0)
    user = np.arange(2_000)
    start, end = (np.full(2_000, START + d * 86_400) for d in (0, 729))
    before, after = world.tastes(user, start), world.tastes(user, end)
    assert abs(before.var() - after.var()) < 0.1
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] < 0.6


def test_idiosyncratic_appeal_is_there_partly_shared_in_a_country_or_switched_off(tmp_path):
    world = World(resolve("tiny", items=2_000, idiosyncratic=1.5, segment_share=0.4), 0)
    item = np.arange(2_000)[None]
    query = np.array([3])
    here, there = (world.idiosyncratic(query, np.array([c]), item)[0] for c in (0, 1))
    other = world.idiosyncratic(np.array([4]), np.array([0]), item)[0]
    assert here.std() == pytest.approx(1.5, rel=0.1)
    assert np.corrcoef(here, there)[0, 1] == pytest.approx(0.6, abs=0.08)
    assert abs(np.corrcoef(here, other)[0, 1]) < 0.08
    simulate("tiny", 0, tmp_path / "log", idiosyncratic=0.0, requests=200)
    truth = columns(tmp_path / "log", "truth/impressions")
    assert not truth["idiosyncratic"].any()
    assert truth["relevance"].std() > 0


def test_the_truth_can_be_rebuilt_and_adds_up(simulated):
    path, _ = simulated
    told = json.loads((path / "truth" / "config.json").read_text())
    config, requests = resolve(told["preset"]), columns(path, "requests")
    world = World(config, told["seed"])
    truth, impressions = (columns(path, table) for table in ("truth/impressions", "impressions"))
    query, user = (
        np.array([int(value[1:]) for value in requests[name]]) for name in ("query_id", "user_id")
    )
    item = np.array([int(value[1:]) for value in impressions["item_id"]]).reshape(-1, 10)
    appeal = world.appeal(query, user, requests["timestamp"], item)
    np.testing.assert_allclose(appeal.total.ravel(), truth["appeal"], atol=1e-5)
    parts = ("relevance", "taste", "quality", "idiosyncratic", "mood")
    np.testing.assert_allclose(sum(truth[name] for name in parts), truth["appeal"], atol=1e-5)


def test_more_requests_make_more_parts_not_larger_ones(tmp_path):
    for requests in (400, 1_600):
        path = tmp_path / str(requests)
        summary = simulate("tiny", 0, path, requests=requests, chunk_requests=100, chunk_days=365)
        parts = sorted((path / "impressions").iterdir())
        assert len(parts) == summary["parts"] == requests // 100
        assert max(pq.read_metadata(part).num_rows for part in parts) <= 100 * 10


def test_hashed_normals_are_standard_and_depend_on_every_key():
    first = hash_normal(1, np.arange(300)[:, None], np.arange(300))
    assert abs(first.mean()) < 0.02
    assert abs(first.std() - 1) < 0.02
    assert (np.abs(first) > 1.96).mean() == pytest.approx(0.05, abs=0.005)
    for other in (first.T, hash_normal(2, np.arange(300)[:, None], np.arange(300))):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("smal", {}, "Did you mean 'small'"),
        ("tiny", {"request": 5}, "Did you mean 'requests'"),
        ("tiny", {"requests": 0}, "Expected 1 or more"),
        ("tiny", {"requests": 2.5}, "Expected a number like"),
        ("tiny", {"requests": "many"}, "Expected a number like"),
        ("tiny", {"initial_items": 1.5}, "Expected a share"),
        ("tiny", {"pool": 5}, "Expected 20 or more"),
        ("tiny", {"items": 10}, "fewer than the pool"),
        ("tiny", {"temperature": 0.0}, "explores"),
    ],
)
def test_wrong_settings_are_errors_that_help(tmp_path, preset, overrides, message):
    with pytest.raises(InputError, match=message):
        simulate(preset, 0, tmp_path / "log", **overrides)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_wrong_seed_is_refused(tmp_path, seed):
    with pytest.raises(InputError, match="seed"):
        simulate("tiny", seed, tmp_path / "log")
