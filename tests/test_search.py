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


def test_search_starts_from_the_config_and_keeps_what_is_better():
    tables, softmax, _, dense, dropout = (stage.field for stage in search.SPACE)

    def score(overrides):  # faster tables and more dropout are good, the rest is not
        return overrides.get(tables, 0.05) + overrides.get(dropout, 0) - (dense in overrides)

    batches, best = run_search(score)
    assert batches[0] == [{}, {tables: 0.15}, {tables: 0.0167}]
    assert batches[1] == [{tables: 0.15, softmax: 0.1}, {tables: 0.15, softmax: 0.001}]
    assert batches[2] == [{tables: 0.15, dense: 0.003}, {tables: 0.15, dense: 0.000333}]
    assert batches[3] == [{tables: 0.15, dropout: 0.2}]
    assert sum(map(len, batches)) == search.TRIALS
    assert best == {tables: 0.15, dropout: 0.2}


def test_search_keeps_to_its_limit_and_prefers_the_config_as_it_stands():
    for limit in (1, 2, 4):
        batches, best = run_search(lambda overrides: 0.5, limit)
        assert sum(map(len, batches)) == limit
        assert best == {}


def test_a_model_without_a_softmax_has_the_decay_of_its_table_rows_searched():
    batches, _ = run_search(lambda overrides: 0.5, model="matrix_factorization")
    assert {"model.l2": 0.03} in batches[1]
    assert not any("train.loss.softmax_weight" in each for batch in batches for each in batch)


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
    lacking = search.Stage("model.no_such.field", "", lambda value: (1, 2))
    batches, _ = run_search(lambda overrides: 0.5, stages=(lacking, search.SPACE[1]))
    assert batches == [
        [{}],
        [{"train.loss.softmax_weight": 0.1}, {"train.loss.softmax_weight": 0.001}],
    ]
