"""The closed loop: what is shown and learned from, and the whole of it at its smallest."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import closed_loop, worlds
from interactrank_jax.log.simulator.simulate import Slates, chunk_requests, lived_through, simulate

DAYS = 4


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    """A log of four days; read only."""
    log = tmp_path_factory.mktemp("simulated") / "log"
    simulate("tiny", 3, log, requests=120, days=DAYS, chunk_days=1)
    return worlds.Simulation.open(log)


def part(simulation, name, day):
    return pq.ParquetFile(simulation.log / name / f"part-{day:06}.parquet").read()


@pytest.mark.parametrize("day", [0, DAYS - 1])
def test_the_policys_slates_make_the_policys_log(simulation, day):
    """So that another policy's log differs by what it shows alone."""
    rows, requests = part(simulation, "impressions", day), chunk_requests(simulation.world, 3, day)
    item, appeal = simulation.shown_by_policy(day)
    propensity = np.ones(item.shape, np.float32)
    place = rows["request_id"].to_numpy() - requests.id[0], rows["position"].to_numpy()
    propensity[place] = rows["propensity"].to_numpy()
    slates = Slates(item, np.isfinite(appeal), propensity)
    clicks = simulation.clicks(simulation.log, day)
    first = sum(len(part(simulation, "events", earlier)) for earlier in range(day))
    tables, clicked = lived_through(
        simulation.world, 3, simulation.names, day, requests, slates, clicks, first
    )
    for name, table in tables.items():
        assert table.equals(part(simulation, name, day)), name
    forget = 0.5 ** (1 / simulation.world.config.popularity_half_life_days)
    after = simulation.clicks(simulation.log, day + 1)
    np.testing.assert_allclose(after, clicks * forget + clicked)


def test_searches_are_those_of_the_log_with_what_could_be_shown(simulation):
    searches = simulation.searches(2)
    ids = part(simulation, "requests", 2)
    assert searches.table.select(ids.column_names).equals(ids)
    item, appeal = simulation.shown_by_policy(2)
    for request in range(len(ids)):
        pool = searches.pool[request]
        assert (np.diff(pool[pool < searches.no_item]) > 0).all()
        for shown, value in zip(item[request], appeal[request], strict=True):
            if np.isfinite(value):
                (place,) = np.flatnonzero(pool == shown)
                assert searches.appeal[request, place] == pytest.approx(value, abs=1e-5)


def test_slates_by_hand():
    searches = SimpleNamespace(
        world=SimpleNamespace(config=SimpleNamespace(slate=2)),
        pool=np.array([[3, 5, 6, 9], [1, 9, 9, 9], [2, 4, 9, 9]]),
        no_item=9,
    )
    last = np.iinfo(np.int64).max
    # Of the first the best are 6 and 5, and 3 is unknown to the model.
    ranks = np.array([[last, 1, 0, last], [0, last, last, last], [1, 0, last, last]])
    position, propensity = closed_loop.slates(searches, ranks, False, np.random.default_rng(0))
    np.testing.assert_array_equal(position, [[2, 1], [0, 1], [1, 0]])
    assert (propensity == 1).all()
    drawn = set()
    for seed in range(50):
        position, propensity = closed_loop.slates(
            searches, ranks, True, np.random.default_rng(seed)
        )
        np.testing.assert_array_equal(position[:, 0], [2, 0, 1])
        drawn.add(int(position[0, 1]))
        # The only other candidate; and where there is none, what was there.
        np.testing.assert_array_equal(position[1:, 1], [1, 0])
        np.testing.assert_allclose(propensity, [[1, 0.5], [1, 1], [1, 1]])
    assert drawn == {0, 1}  # what the model does not know too


def test_two_tower_is_what_lifts_are_over(tmp_path, capsys):
    with pytest.raises(SystemExit):
        closed_loop.main(["--quick", "--arms", "interactrank", f"--out={tmp_path}"])
    assert "must name two_tower" in capsys.readouterr().err


@pytest.mark.thorough  # eight commands, a training among them
def test_the_smallest_one_says_what_every_arm_is_worth(tmp_path, capsys):
    command = ["--quick", f"--out={tmp_path}"]
    assert closed_loop.main(command) == 0
    content = json.loads((tmp_path / "quick" / "closed_loop.json").read_text())
    arms = {row["arm"]: row for row in content["rows"]}
    assert list(arms) == ["policy", "two_tower", "oracle"]
    assert content["searches"] == 80
    assert arms["two_tower"]["lift_all"] == [0, 0, 0]
    assert max(arms, key=lambda arm: arms[arm]["fulfilment_all"]) == "oracle"
    log = tmp_path / "quick" / "two_tower" / "log"
    whole = tmp_path / "quick" / "log"
    for day, is_same in ((7, True), (8, False)):
        own, of_policy = (
            pq.ParquetFile(place / "impressions" / f"part-{day:06}.parquet").read()
            for place in (log, whole)
        )
        assert own.schema.equals(of_policy.schema)
        assert own.equals(of_policy) == is_same
    capsys.readouterr()
    # Again: nothing is left to do.
    assert closed_loop.main(command) == 0
    assert "day 1 of 1" not in capsys.readouterr().out
