"""Matrix factorisation against a slow, literal numpy version."""

from typing import Any

import numpy as np
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.runs.run import Run
from tests.models.model_case import CORPUS, HEADS, REQUESTS, Case
from tests.synthetic import SLATE, tiny_config

DIM = 8


@pytest.fixture(scope="module")
def case(examples):
    return Case("matrix_factorization", examples)


def logits_by_hand(case, user, item):
    """Of one user and one store row: `[H]`."""
    user_row, item_row = case.tables["user"][user], case.tables["item"][case.store["id"][item]]
    logits = []
    for head in range(HEADS):
        start = head * (DIM + 1)
        logit = case.params["bias"][head] + user_row[start + DIM] + item_row[start + DIM]
        for factor in range(start, start + DIM):
            logit = logit + user_row[factor] * item_row[factor]
        logits.append(logit)
    return logits


def test_a_logit_is_the_product_of_factors_and_three_biases(case):
    outputs, batch = case(), case.batch
    for request in range(REQUESTS):
        user = batch["user"][request]
        for candidate in range(SLATE):
            expected = logits_by_hand(case, user, batch["item"][request, candidate])
            found = outputs["score"][request, candidate]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        for place, item in enumerate(CORPUS):
            expected = logits_by_hand(case, user, item)
            found = outputs["score_all"][request, place]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_nothing_but_the_two_ids_is_looked_at(case):
    kept = ("user", "item", "mask", "actions", "request_index", "position")
    others = {
        name: value if name in kept else np.roll(value, 1, axis=0)
        for name, value in case.batch.items()
    }
    np.testing.assert_array_equal(case(others)["score"], case()["score"])


def test_each_head_has_a_factorisation_of_its_own(case):
    tables = {name: table.copy() for name, table in case.tables.items()}
    tables["user"][1:, DIM + 1 :] += 1.0  # of the second head
    before, after = case()["score"], case(tables=tables)["score"]
    np.testing.assert_array_equal(after[..., 0], before[..., 0])
    assert (np.abs(after[..., 1] - before[..., 1]) > 1e-3).all()


def test_training_holds_back_the_factors_of_the_candidates_there_are_but_no_bias(case):
    outputs, mask = case(), case.batch["mask"]
    assert not mask.all()
    training: Any = case.model.apply(
        {"params": case.params},
        outputs["query"],
        outputs["items"],
        case.batch["cross"],
        engaged=mask,
        mask=mask,
        progress=0.0,
        method="train_score",
    )
    lengths = []
    for request, candidate in np.argwhere(mask):
        factors = outputs["query"][request, :, :DIM], outputs["items"][request, candidate, :, :DIM]
        lengths.append(sum((each**2).sum() for each in factors))
    np.testing.assert_allclose(training.losses["l2"].mean(), np.mean(lengths), rtol=1e-5)
    np.testing.assert_array_equal(training.logits, outputs["score"])
    assert case.model.auxiliary_losses() == {"l2": case.config.model.l2}


@pytest.mark.parametrize("name", ["user_id", "item_id"])
def test_an_id_that_is_excluded_is_missed(examples, name):
    sequence = {"features": ("category",)}
    config = tiny_config("matrix_factorization", exclude=(name,), sequence=sequence)
    with pytest.raises(InputError, match=f"needs '{name}'"):
        _ = Run("unused", config, examples.metadata).model_template
