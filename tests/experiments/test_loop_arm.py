"""An arm of the closed loop: what is shown, and what it learns from."""

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import loop_arm, loop_summary, worlds
from interactrank_jax.log.simulator.simulate import Slates, chunk_requests, responses, simulate
from interactrank_jax.log.simulator.world import DAY, START

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
    index = rows["request_id"].to_numpy() - requests.id[0], rows["position"].to_numpy()
    propensity[index] = rows["propensity"].to_numpy()
    slates = Slates(item, np.isfinite(appeal), propensity)
    clicks = simulation.clicks(simulation.log, day)
    first = sum(len(part(simulation, "events", earlier)) for earlier in range(day))
    tables, clicked = responses(
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
                (column,) = np.flatnonzero(pool == shown)
                assert searches.appeal[request, column] == pytest.approx(value, abs=1e-5)


def test_slates_by_hand():
    searches = SimpleNamespace(
        world=SimpleNamespace(config=SimpleNamespace(slate=2)),
        pool=np.array([[3, 5, 6, 9], [1, 9, 9, 9], [2, 4, 9, 9]]),
        no_item=9,
    )
    last = np.iinfo(np.int64).max
    # Of the first the best are 6 and 5, and 3 is unknown to the model.
    ranks = np.array([[last, 1, 0, last], [0, last, last, last], [1, 0, last, last]])
    position, propensity = loop_arm.slates(searches, ranks, False, np.random.default_rng(0))
    np.testing.assert_array_equal(position, [[2, 1], [0, 1], [1, 0]])
    assert (propensity == 1).all()
    drawn = set()
    for seed in range(50):
        position, propensity = loop_arm.slates(searches, ranks, True, np.random.default_rng(seed))
        np.testing.assert_array_equal(position[:, 0], [2, 0, 1])
        drawn.add(int(position[0, 1]))
        # The only other candidate; and where there is none, what was there.
        np.testing.assert_array_equal(position[1:, 1], [1, 0])
        np.testing.assert_allclose(propensity, [[1, 0.5], [1, 1], [1, 1]])
    assert drawn == {0, 1}  # what the model does not know too


@pytest.mark.parametrize("arm", ["interactrank", "interactrank_observes"])
def test_an_arm_learns_from_its_own_slates_or_from_the_policys(
    arm, simulation, tmp_path, monkeypatch
):
    days, logs = range(2, DAYS), {}

    def learn(arm, day, directory, common):
        logs[day] = {
            part.name: pq.ParquetFile(part).read()
            for part in sorted((directory / "log" / "impressions").iterdir())
        }

    def ranks(searches, ranker):
        return np.tile(np.arange(searches.pool.shape[1]), (len(searches.pool), 1)), None

    monkeypatch.setattr(loop_arm, "learn", learn)
    monkeypatch.setattr(loop_arm.funnel, "ranks_by_model", ranks)
    # What a killed run left of a day that is not done.
    (tmp_path / "log" / "requests").mkdir(parents=True)
    (tmp_path / "log" / "requests" / "part-000002.parquet").write_bytes(b"half")
    loop_arm.run_arm(arm, simulation, tmp_path, days, {})
    assert list(logs[2]) == ["part-000000.parquet", "part-000001.parquet"]
    assert list(logs[3]) == [f"part-{day:06}.parquet" for day in range(3)]
    first = part(simulation, "impressions", 2)
    assert logs[3]["part-000002.parquet"].equals(first) == arm.endswith("observes")
    assert logs[3]["part-000001.parquet"].equals(part(simulation, "impressions", 1))
    items = pq.read_table(tmp_path / "log" / "items.parquet")["created_at"].to_numpy()
    assert items.max() < START + 3 * DAY
    kept = loop_summary.read_days(tmp_path, days)
    assert [len(day["user"]) for day in kept] == [30, 30]
    # The positions that were ranked first: the first ten of each pool.
    pool = simulation.searches(3).pool[:, :10]
    shown = pool[pool < simulation.world.config.items]
    np.testing.assert_array_equal(kept[1]["counts"], np.bincount(shown, minlength=400))
