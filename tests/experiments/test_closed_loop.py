"""The closed loop: what is shown and learned from, and the whole of it at its smallest."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import closed_loop, loop_summary, worlds
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


def days_of(values, users, counts, new) -> loop_summary.Days:
    """Returns days whose searches are all worth the day's value."""
    return [
        {
            "user": np.array(users),
            "fulfilment": np.full(len(users), value),
            "counts": np.array(counts),
            "new": np.array(new),
        }
        for value in values
    ]


def test_a_summary_by_hand():
    """25 days: two-tower is worth .2, the arm .3 in the first ten, .25 then, .4 in the last ten."""
    counts = [0] * 198 + [30, 10]
    worlds = [
        {
            "two_tower": days_of([0.2] * 25, range(6), [1] * 200, 20),
            "arm": days_of([0.3] * 10 + [0.25] * 5 + [0.4] * 10, range(6), counts, 4),
        }
    ] * 2
    other, arm = loop_summary.summarise(worlds, ["two_tower"])
    assert other["lifts"]["two_tower"]["all"] == (0, 0, 0)
    assert arm["fulfilment"] == pytest.approx({"all": 0.33, "first": 0.3, "last": 0.4})
    spans = {"all": 0.65, "first": 0.5, "last": 1.0}
    for span, lift in spans.items():
        assert arm["lifts"]["two_tower"][span] == pytest.approx((lift, lift, lift))
    assert (arm["new"], arm["items"]) == (0.1, 2)
    assert arm["most_shown"] == 1  # 1% of 200 items are two
    assert other["most_shown"] == pytest.approx(0.01)
    assert arm["by_day"][9:11] == pytest.approx([0.3, 0.25])
    content = {"rows": [other, arm], "days": 25, "days_before": 30, "searches": 300, "worlds": 2}
    table = loop_summary.table(content)
    assert "| arm | 0.3300 | +65.0% [+65.0%, +65.0%] | +50.0% [+50.0%, +50.0%] |" in table
    assert "in 2 worlds." in table


def test_lifts_are_of_the_searches_of_each_world():
    rng = np.random.default_rng(0)
    worlds = []
    for lift in (1.1, 1.3):
        other = days_of([0.2] * 3, range(50), [1] * 10, 0)
        arm = days_of([0.2 * lift] * 3, range(50), [1] * 10, 0)
        for day in arm:
            day["fulfilment"] = day["fulfilment"] + 0.01 * rng.standard_normal(50)
        worlds.append({"two_tower": other, "arm": arm})
    mean, low, high = loop_summary.summarise(worlds, ["two_tower"])[1]["lifts"]["two_tower"]["all"]
    assert mean == pytest.approx(0.2, abs=0.02)
    assert low < 0.12
    assert high > 0.28  # worlds differ by more than searches do


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

    monkeypatch.setattr(closed_loop, "learn", learn)
    monkeypatch.setattr(closed_loop.funnel, "ranks_by_model", ranks)
    # What a killed run left of a day that is not done.
    (tmp_path / "log" / "requests").mkdir(parents=True)
    (tmp_path / "log" / "requests" / "part-000002.parquet").write_bytes(b"half")
    closed_loop.run_arm(arm, simulation, tmp_path, days, {})
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


def test_other_flags_are_refused_where_a_loop_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(closed_loop, "run_arm", lambda *arguments: None)
    monkeypatch.setattr(loop_summary, "read_days", lambda *arguments: days_of([0.1], [0], [1], 0))
    command = ["--quick", f"--out={tmp_path}", "--seeds", "0"]
    assert closed_loop.main(command) == 0
    assert closed_loop.main([*command, "--searches=90"]) == 2
    assert "is of another --preset, --days or --searches" in capsys.readouterr().err
    assert closed_loop.main([*command, "--days=2"]) == 2
    assert closed_loop.main([*command, "1"]) == 0
    content = json.loads((tmp_path / "quick" / "closed_loop.json").read_text())
    assert (content["worlds"], content["seeds"]) == (2, [0, 1])


def test_two_tower_is_what_lifts_are_over(tmp_path, capsys):
    with pytest.raises(SystemExit):
        closed_loop.main(["--quick", "--arms", "interactrank", f"--out={tmp_path}"])
    assert "must name two_tower" in capsys.readouterr().err


@pytest.mark.long  # eight commands, a training among them
def test_the_smallest_one_says_what_every_arm_is_worth(tmp_path, capsys):
    command = ["--quick", "--seeds", "0", f"--out={tmp_path}"]
    assert closed_loop.main(command) == 0
    content = json.loads((tmp_path / "quick" / "closed_loop.json").read_text())
    arms = {row["arm"]: row for row in content["rows"]}
    assert list(arms) == ["policy", "two_tower", "oracle"]
    assert content["searches"] == 80
    assert content["configs"]["two_tower"]["data"]["block_size"] == 64
    assert arms["two_tower"]["lifts"]["two_tower"]["all"] == [0, 0, 0]
    assert max(arms, key=lambda arm: arms[arm]["fulfilment"]["all"]) == "oracle"
    world = tmp_path / "quick" / "world-0"
    for day, is_same in ((7, True), (8, False)):
        arms_rows, policys_rows = (
            pq.ParquetFile(log / "impressions" / f"part-{day:06}.parquet").read()
            for log in (world / "two_tower" / "log", world / "log")
        )
        assert arms_rows.schema.equals(policys_rows.schema)
        assert arms_rows.equals(policys_rows) == is_same
    capsys.readouterr()
    # Again: nothing is left to do.
    assert closed_loop.main(command) == 0
    assert "day 1 of 1" not in capsys.readouterr().out
