"""New searches of a simulated world, and what slates are worth to them."""

import dataclasses

import numpy as np
import pytest

from interactrank_jax.log.simulator import searches
from interactrank_jax.log.simulator.presets import PRESETS, resolve
from interactrank_jax.log.simulator.tables import ACTIONS
from interactrank_jax.log.simulator.world import DAY, START, World

WORLD = World(resolve("tiny"), 0)


def test_new_searches_lie_in_their_day_and_follow_the_draw():
    drawn = searches.searches(WORLD, 0, "one", 400, 5_000)
    assert (drawn.time // DAY == START // DAY + 400).all()
    assert (np.diff(drawn.time) >= 0).all()
    np.testing.assert_array_equal(drawn.id, np.arange(5_000))
    np.testing.assert_array_equal(drawn.query, searches.searches(WORLD, 0, "one", 400, 5_000).query)
    assert (drawn.query != searches.searches(WORLD, 0, "other", 400, 5_000).query).any()
    # Users come as often as the world says.
    share = np.diff(WORLD.users.activity, prepend=0) / WORLD.users.activity[-1]
    counts = np.bincount(drawn.user, minlength=len(share))
    assert np.corrcoef(counts, share)[0, 1] > 0.9


def test_the_worth_of_a_row_by_hand():
    config = PRESETS["tiny"]
    # With no appeal: a click has odds e^-2, a save e^-4.5, and a click that lasts the median of 20
    # seconds is long if its noise exceeds ln(30 / 20) / 1.1 = .3686 deviations: .3562.
    click, save = 1 / (1 + np.exp(2)), 1 / (1 + np.exp(4.5))
    expected = 1 - (1 - click * 0.35622) * (1 - save)
    assert searches.fulfilling(config, np.zeros(1))[0] == pytest.approx(expected, abs=1e-5)
    assert searches.fulfilling(config, np.array([-np.inf]))[0] == 0
    flat = dataclasses.replace(config, dwell_appeal=0.0)
    assert searches.fulfilling(flat, np.array([-np.inf]))[0] == 0


def test_a_slate_is_worth_what_its_rows_are_at_their_positions():
    config = PRESETS["tiny"]
    appeal = np.array([[3.0, -np.inf, 1.0], [-np.inf] * 3])
    first, third = searches.fulfilling(config, np.array([3.0, 1.0]))
    expected = 1 - (1 - first) * (1 - third / np.sqrt(3))
    np.testing.assert_allclose(searches.expected_fulfilment(config, appeal), [expected, 0])


def test_what_is_expected_is_what_is_drawn():
    drawn = searches.searches(WORLD, 0, "one", 400, 50_000)
    rng = np.random.default_rng(0)
    item = rng.integers(len(WORLD.items.created), size=(len(drawn.id), WORLD.config.slate))
    shown = rng.random(item.shape) < 0.9
    appeal = WORLD.appeal(drawn.query, drawn.user, drawn.time, item).total
    expected = searches.expected_fulfilment(WORLD.config, np.where(shown, appeal, -np.inf))
    actions = searches.drawn_fulfilment(WORLD, rng, drawn, item, shown)
    assert actions.shape == (len(drawn.id), len(ACTIONS))
    error = searches.is_fulfilled(actions) - expected
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))
    # Not on the average alone: a slate of high appeal is fulfilled as often as it says.
    best = expected > np.quantile(expected, 0.9)
    assert abs(error[best].mean()) < 4 * error[best].std() / np.sqrt(best.sum())
