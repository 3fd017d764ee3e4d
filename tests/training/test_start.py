"""Where training starts, at which rate the last projection learns, and ids that are dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax.config import models
from interactrank_jax.evaluation.regression import fit_regression
from interactrank_jax.evaluation.scorers import ModelScorer
from interactrank_jax.examples.format import PADDING, Examples
from interactrank_jax.examples.input import evaluation_batches
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.models.history_terms import transform_cross, transform_user_values
from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.models.interactrank import InteractRank
from interactrank_jax.models.registry import register
from interactrank_jax.models.two_tower import TwoTower
from interactrank_jax.tables.lookup import Slot
from interactrank_jax.training.steps import drop_ids
from interactrank_jax.training.trainer import Trainer
from tests.log.handmade_log import make_tables, write_log
from tests.marks import some_quick
from tests.serving.making import make_config
from tests.synthetic import tiny_config

WITH_TERMS = (
    *("interactrank", "interactfit", "lr", "cold", "wide_deep", "deepfm", "dcn_v2", "autoint"),
)

START_AT_ZERO = ("interactfit", "cold", "dcn_v2", "autoint")


def make_trainer(examples_path, model="interactrank", dot_weight_init=1.0, **train):
    config = tiny_config(model)
    config.model.dot_weight_init = dot_weight_init
    config.train.update_from_flattened_dict(train)
    return Trainer(config, Examples(examples_path))


@pytest.mark.long  # compiles a step for itself
@pytest.mark.parametrize("model", some_quick(WITH_TERMS, ("interactrank", "interactfit", "cold")))
def test_step_0_is_the_regression(examples_path, model):
    """Its weights to the bit, and its scores where the network starts at zero."""
    trainer = make_trainer(examples_path, model, dot_weight_init=0.01)
    rule, sampling = trainer.run.rule, float(trainer.config.train.loss.impression_sampling)

    def weights(actions, stage):
        assert stage is None
        return rule.example_weights(actions) * np.where(rule.acted(actions), 1.0, sampling)

    inputs, transform = trainer.run.model.inputs, trainer.config.model.cross.transform
    fitted = fit_regression(trainer.examples, rule, inputs, transform, weights)
    params = trainer.state.params
    np.testing.assert_allclose(params["cross_terms"]["weight"], fitted.cross_weight, rtol=1e-6)
    bias = params
    for name in trainer.run.model.bias_path():
        bias = bias[name]
    np.testing.assert_allclose(bias, fitted.bias, rtol=1e-6)
    shapes = jax.eval_shape(trainer.run.model.init, jax.random.key(0), **sample(trainer))
    assert jax.tree.structure(params) == jax.tree.structure(shapes["params"])  # and no others

    batch = next(evaluation_batches(trainer.examples, "validation", 32))
    scorer = ModelScorer(trainer.run, trainer.examples, "validation", trainer.parallel)
    scorer.use({"params": trainer.placed.params, "tables": trainer.placed.tables})
    logits = scorer.slate(batch)
    difference = np.abs(logits - fitted.logits(batch))[batch["mask"]]
    # Small is what stands beside: first-order weights, and a dot product of the weight 0.01.
    assert difference.max() < (1e-4 if model in START_AT_ZERO else 1.0)


@pytest.mark.long  # compiles a step for itself
def test_users_counts_and_rates_start_there_too(tmp_path):
    config = make_config()
    config.model.dot_weight_init = 1e-6
    write_log(tmp_path / "log", make_tables(200))
    prepare(config.data, tmp_path / "log", tmp_path / "examples")
    trainer = Trainer(config, Examples(tmp_path / "examples"))
    inputs, weight = trainer.run.model.inputs, trainer.state.params["user_terms"]["weight"]
    assert [value.mean > 0 for value in inputs.user_values] == [False, True]  # a count, a rate
    np.testing.assert_array_equal(weight, trainer.affine.user)
    assert (weight != 0).all()
    batch = next(evaluation_batches(trainer.examples, "validation", 16))
    scorer = ModelScorer(trainer.run, trainer.examples, "validation", trainer.parallel)
    scorer.use({"params": trainer.placed.params, "tables": trainer.placed.tables})
    users = batch["request_numeric"][:, list(inputs.request_columns)]
    expected = trainer.affine.bias + np.asarray(
        transform_cross(batch["cross"], inputs, "odds") @ trainer.affine.cross
        + (transform_user_values(jnp.asarray(users), inputs.user_values) @ weight)[:, None]
    )
    difference = np.abs(scorer.slate(batch) - expected)[batch["mask"]]
    assert difference.max() < 1e-3


@pytest.mark.long  # compiles a step for itself
def test_rows_count_by_their_stage_as_in_the_loss(tmp_path):
    """A tenth of the weight moves the bias by its logarithm, as it moves the prior correction."""
    write_log(tmp_path / "log", make_tables(200))
    prepare(make_config().data, tmp_path / "log", tmp_path / "examples")
    biases, offsets = [], []
    for weight in (1.0, 0.1):
        config = make_config()
        config.train.loss.stage_weights = (weight,) * 3
        trainer = Trainer(config, Examples(tmp_path / "examples"))
        biases.append(trainer.affine.bias[0])
        offsets.append(trainer.run.prior_offsets(trainer.examples)[0])
    assert offsets[1] - offsets[0] > 1.5
    assert biases[1] - biases[0] == pytest.approx(offsets[1] - offsets[0], abs=0.4)


class Plain(InteractRank):
    """A model of one's own that has no terms of history."""

    def setup(self):
        TwoTower.setup(self)

    def offset(self, request):
        return None

    def score(self, query, items, cross):
        return TwoTower.score(self, query, items, cross)


@pytest.mark.long  # compiles a step for itself
def test_a_model_of_ones_own_without_such_terms_starts_as_it_is(examples_path, registries):
    register("plain")(Plain)
    config = tiny_config("interactrank")
    config.model.name = "plain"
    trainer = Trainer(config, Examples(examples_path))
    assert "cross_terms" not in trainer.state.params


def sample(trainer):
    return zero_inputs(trainer.run.model.inputs, trainer.run.model.row_width)


def test_switched_off_it_starts_as_the_config_says(examples_path):
    trainer = make_trainer(examples_path, **{"affine.fit": False})
    weight = trainer.state.params["cross_terms"]["weight"]
    assert (np.asarray(weight) == trainer.config.model.cross.weight_init).all()
    assert trainer.affine is None


@pytest.mark.long  # compiles a step for itself
@pytest.mark.parametrize("model", ["two_tower", "fit", "matrix_factorization"])
def test_a_model_without_terms_of_history_starts_as_ever(examples_path, model):
    plain, fitted = (
        make_trainer(examples_path, model, **{"affine.fit": on}) for on in (False, True)
    )
    same = jax.tree.map(np.array_equal, plain.state.params, fitted.state.params)
    assert all(jax.tree.leaves(same))


@pytest.mark.thorough  # two steps to compile
def test_the_rate_of_the_projection_is_its_own(examples_path):
    """At ten times the rate its first update is ten times as large, and no other one is."""
    changes = []
    for scale in (1.0, 10.0):
        overrides = {"affine.rate_scale": scale, "optimizer.warmup_steps": 0}
        trainer = make_trainer(examples_path, **overrides)
        before = jax.device_get(trainer.state.params)
        trainer.advance(trainer.parallel.shard(next(trainer.batches())))
        after = jax.device_get(trainer.state.params)
        changes.append(jax.tree.map(lambda new, old: new - old, after, before))
    plain, scaled = changes
    for name, change in plain.items():
        factor = 10.0 if name in ("cross_terms", "bias", "dot_weight") else 1.0
        jax.tree.map(
            lambda one, other, factor=factor: np.testing.assert_allclose(
                other, factor * one, rtol=2e-3, atol=1e-6
            ),
            change,
            scaled[name],
        )


def test_dropped_ids_become_hashed_rows_and_nothing_else_does():
    ids = jnp.arange(3000).reshape(300, 10) % 500
    slots = {
        name: Slot("item", ids)
        for name in ("request/user_id", "item/item_id", "history/item_id", "item/category")
    }
    dropped = drop_ids(slots, 0.3, 4, jax.random.key(0))
    for name in ("history/item_id", "item/category"):
        assert dropped[name] is slots[name]
    for name in ("request/user_id", "item/item_id"):
        changed = np.asarray(dropped[name].ids != ids)
        assert 0.25 < changed.mean() < 0.35
        assert set(np.asarray(dropped[name].ids)[changed].tolist()) <= {1, 2, 3, 4}
        assert not np.asarray(dropped[name].ids)[np.asarray(ids) == PADDING].any()
    first, second = (np.asarray(dropped[n].ids) for n in ("request/user_id", "item/item_id"))
    assert (first != second).any()


@pytest.mark.thorough  # two steps to compile
def test_with_dropped_ids_the_hashed_rows_are_trained(examples_path):
    tables = []
    for share in (0.0, 0.9):
        trainer = make_trainer(examples_path, **{"id_dropout": share})
        before = np.asarray(trainer.state.tables["item"])
        trainer.advance(trainer.parallel.shard(next(trainer.batches())))
        tables.append(np.abs(np.asarray(trainer.state.tables["item"]) - before).sum(1) > 0)
    rows = slice(1, 1 + trainer.examples.metadata.out_of_vocabulary)
    assert tables[1][rows].all()
    assert tables[1].sum() < tables[0].sum()


@pytest.mark.long  # a training
@pytest.mark.parametrize("model", some_quick(["cold", "wide_deep", "dcn_v2"], ["cold"]))
def test_rows_live_until_the_last_layer_has_left_zero(examples_path, model):
    """Under Adam a loss of their length would take them to zero, where nothing learns."""
    config = tiny_config(model)
    random_split = models.build(model, "movielens_100k_random")
    config.train.tables.update(random_split.train.tables)
    config.model.l2 = random_split.model.l2
    config.train.update({"max_steps": 12, "patience": 0})
    trainer = Trainer(config, Examples(examples_path))
    start = np.array(trainer.state.tables["item"])
    trainer.fit()
    end = np.array(trainer.state.tables["item"])
    touched = (start != end).any(-1)
    lengths = [np.linalg.norm(rows[touched], axis=-1).mean() for rows in (start, end)]
    assert touched.any()
    assert lengths[1] > 0.7 * lengths[0]
