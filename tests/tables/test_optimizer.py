"""Row-wise optimizers against dense numpy references, and the schedules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from interactrank_jax.tables import lookup
from interactrank_jax.tables.lookup import Slot
from interactrank_jax.tables.optimizer import RowOptimizer, update_tables
from interactrank_jax.training import optim

DIM, BATCH = 3, 6
RATE = [0.3, 0.2, 0.1, 0.4]  # by step


def schedule(step):
    return jnp.asarray(RATE, jnp.float32)[step]


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batches(rows):
    """Ids with repetitions and padding, and the gradient of each lookup."""
    rng = np.random.default_rng(5)
    for step in range(len(RATE)):
        ids = rng.choice([0, 1, 2, 3, rows - 1], BATCH).astype(np.int32)
        ids[:2] = 2  # always a duplicate
        yield step, ids, rng.normal(size=(BATCH, DIM)).astype(np.float32)


class DenseReference:
    """Adds up gradients densely, then loops over the touched rows in float64."""

    def __init__(self, name, table):
        self.name, self.table = name, table.astype(np.float64)
        self.accumulator = np.full(len(table), 0.1)
        self.first, self.second = np.zeros_like(self.table), np.zeros_like(self.table)

    def step(self, step, ids, lookup_gradient):
        gradient = np.zeros_like(self.table)
        np.add.at(gradient, ids, lookup_gradient)
        for row in set(ids.tolist()) - {0}:
            g = gradient[row]
            if self.name == "adagrad":
                self.accumulator[row] += (g**2).mean()
                change = g / np.sqrt(self.accumulator[row])
            else:
                self.first[row] = 0.9 * self.first[row] + 0.1 * g
                self.second[row] = 0.999 * self.second[row] + 0.001 * g**2
                first = self.first[row] / (1 - 0.9 ** (step + 1))
                second = self.second[row] / (1 - 0.999 ** (step + 1))
                change = first / (np.sqrt(second) + 1e-8)
            self.table[row] -= RATE[step] * change

    def state(self):
        if self.name == "adagrad":
            return {"accumulator": self.accumulator}
        return {"first": self.first, "second": self.second}


def make_step(optimizer):
    """One step as in training: look up, differentiate the gathered rows, update them."""

    @jax.jit
    def step(table, state, ids, lookup_gradient, number):
        slots = {"slot": Slot("table", ids)}
        rows, index = lookup.unique_rows({"table": len(table)}, slots)

        def functional(values):
            return (lookup.embed(values, slots, index)["slot"] * lookup_gradient).sum()

        gradient = jax.grad(functional)({"table": rows["table"].read(table)})
        tables, states = update_tables(
            optimizer, {"table": table}, {"table": state}, rows, gradient, number
        )
        return tables["table"], states["table"]

    return step


@pytest.mark.parametrize("rows", [5, 50], ids=["whole table", "gathered rows"])
@pytest.mark.parametrize("name", ["adagrad", "adam"])
def test_row_updates_equal_a_dense_reference_and_leave_the_rest_bit_identical(name, rows):
    optimizer = RowOptimizer(name, schedule)
    table = draw(0, rows, DIM)
    reference = DenseReference(name, table)
    step = make_step(optimizer)
    now, state = jnp.asarray(table), optimizer.init(jnp.asarray(table))
    for number, ids, gradient in batches(rows):
        before = jax.tree.map(np.array, (now, state))
        now, state = step(now, state, ids, gradient, jnp.int32(number))
        reference.step(number, ids, gradient)

        # float32 leaves four digits of Adam's 1 - .999^t in the first steps
        np.testing.assert_allclose(now, reference.table, rtol=1e-4, atol=1e-5)
        assert set(state) == set(reference.state())
        for key, value in reference.state().items():
            np.testing.assert_allclose(state[key], value, rtol=1e-5, atol=1e-7)
        untouched = np.setdiff1d(np.arange(rows), ids[ids > 0])
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves((now, state)), strict=True):
            np.testing.assert_array_equal(np.asarray(new)[untouched], old[untouched])
        assert (np.asarray(now)[ids[ids > 0]] != before[0][ids[ids > 0]]).any(-1).all()
    np.testing.assert_array_equal(now[0], table[0])  # the padding row


@pytest.mark.parametrize("rows", [5, 50], ids=["whole table", "gathered rows"])
def test_a_row_that_is_touched_without_a_gradient_stays_with_adagrad(rows):
    optimizer = RowOptimizer("adagrad", schedule)
    table = jnp.asarray(draw(0, rows, DIM))
    ids = np.array([1, 1, 2, 3, 0, 0], np.int32)
    now, state = make_step(optimizer)(
        table, optimizer.init(table), ids, np.zeros((BATCH, DIM), np.float32), jnp.int32(0)
    )
    np.testing.assert_array_equal(now, table)
    np.testing.assert_array_equal(state["accumulator"], np.float32(0.1))


@pytest.mark.parametrize("rows", [3, 50], ids=["whole table", "gathered rows"])
@pytest.mark.parametrize("name", ["adagrad", "adam"])
def test_a_row_that_is_not_touched_stays_whatever_its_gradient(name, rows):
    optimizer = RowOptimizer(name, schedule)
    table = jnp.asarray(draw(0, rows, DIM))
    ids = None if rows == 3 else jnp.array([0, 1, 2], jnp.int32)
    found = lookup.Rows(ids, jnp.array([False, True, False]))
    state = optimizer.init(table)
    after = jax.jit(optimizer.update)(table, state, found, jnp.ones((3, DIM)), jnp.int32(0))
    for old, new in zip(jax.tree.leaves((table, state)), jax.tree.leaves(after), strict=True):
        others = np.setdiff1d(np.arange(rows), 1)
        np.testing.assert_array_equal(new[others], old[others])
        assert (new[1] != old[1]).all()


def test_adagrad_starts_from_the_configured_accumulator_one_per_row():
    state = RowOptimizer("adagrad", schedule, 0.7).init(jnp.zeros((4, 3)))
    np.testing.assert_array_equal(state["accumulator"], np.full(4, np.float32(0.7)))


def test_tables_without_rows_pass_through():
    optimizer = RowOptimizer("adagrad", schedule)
    tables = {"a": jnp.ones((4, 3))}
    states = {"a": optimizer.init(tables["a"])}
    new_tables, new_states = update_tables(optimizer, tables, states, {}, {}, jnp.int32(0))
    assert new_tables["a"] is tables["a"]
    assert new_states["a"] is states["a"]


def rates(steps, total=20, **fields: Any):
    config = {"learning_rate": 2.0, "warmup_steps": 4, "decay": "constant"} | fields
    found = optim.learning_rate(ConfigDict(config), total)
    return np.array([float(found(step)) for step in steps])


class TestLearningRate:
    def test_warms_up_linearly_to_the_peak_and_then_stays(self):
        np.testing.assert_allclose(rates(range(7)), [0, 0.5, 1, 1.5, 2, 2, 2])

    def test_a_cosine_falls_to_zero_at_the_last_step(self):
        found = rates([2, 4, 12, 20, 30], decay="cosine")
        np.testing.assert_allclose(found, [1, 2, 1, 0, 0], atol=1e-6)

    @pytest.mark.parametrize("decay", ["constant", "cosine"])
    def test_without_warmup_the_first_step_has_the_peak(self, decay):
        assert rates([0], decay=decay, warmup_steps=0) == [2.0]

    def test_a_run_shorter_than_its_warmup_is_finite(self):
        assert np.isfinite(rates(range(10), total=3, decay="cosine", warmup_steps=8)).all()


AFFINE = ConfigDict({"rate_scale": 10.0, "weight_decay": 0.0})


class TestDenseOptimizer:
    def update(self, gradient, **fields):
        config = ConfigDict({"clip_norm": 1.0, "weight_decay": 0.0} | fields)
        optimizer = optim.dense_optimizer(config, lambda _: 0.1, AFFINE)
        params = {"a": jnp.array([2.0, -2.0]), "b": jnp.array([[1.0]])}
        state, result = optimizer.init(params), params
        for _ in range(2):
            updates, state = optimizer.update(gradient, state, result)
            result = jax.tree.map(jnp.add, result, updates)
        return params, result

    def test_steps_by_the_learning_rate_against_the_gradient(self):
        gradient = {"a": jnp.array([0.1, -0.2]), "b": jnp.array([[0.3]])}
        before, after = self.update(gradient)
        for key in before:  # Adam under a constant gradient: the rate each step, by sign
            expected = before[key] - 0.2 * np.sign(gradient[key])
            np.testing.assert_allclose(after[key], expected, rtol=1e-4)

    def test_a_norm_of_zero_clips_nothing(self):
        gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
        _, unclipped = self.update(gradient, clip_norm=0.0)
        _, clipped = self.update(gradient, clip_norm=1e6)
        for key in gradient:
            np.testing.assert_array_equal(unclipped[key], clipped[key])

    def test_clips_the_norm_over_all_parameters_together(self):
        gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
        optimizer = optim.dense_optimizer(
            ConfigDict({"clip_norm": 1.0, "weight_decay": 0.0}), lambda _: 0.1, AFFINE
        )
        _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
        (moments,) = (leaf.mu for leaf in jax.tree.leaves(state, is_leaf=_has_mu) if _has_mu(leaf))
        np.testing.assert_allclose(moments["a"], [0.1 * 0.6, 0], rtol=1e-5)  # norm 5
        np.testing.assert_allclose(moments["b"], [[0.1 * 0.8]], rtol=1e-5)

    def test_weight_decay_shrinks_what_has_no_gradient(self):
        gradient = {"a": jnp.zeros(2), "b": jnp.zeros((1, 1))}
        before, after = self.update(gradient, weight_decay=0.5)
        np.testing.assert_allclose(after["a"], before["a"] * 0.95**2, rtol=1e-5)

    def test_terms_of_history_have_a_decay_and_a_rate_of_their_own(self):
        config = ConfigDict({"clip_norm": 1.0, "weight_decay": 0.5})
        affine = ConfigDict({"rate_scale": 2.0, "weight_decay": 0.25})
        optimizer = optim.dense_optimizer(config, lambda _: 0.1, affine)
        params = {name: jnp.ones(1) for name in ("cross_terms", "dot_weight", "bias", "other")}
        zero = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.update(zero, optimizer.init(params), params)
        expected = {"cross_terms": -0.05, "dot_weight": 0, "bias": 0, "other": -0.05}
        for name, value in expected.items():
            np.testing.assert_allclose(updates[name], value, rtol=1e-5)


def _has_mu(node):
    return hasattr(node, "mu")
