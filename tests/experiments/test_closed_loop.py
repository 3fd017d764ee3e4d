"""The closed loop: its summary by hand, and the whole of it at its smallest."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import closed_loop, jobs, loop_summary
from interactrank_jax.io.errors import InputError

JOB = jobs.Job


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


def test_other_flags_are_refused_where_a_loop_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(closed_loop, "run_arms", lambda *arguments: None)
    monkeypatch.setattr(loop_summary, "read_days", lambda *arguments: days_of([0.1], [0], [1], 0))
    command = ["--quick", f"--out={tmp_path}", "--seeds", "0"]
    assert closed_loop.main(command) == 0
    assert closed_loop.main([*command, "--searches=90"]) == 2
    assert "is of another --preset, --days or --searches" in capsys.readouterr().err
    assert closed_loop.main([*command, "--days=2"]) == 2
    assert closed_loop.main([*command, "1"]) == 0
    content = json.loads((tmp_path / "quick" / "closed_loop.json").read_text())
    assert (content["worlds"], content["seeds"]) == (2, [0, 1])


def arm_that(says, monkeypatch):
    """Makes arms processes that run some Python."""

    def job(name, command, record):
        return JOB(name, (sys.executable, "-c", says), record)

    monkeypatch.setattr(closed_loop.jobs, "Job", job)


def test_an_arm_that_fails_or_has_other_fields_is_named(tmp_path, monkeypatch):
    days, world = range(8, 9), tmp_path / "world-0"
    arm_that("raise SystemExit('no space left')", monkeypatch)
    with pytest.raises(InputError, match=r"world-0, two_tower: exit status 1: no space left; see "):
        closed_loop.run_arms(world, ["two_tower"], days, {"train.seed": 0}, 1)
    arm_that("", monkeypatch)  # goes on, and ends
    closed_loop.run_arms(world, ["two_tower"], days, {"train.seed": 0}, 1)
    arm_that("raise SystemExit('started again')", monkeypatch)
    closed_loop.run_arms(world, ["two_tower"], days, {"train.seed": 0}, 1)
    with pytest.raises(InputError, match=r"fields\.json is of other flags\. Remove .*two_tower"):
        closed_loop.run_arms(world, ["two_tower"], days, {"train.seed": 1}, 1)


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
    assert "world-0, two_tower: finished" in capsys.readouterr().out
    # Again: nothing is left to do.
    assert closed_loop.main(command) == 0
    assert "two_tower: finished" not in capsys.readouterr().out
