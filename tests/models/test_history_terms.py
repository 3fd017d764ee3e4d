"""What history adds to a logit: the transforms by hand, and the terms beside every model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax.models.history_terms import (
    log_odds_ratio,
    transform_cross,
    transform_user_values,
)
from interactrank_jax.models.inputs import UserValue
from interactrank_jax.tables import lookup
from tests.marks import some_quick
from tests.models.model_case import CORPUS, HEADS, UTILITY, Case

WITH_TERMS = ("interactrank", "interactfit", "lr", "cold", "wide_deep", "deepfm", "dcn_v2")


def logit(p):
    return np.log(p / (1 - p))


@pytest.mark.parametrize("mean", [0.01, 0.3, 0.9])
def test_a_rate_enters_as_the_logarithm_of_its_odds_ratio(mean):
    rates = np.array([mean / 2, mean, (1 + mean) / 2])
    ratio = log_odds_ratio(jnp.asarray(rates - mean, jnp.float32), mean)
    np.testing.assert_allclose(ratio, logit(rates) - logit(mean), atol=2e-5)
    assert ratio[1] == pytest.approx(0, abs=1e-6)


def test_rates_of_nothing_and_of_all_stay_finite():
    ratio = np.asarray(log_odds_ratio(jnp.array([-0.2, 0.8, -9.0, 9.0]), 0.2))
    np.testing.assert_allclose(ratio[:2], ratio[2:])
    np.testing.assert_allclose(ratio[0], logit(0.002) - logit(0.2), rtol=1e-5)
    np.testing.assert_allclose(ratio[1], logit(0.992) - logit(0.2), rtol=1e-4)


@pytest.mark.parametrize("mean", [0.0, 1e-9, 1.0])
def test_actions_that_never_or_always_happen_have_finite_odds(mean):
    ratio = np.asarray(log_odds_ratio(jnp.array([-1.0, -0.5, 0.0, 0.5, 1.0]), mean))
    assert np.isfinite(ratio).all()
    assert (np.diff(ratio) >= 0).all()
    assert ratio[2] == pytest.approx(0, abs=1e-3)


def test_odds_are_of_rates_and_shares_are_damped(examples):
    inputs = Case("interactrank", examples).inputs
    inputs = inputs._replace(cross_scale=(0.5, 0.1), cross_mean=(0.0, 0.25))
    values = np.asarray(transform_cross(jnp.array([[0.5, 0.25], [0.0, 0.0]]), inputs, "odds"))
    expected = [[np.log(2), logit(0.5) - logit(0.25)], [0, 0]]
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_counts_of_a_user_are_damped_and_rates_are_odds():
    values = (UserValue(2, 0.0), UserValue(0, 0.25))
    numeric = jnp.array([[0.25, 99.0, 3.0], [0.0, 99.0, 0.0]])
    expected = [[np.log(4), logit(0.5) - logit(0.25)], [0, 0]]
    np.testing.assert_allclose(transform_user_values(numeric, values), expected, atol=1e-6)


@pytest.mark.long  # compiles a step for itself
@pytest.mark.parametrize("name", some_quick(WITH_TERMS, ("interactrank", "interactfit", "cold")))
def test_a_users_past_moves_all_candidates_alike_in_every_way_to_score(examples, name):
    case = Case(name, examples)
    inputs = case.inputs._replace(user_values=(UserValue(0, 0.0),))
    weight = np.array([[0.5, -2.0]], np.float32)
    params = {**case.params, "user_terms": {"weight": weight}}
    case.model = case.model.clone(inputs=inputs)
    case._outputs, case.inputs = jax.jit(case._everything), inputs
    with_terms = case(params=params)
    without = case(params={**params, "user_terms": {"weight": 0 * weight}})
    request = lookup.embed_requests(case.tables, case.batch, case.store, inputs)
    added = np.asarray(transform_user_values(request.numeric, inputs.user_values)) @ weight
    for output in ("call", "score", "aligned", "score_all"):
        difference = with_terms[output] - without[output]
        expected = np.broadcast_to(added[:, None], difference.shape)
        np.testing.assert_allclose(difference, expected, atol=1e-4, err_msg=output)
    difference = with_terms["rank_all"] - without["rank_all"]
    expected = np.broadcast_to((added @ UTILITY)[:, None], (len(added), len(CORPUS)))
    np.testing.assert_allclose(difference, expected, atol=1e-4)
    training, without = (
        case.training(params=each)[0].logits
        for each in (params, {**params, "user_terms": {"weight": 0 * weight}})
    )
    expected = np.broadcast_to(added[:, None], training.shape)
    np.testing.assert_allclose(training - without, expected, atol=1e-4)
    assert training.shape[-1] == HEADS


def test_without_affine_terms_a_network_is_that_of_its_paper(examples):
    case = Case("cold", examples, cross={"transform": "log", "affine": False})
    assert not {"cross_terms", "user_terms"} & set(case.params)
