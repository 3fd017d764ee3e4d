"""The count-min sketch: its bound on a skewed stream, merging, forgetting, and use in a step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax import losses
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import sketch

WIDTH, DEPTH, BATCH = 2**10, 4, 5_000
add, count = jax.jit(sketch.add, static_argnames="window"), jax.jit(sketch.count)


def zipf(draws=200_000, items=20_000, seed=0):
    p = 1 / np.arange(1.0, items + 1)
    ids = np.random.default_rng(seed).choice(items, size=draws, p=p / p.sum())
    return ids.astype(np.int32)


def counted(stream, width=WIDTH, depth=DEPTH, **kwargs):
    state = sketch.init(width, depth)
    for batch in stream.reshape(-1, BATCH):
        state = add(state, jnp.asarray(batch), jnp.ones(BATCH, bool), **kwargs)
    return state


@pytest.fixture(scope="module")
def stream():
    return zipf()


@pytest.fixture(scope="module")
def state(stream):
    return counted(stream)


class TestBound:
    # By popularity, as a vocabulary numbers its items, and with gaps as large as the table.
    @pytest.mark.parametrize(("factor", "offset"), [(1, 0), (1024, 5), (65536, 0), (-7, -1)])
    def test_never_below_the_truth_and_rarely_far_above(self, stream, state, factor, offset):
        if (factor, offset) != (1, 0):
            state = counted(stream * np.int32(factor) + np.int32(offset))
        items = np.arange(20_000, dtype=np.int32)
        true = np.bincount(stream, minlength=items.size)
        excess = np.asarray(count(state, jnp.asarray(items * factor + offset))) - true
        assert state.total == stream.size
        assert excess.min() >= 0
        bound = 2 * math.e * stream.size / WIDTH
        assert (excess > bound).mean() <= math.exp(-DEPTH)
        assert excess.mean() < bound / 4

    def test_more_rows_and_wider_rows_are_nearer(self, stream, state):
        items = jnp.arange(20_000)
        one_row = count(counted(stream, depth=1), items)
        wide = count(counted(stream, width=8 * WIDTH), items)
        estimate = count(state, items)
        assert (estimate <= one_row).all()
        assert estimate.mean() < 0.8 * one_row.mean()
        assert wide.mean() < 0.3 * estimate.mean()

    def test_a_row_uses_all_of_its_cells_evenly(self):
        ids = jnp.arange(16 * WIDTH)
        state = add(sketch.init(WIDTH, 8), ids, jnp.ones(ids.shape, bool))
        assert state.cells.min() > 8
        assert state.cells.max() < 32

    def test_a_few_items_are_counted_exactly(self):
        state = sketch.init(2**16)
        ids = jnp.array([[3, 7, 3], [2**31 - 1, 0, 3]])
        state = sketch.add(state, ids, jnp.ones((2, 3), bool))
        np.testing.assert_array_equal(
            sketch.count(state, jnp.array([3, 7, 2**31 - 1, 0, 5])), [3, 1, 1, 1, 0]
        )


class TestAdding:
    def test_sketches_of_two_streams_add_up_to_that_of_both(self, stream, state):
        halves = [counted(half) for half in np.split(stream, 2)]
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(jnp.add, *halves), state)

    def test_over_devices_by_psum_or_by_gathered_ids(self, stream, state):
        devices = jnp.asarray(stream[: 4 * BATCH].reshape(4, BATCH))
        where = jnp.ones(BATCH, bool)

        def by_psum(old, ids):
            new = jax.lax.psum(sketch.add(sketch.init(WIDTH), ids, where), "data")
            return jax.tree.map(jnp.add, old, new)

        def by_gathered_ids(old, ids):
            ids = jax.lax.all_gather(ids, "data", tiled=True)
            return sketch.add(old, ids, jnp.ones(ids.shape, bool))

        expected = state
        for ids in devices:
            expected = add(expected, ids, where)
        for step in (by_psum, by_gathered_ids):
            replicas = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name="data"))(state, devices)
            for leaf, wanted in zip(replicas, expected, strict=True):
                np.testing.assert_array_equal(
                    leaf, np.broadcast_to(wanted, (4, *wanted.shape)), strict=True
                )

    def test_what_is_masked_is_not_counted(self, state, stream):
        ids, where = jnp.asarray(stream[:BATCH]), jnp.arange(BATCH) % 3 == 0
        some = add(state, ids, where)
        expected = sketch.add(state, ids[::3], jnp.ones(ids[::3].size, bool))
        jax.tree.map(np.testing.assert_array_equal, some, expected)
        none = add(state, ids, jnp.zeros(BATCH, bool))
        jax.tree.map(np.testing.assert_array_equal, none, state)

    def test_a_mask_of_another_shape_is_refused(self, state):
        with pytest.raises(InputError, match=r"where has shape \(1,\), expected \(2,\)"):
            sketch.add(state, jnp.array([1, 2]), jnp.ones(1, bool))


class TestForgetting:
    WINDOW = 60_000

    def test_a_stream_that_drifts_is_followed(self):
        items, gone = 1000, 5
        before, after = zipf(100_000, items), (zipf(200_000, items, seed=1) + 500) % items
        state = counted(np.concatenate([before, after]), window=self.WINDOW)
        assert state.total <= self.WINDOW + BATCH
        recent = np.bincount(after, minlength=items) / after.size
        share = np.asarray(count(state, jnp.arange(items))) / int(state.total)
        never_halved = counted(np.concatenate([before, after]))
        old_share = np.asarray(count(never_halved, jnp.arange(items))) / int(never_halved.total)
        assert abs(share[500] - recent[500]) < 0.1 * recent[500]
        assert abs(old_share[500] - recent[500]) > 0.2 * recent[500]
        assert share[:gone].sum() < 0.2 * old_share[:gone].sum()

    def test_counts_are_halved_and_less_than_one_below(self, stream):
        exact = np.zeros(20_000)
        state = sketch.init(2**18)
        for batch in stream.reshape(-1, BATCH):
            if state.total > self.WINDOW:
                exact /= 2
            exact += np.bincount(batch, minlength=exact.size)
            state = add(state, jnp.asarray(batch), jnp.ones(BATCH, bool), window=self.WINDOW)
        estimate = np.asarray(count(state, jnp.arange(exact.size)))
        assert (estimate > exact - 1).all()
        assert abs(int(state.total) - exact.sum()) < 1

    def test_counts_stay_within_32_bits(self):
        full = sketch.Sketch(jnp.full((DEPTH, WIDTH), 2**30 + 1), jnp.int32(2**30 + 1))
        ids = jnp.zeros(BATCH, jnp.int32)
        state = add(full, ids, jnp.ones(BATCH, bool))
        assert state.total == 2**29 + BATCH
        assert count(state, ids[:1])[0] == 2**29 + BATCH


def test_its_log_q_is_near_that_of_exact_counts(stream, state):
    items = np.arange(20_000)
    exact = losses.log_q_from_counts(jnp.bincount(stream, length=20_000), stream.size, 2560)
    wide = counted(stream, width=2**16)
    estimate = losses.log_q_from_counts(count(wide, jnp.asarray(items)), wide.total, 2560)
    drawn = np.unique(stream)
    assert np.abs(estimate - exact)[drawn].mean() < 0.01


@pytest.mark.parametrize(("width", "depth"), [(1000, 4), (1, 4), (0, 4), (1024, 0), (1024, 9)])
def test_sizes_that_cannot_be_hashed_are_refused(width, depth):
    with pytest.raises(InputError, match=r"The (width|depth) of a sketch is"):
        sketch.init(width, depth)
