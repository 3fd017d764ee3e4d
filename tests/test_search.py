"""The search that is the same for every model."""

import pytest

from experiments import search
from interactrank_jax import configuration
from interactrank_jax.errors import InputError
from tests.conftest import REPOSITORY


class FakeOutcome:
    def __init__(self, overrides, value):
        self.trial, self.value = self, value
        self.overrides = overrides


def run_search(score, limit=search.TRIALS, model="two_tower", stages=search.SPACE):
    """Searches with a made-up validation metric; returns the batches and the best overrides."""
    config = configuration.load(f"{REPOSITORY / 'configs' / model}.py:search")
    batches = []

    def train(overrides):
        batches.append([dict(each) for each in overrides])
        return [FakeOutcome(each, score(each)) for each in overrides]

    found, best = search.search(config, train, limit, stages)
    assert len(found) == sum(map(len, batches)) <= limit
    return batches, best.trial.overrides


TABLES, LOG_Q, SOFTMAX, _, DENSE, DROPOUT = (stage.field for stage in search.SPACE)


def test_search_starts_from_the_config_and_keeps_what_is_better():
    def score(overrides):  # faster tables and more dropout are good, the rest is not
        return overrides.get(TABLES, 0.05) + overrides.get(DROPOUT, 0) - (DENSE in overrides)

    batches, best = run_search(score, limit=9)
    assert batches[0] == [{}, {TABLES: 0.15}, {TABLES: 0.0167}]
    assert batches[1] == [{TABLES: 0.15, LOG_Q: "none", SOFTMAX: 0.1}]
    assert batches[2] == [{TABLES: 0.15, SOFTMAX: 0.1}, {TABLES: 0.15, SOFTMAX: 0.001}]
    assert batches[3] == [{TABLES: 0.15, DENSE: 0.003}, {TABLES: 0.15, DENSE: 0.000333}]
    assert batches[4] == [{TABLES: 0.15, DROPOUT: 0.2}]
    assert best == {TABLES: 0.15, DROPOUT: 0.2}


def test_a_stage_starts_from_the_best_value_so_far():
    contrast = {LOG_Q: "none", SOFTMAX: 0.1}
    batches, best = run_search(lambda overrides: overrides.get(SOFTMAX, 0) == 0.1)
    assert batches[1] == [contrast]
    assert batches[2] == [{**contrast, SOFTMAX: 1.0}, {**contrast, SOFTMAX: 0.01}]
    assert best == contrast
    assert sum(map(len, batches)) == search.TRIALS


def test_a_model_without_the_correction_is_tried_with_it():
    batches, _ = run_search(lambda overrides: 0.5, model="inttower")
    assert batches[1] == [{LOG_Q: "counts"}]


def test_search_keeps_to_its_limit_and_prefers_the_config_as_it_stands():
    for limit in (1, 2, 4):
        batches, best = run_search(lambda overrides: 0.5, limit)
        assert sum(map(len, batches)) == limit
        assert best == {}


def test_a_model_without_a_softmax_has_the_decay_of_its_table_rows_searched():
    batches, _ = run_search(lambda overrides: 0.5, model="matrix_factorization")
    assert {"model.l2": 0.03} in batches[1]
    assert not any({LOG_Q, SOFTMAX} & each.keys() for batch in batches for each in batch)


def test_a_search_of_some_fields_leaves_the_others_alone():
    stages = search.choose(["loss.softmax_weight"])
    assert search.choose(["optimizer.learning_rate", "loss.softmax_weight"])[0] == stages[0]
    batches, _ = run_search(lambda overrides: 0.5, stages=stages)
    fields = {field for batch in batches for each in batch for field in each}
    assert fields == {"train.loss.softmax_weight"}
    assert "softmax_weight" in search.describe(3, stages)
    assert "dropout" not in search.describe(3, stages)
    with pytest.raises(InputError, match="Did you mean 'loss"):
        search.choose(["loss.softmax_weigth"])


def test_a_field_that_a_model_lacks_is_passed_over():
    lacking = search.Stage("model.no_such.field", "", lambda field, get: ({field: 1},))
    stages = (lacking, *search.choose(["loss.softmax_weight"]))
    batches, _ = run_search(lambda overrides: 0.5, stages=stages)
    assert batches == [[{}], [{SOFTMAX: 0.1}, {SOFTMAX: 0.001}]]
