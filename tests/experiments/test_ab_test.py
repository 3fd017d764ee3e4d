"""The online test of pre-rankers: its statistics by hand, and the whole of it at its smallest."""

import json

import numpy as np
import pytest

from experiments import ab_test, funnel, lifts


def outcome(user, arm, other, drawn=None):
    expected = {"500": {"interactrank": np.array(arm), "bm25": np.array(other)}}
    drawn = {} if drawn is None else drawn
    return lifts.Outcome(np.array(user), expected, {}, drawn, 10.0)


def test_a_lift_is_relative_and_its_interval_is_over_users():
    one = outcome([0, 0, 1, 2], [0.4, 0.6, 0.5, 0.9], [0.2, 0.3, 0.25, 0.45])
    assert lifts.lift([one], "interactrank", "bm25", "500") == pytest.approx((1.0, 1.0, 1.0))
    rng = np.random.default_rng(0)
    other = rng.random(400)
    two = outcome(np.arange(400) // 2, other + 0.1 + 0.1 * rng.standard_normal(400), other)
    mean, low, high = lifts.lift([two], "interactrank", "bm25", "500")
    assert mean == pytest.approx(0.2, abs=0.04)
    assert low < mean < high < low + 0.1
    # The searches of one user say less than as many of others.
    few = outcome(np.arange(400) // 40, two.expected["500"]["interactrank"], other)
    _, few_low, few_high = lifts.lift([few], "interactrank", "bm25", "500")
    assert few_high - few_low > 0


def test_a_split_test_finds_a_lift_that_is_there_and_none_over_itself():
    rng = np.random.default_rng(1)
    user = rng.integers(4_000, size=20_000)
    drawn = {"interactrank": rng.random(20_000) < 0.5, "bm25": rng.random(20_000) < 0.4}
    one = outcome(user, [], [], drawn)
    mean, low, high = lifts.split_test([one], "interactrank", "bm25", "salt")
    assert low < 0.25 < high
    assert low > 0
    assert mean == pytest.approx((low + high) / 2)
    inside = 0
    for salt in range(20):
        _, low, high = lifts.split_test([one], "bm25", "bm25", str(salt))
        inside += low < 0 < high
    assert inside >= 16  # 19 expected


def test_the_searches_that_a_lift_needs():
    # (1.96 + .8416)^2 (.5 * .5 + .55 * .45) / .05^2
    assert lifts.searches_needed(0.5, 0.1) == 1562


def test_what_came_of_a_world_is_kept_to_the_bit():
    rng = np.random.default_rng(2)
    drawn = {"interactrank": rng.random(5) < 0.5}
    one = outcome([0, 0, 1, 2, 2], rng.random(5), rng.random(5, np.float32), drawn)
    kept = lifts.Outcome.from_json(json.loads(json.dumps(one.to_json())))
    np.testing.assert_array_equal(kept.user, one.user)
    np.testing.assert_array_equal(kept.drawn["interactrank"], drawn["interactrank"])
    for arm, values in one.expected["500"].items():
        np.testing.assert_array_equal(kept.expected["500"][arm], values)
    assert (kept.survival, kept.pool) == ({}, 10.0)


def test_slates_and_what_survives_by_hand():
    ranks = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    final = np.array([[1.0, 2.0, 9.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    np.testing.assert_array_equal(funnel.slates(ranks, final, 2, 2), [[1, 0], [3, 2]])
    np.testing.assert_array_equal(funnel.slates(ranks, final, 4, 2), [[2, 3], [3, 2]])
    wanted = np.array([[2, 3], [3, 2]])
    assert funnel.survival(ranks, wanted, 2) == 0.5
    assert funnel.survival(ranks, wanted, 3) == 0.75
    # Where a pool has no item, no cut keeps one.
    ranks[0, 2] = funnel.LAST
    assert funnel.survival(ranks, wanted, 100) == 1
    final[0, 2] = -np.inf
    np.testing.assert_array_equal(funnel.slates(ranks, final, 100, 2), [[3, 1], [3, 2]])


@pytest.mark.long  # two trainings, two bundles
def test_the_smallest_one_says_what_every_arm_is_worth(tmp_path, capsys, monkeypatch):
    assert ab_test.main(["--quick", "--seeds", "0", f"--out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "quick" / "ab_test.json").read_text())
    arms = content["arms"]
    assert set(arms) == {"bm25", "popularity", "two_tower", "interactrank", "oracle"}
    assert content["searches"] == 200
    assert {config["model"]["name"] for config in content["configs"].values()} == {
        "two_tower",
        "interactrank",
    }
    for figures in arms.values():
        assert 0 < figures["fulfilment"] < 1
        assert 0 <= figures["survival_at_500"] <= 1
        # What users did is what was to be expected, within what 200 draws can tell.
        assert abs(figures["drawn"] - figures["fulfilment"]) < 0.15
    alone = content["cuts"]["alone"]
    assert max(alone, key=lambda arm: alone[arm]["fulfilment"]) == "oracle"
    assert alone["two_tower"]["lift_vs_two_tower"] == [0, 0, 0]
    assert content["cuts"]["100"]["oracle"]["survival"]["oracle"] == 1
    assert "online: +6.5% over BM25" in capsys.readouterr().out

    # Done is done: nothing is trained, exported or searched again.
    monkeypatch.setattr(ab_test, "export", None)
    monkeypatch.setattr(ab_test, "search", None)
    assert ab_test.main(["--quick", "--seeds", "0", f"--out={tmp_path}"]) == 0
    again = json.loads((tmp_path / "quick" / "ab_test.json").read_text())
    assert {**again, "commit": ""} == {**content, "commit": ""}
