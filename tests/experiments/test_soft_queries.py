"""FIT scored by soft queries is FIT as it is trained; as tau falls, FIT as it serves."""

import types
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import soft_queries
from interactrank_jax.examples.format import Examples
from interactrank_jax.tables import lookup
from tests.models.model_case import Case


@pytest.fixture(scope="module")
def case(examples_path):
    return Case("fit", Examples(examples_path))


@pytest.mark.parametrize(("progress", "tau"), [(0.0, 1.0), (0.25, 0.5)])
def test_the_score_is_the_logits_of_training_at_that_temperature(case, progress, tau):
    training, _ = case.training(progress)
    np.testing.assert_allclose(score(case, tau), training.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.long  # compiles many small programs
def test_without_a_temperature_it_is_what_is_served(case):
    mask, served = case.batch["mask"], case()["call"]
    np.testing.assert_allclose(score(case, 1e-6)[mask], served[mask], rtol=1e-4, atol=1e-4)
    assert np.abs(score(case, 1.0) - served)[mask].max() > 1e-2


def test_dropout_is_left_out(case, examples_path):
    """What is scored is the mean model: the same for any rate of dropout, and without a seed."""
    masknet = {"dropout": 0.2}
    dropped = Case("fit", Examples(examples_path), tower={"dropout": 0.2, "masknet": masknet})
    np.testing.assert_array_equal(score(dropped, 0.5), score(case, 0.5))


def score(case, tau):
    """Returns the logits of the batch by soft queries."""
    soft = soft_queries.SoftFIT(case.model.config, case.inputs, tau=tau)

    @jax.jit
    def logits():
        request = lookup.embed_requests(case.tables, case.batch, case.store, case.inputs)
        items = lookup.embed_items(case.tables, case.batch["item"], case.store, case.inputs)
        variables = {"params": case.params}
        query = soft.apply(variables, request, method="encode_query")
        encoded = soft.apply(variables, items, method="encode_item")
        return soft.apply(variables, query, encoded, case.batch["cross"], method="score")

    return np.asarray(logits())


@pytest.mark.parametrize(("step", "tau"), [(0, 1.0), (2, 0.5), (8, 1e-3)])
def test_the_temperature_is_that_of_the_step_whose_model_was_kept(examples_path, step, tau):
    model = types.SimpleNamespace(meta=types.SimpleNamespace(decay=0.5, temperature_min=1e-3))
    train = types.SimpleNamespace(
        max_steps=8, epochs=1.0, batch_size=16, log_every=2, eval_every=4, checkpoint_every=4
    )
    trial = types.SimpleNamespace(
        config=types.SimpleNamespace(train=train, model=model), examples=Path(examples_path)
    )
    outcome = types.SimpleNamespace(trial=trial, best=(step, {}))
    assert soft_queries.temperature_of(outcome) == pytest.approx(tau)
