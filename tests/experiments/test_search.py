"""The search that is the same for every model."""

import pytest

from experiments import contenders, jobs, search
from interactrank_jax.config import configuration
from interactrank_jax.io.errors import InputError
from tests.conftest import REPOSITORY


class FakeOutcome:
    def __init__(self, overrides, value):
        self.trial, self.value = self, value
        self.overrides = overrides
        self.error = "" if value > 0 else "failed"
        self.record = jobs.Record()


def run_search(
    score, limit=search.TRIALS, model="two_tower", stages=search.SPACE, data_set="search"
):
    """Searches with a made-up validation metric; returns the batches and the best overrides."""
    config = configuration.load(f"{REPOSITORY / 'configs' / model}.py:{data_set}")
    batches = []

    def train(overrides):
        batches.append([dict(each) for each in overrides])
        return [FakeOutcome(each, score(each)) for each in overrides]

    found = search.search(config, train, limit, stages)
    assert len(found) == sum(map(len, batches)) <= limit
    return batches, search.finalists(found)[0].overrides


LOG_Q, SOFTMAX, TABLES, _, _, DENSE, DROPOUT = (stage.field for stage in search.SPACE)


def test_search_starts_from_the_config_and_keeps_what_is_better():
    def score(overrides):  # faster tables and more dropout are good, the rest is not
        return 9 + overrides.get(TABLES, 0.15) + overrides.get(DROPOUT, 0) - (DENSE in overrides)

    batches, best = run_search(score, limit=9)
    assert batches[0] == [{}, {LOG_Q: "none", SOFTMAX: 0.1}]
    assert batches[1] == [{SOFTMAX: 0.1}, {SOFTMAX: 0.001}]
    assert batches[2] == [{TABLES: 0.45}, {TABLES: 0.05}]
    assert batches[3] == [{TABLES: 0.45, DENSE: 0.003}, {TABLES: 0.45, DENSE: 0.000333}]
    assert batches[4] == [{TABLES: 0.45, DROPOUT: 0.2}]
    assert best == {TABLES: 0.45, DROPOUT: 0.2}


def test_a_stage_starts_from_the_best_value_so_far():
    softmax = {LOG_Q: "none", SOFTMAX: 0.1}
    batches, best = run_search(lambda overrides: 1 + (overrides.get(SOFTMAX, 0) == 0.1))
    assert batches[0] == [{}, softmax]
    assert batches[1] == [{**softmax, SOFTMAX: 1.0}, {**softmax, SOFTMAX: 0.01}]
    assert best == softmax
    assert sum(map(len, batches)) == search.TRIALS


def test_finalists_are_the_best_that_came_to_something():
    outcomes = [FakeOutcome({"x": value}, value) for value in (0.5, 0.7, 0.0, 0.6)]
    assert [each.value for each in search.finalists(outcomes)] == [0.7, 0.6]
    assert search.finalists(outcomes[2:3]) == []


def test_a_model_without_the_correction_is_tried_with_it():
    batches, _ = run_search(lambda overrides: 0.5, model="inttower")
    assert batches[0] == [{}, {LOG_Q: "counts"}]


def test_search_keeps_to_its_limit_and_prefers_the_config_as_it_stands():
    for limit in (1, 2, 4):
        batches, best = run_search(lambda overrides: 0.5, limit)
        assert sum(map(len, batches)) == limit
        assert best == {}


@pytest.mark.parametrize(
    ("model", "data_set", "decay"),
    [
        ("matrix_factorization", "search", {"model.l2": 0.03}),
        ("cold", "movielens_100k_random", {"train.tables.weight_decay": 0.9}),
    ],
)
def test_a_model_without_a_softmax_has_the_decay_of_its_table_rows_searched(model, data_set, decay):
    batches, _ = run_search(lambda overrides: 0.5, model=model, data_set=data_set)
    assert decay in batches[1]
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
    lacking = search.Stage("model.no_such.field", "", 10)
    stages = (lacking, *search.choose(["loss.softmax_weight"]))
    batches, _ = run_search(lambda overrides: 0.5, stages=stages)
    assert batches == [[{}, {SOFTMAX: 0.1}, {SOFTMAX: 0.001}]]


def test_of_the_finalists_the_better_mean_over_seeds_is_tested(monkeypatch, tmp_path):
    # As configured is lucky with the search's seed; nothing else changes but the weight.
    values = {(0.01, 0): 0.9, (0.1, 0): 0.8, (0.001, 0): 0.1}
    values |= {(0.01, seed): 0.5 for seed in (1, 2)} | {(0.1, seed): 0.8 for seed in (1, 2)}
    trained = []

    def make(spec, sweep, examples, out, common):
        return [{**common, **overrides} for overrides in sweep]

    def run(made, parallel, budget_s):
        assert budget_s == 10 / (3 + 2 * 2)
        trained.extend((each.get(SOFTMAX, 0.01), each["train.seed"]) for each in made)
        keys = trained[-len(made) :]
        return [FakeOutcome(each, values[key]) for each, key in zip(made, keys, strict=True)]

    monkeypatch.setattr(contenders.trials, "make", make)
    monkeypatch.setattr(contenders.trials, "run", run)
    monkeypatch.setattr(contenders.Setting, "examples", lambda self, data: tmp_path)
    monkeypatch.setattr(contenders, "score_test", lambda outcome: outcome.value)
    monkeypatch.setattr(contenders, "sizes", lambda trial: {})
    monkeypatch.setattr(contenders, "examples_per_s", lambda outcome: 1)
    stages = search.choose(["loss.softmax_weight"])
    setting = contenders.Setting(
        "search", tmp_path, tmp_path, (0, 1, 2), 3, 1, 10, {}, stages=stages
    )
    tested, further = contenders.run("two_tower", setting)
    assert tested == [0.8, 0.8, 0.8]
    assert further["chosen"]["loss.softmax_weight"] == 0.1
    assert len(trained) == 3 + 4
