"""Tables outside the modules: what a batch looks up, and what it may touch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax.examples.format import PADDING
from interactrank_jax.tables import lookup
from interactrank_jax.tables.lookup import Slot
from interactrank_jax.tables.sharding import init_tables


def draw(seed, *shape) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class TestDistinctIds:
    @pytest.mark.parametrize(
        "ids",
        [[5, 3, 5, 0, 9, 3], [4], [7, 7, 7], [0, 0, 10, 10], [3, 1, 2]],
        ids=str,
    )
    def test_equals_numpy_unique_filled_up_with_the_size(self, ids):
        expected, inverse = np.unique(ids, return_inverse=True)
        distinct, place = jax.jit(lookup.distinct_ids, static_argnums=1)(
            jnp.array(ids, jnp.int32), 10
        )
        assert distinct.dtype == jnp.int32
        np.testing.assert_array_equal(distinct[: len(expected)], expected)
        np.testing.assert_array_equal(distinct[len(expected) :], 10)
        np.testing.assert_array_equal(place, inverse)

    def test_equals_numpy_unique_on_many_random_ids(self):
        ids = np.random.default_rng(0).zipf(1.3, 3000).clip(0, 999).astype(np.int32)
        distinct, place = jax.jit(lookup.distinct_ids, static_argnums=1)(ids, 1000)
        expected, inverse = np.unique(ids, return_inverse=True)
        np.testing.assert_array_equal(distinct[: len(expected)], expected)
        np.testing.assert_array_equal(place, inverse)


def slot(table, ids, pooled=False):
    array: Any = np.array(ids, np.int32)
    return Slot(table, array, pooled)


SLOTS = {
    "candidate": slot("item", [[3, 5, 0], [5, 9, 3]]),
    "history": slot("item", [[9, 9, 0, 0], [1, 5, 2, 0]]),
    "user": slot("user", [2, 2]),
    "title": slot("text", [[4, 0, 6], [0, 0, 0]], pooled=True),
}


def by_hand(tables):
    """A literal lookup: padding is zero, a text the mean of its tokens."""
    result = {}
    for name, slot in SLOTS.items():
        dim = tables[slot.table].shape[1]
        vectors = np.zeros((*slot.ids.shape, dim), np.float32)
        for place in np.ndindex(slot.ids.shape):
            if slot.ids[place]:
                vectors[place] = tables[slot.table][slot.ids[place]]
        if slot.pooled:
            tokens = (slot.ids != 0).sum(-1, keepdims=True)
            vectors = vectors.sum(-2) / np.maximum(tokens, 1)
        result[name] = vectors
    return result


def row_ids(found, rows):
    return np.arange(rows) if found.ids is None else np.asarray(found.ids)


@pytest.fixture(params=[0, 1_000], ids=["gather", "one-hot"])
def way_of_lookup(request, monkeypatch):
    """Both ways of looking up, whatever the number of rows."""
    monkeypatch.setattr(lookup, "ONE_HOT_ROWS", request.param)


@pytest.mark.usefixtures("way_of_lookup")
@pytest.mark.parametrize("rows", [10, 500], ids=["whole tables", "gathered rows"])
class TestLookup:
    def tables(self, rows):
        names = ("item", "user", "text")
        return {name: jnp.asarray(draw(i, rows, 3)) for i, name in enumerate(names)}

    def sizes(self, rows):
        return dict.fromkeys(("item", "user", "text"), rows)

    def test_takes_a_short_table_whole_and_gathers_of_a_long_one(self, rows):
        tables = {"item": jnp.asarray(draw(0, rows, 3))}
        slots = {name: slot for name, slot in SLOTS.items() if slot.table == "item"}
        found = lookup.unique_rows({"item": rows}, slots)[0]["item"]
        assert (found.ids is None) == (rows == 10)
        assert found.read(tables["item"]).shape == (10 if rows == 10 else 14, 3)

    def test_never_takes_whole_what_no_device_can(self, rows):
        found, _ = lookup.unique_rows(self.sizes(rows), SLOTS, never_whole=("item",))
        assert found["item"].ids is not None

    def test_gathered_rows_give_what_a_direct_lookup_gives(self, rows):
        tables = self.tables(rows)

        @jax.jit
        def both(tables):
            found, index = lookup.unique_rows(self.sizes(rows), SLOTS)
            values = {name: found[name].read(tables[name]) for name in found}
            return lookup.embed(values, SLOTS, index), lookup.embed(tables, SLOTS)

        expected = by_hand(tables)
        for embedded in both(tables):
            assert set(embedded) == set(SLOTS)
            for name in SLOTS:
                np.testing.assert_allclose(embedded[name], expected[name], rtol=1e-6)

    def test_row_gradients_add_up_to_the_gradient_of_the_tables(self, rows):
        tables = self.tables(rows)
        weight = {name: draw(7, *value.shape) for name, value in by_hand(tables).items()}

        def functional(values, index):
            embedded = lookup.embed(values, SLOTS, index)
            return sum((jnp.sin(embedded[name]) * weight[name]).sum() for name in SLOTS)

        @jax.jit
        def both(tables):
            found, index = lookup.unique_rows(self.sizes(rows), SLOTS)
            values = {name: found[name].read(tables[name]) for name in found}
            return found, jax.grad(functional)(values, index), jax.grad(functional)(tables, None)

        found, by_row, dense = both(tables)
        for name, table in tables.items():
            scattered = np.zeros_like(table)
            ids = row_ids(found[name], rows)
            inside = ids < rows
            scattered[ids[inside]] = by_row[name][inside]
            np.testing.assert_allclose(scattered, dense[name], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(by_row[name][~inside], 0)
            np.testing.assert_array_equal(dense[name][PADDING], 0)

    def test_marks_exactly_the_rows_looked_up_and_never_the_padding(self, rows):
        found, _ = lookup.unique_rows(self.sizes(rows), SLOTS)
        for name in found:
            wanted = set(
                np.concatenate(
                    [s.ids.reshape(-1) for s in SLOTS.values() if s.table == name]
                ).tolist()
            ) - {PADDING}
            marked = row_ids(found[name], rows)[np.asarray(found[name].touched)]
            assert sorted(marked) == sorted(wanted)

    def test_text_is_the_mean_of_its_tokens_whatever_the_padding(self, rows):
        table = draw(0, rows, 3)
        one = lookup.embed({"text": table}, {"t": slot("text", [[4, 6]], pooled=True)})
        padded = slot("text", [[0, 4, 0, 6, 0]], pooled=True)
        other = lookup.embed({"text": table}, {"t": padded})
        np.testing.assert_allclose(one["t"][0], (table[4] + table[6]) / 2, rtol=1e-6)
        np.testing.assert_allclose(other["t"], one["t"], rtol=1e-6)


class TestPadding:
    """Row 0 is not zero here, nor is the gradient of padding: neither may be seen."""

    IDS = np.array([[3, 0, 1, 0], [0, 0, 0, 0], [2, 3, 3, 0]], np.int32)

    def value_and_gradient(self, rows, cotangent, whole):
        """The embedded ids, and the gradient of the rows that they were looked up in."""
        table, slots = jnp.asarray(draw(0, rows, 3)), {"s": Slot("item", jnp.asarray(self.IDS))}
        sizes = {"item": rows}

        @jax.jit
        def both(table):
            chosen, index = lookup.unique_rows(sizes, slots, () if whole else ("item",))
            values = {"item": chosen["item"].read(table)}
            result, pull = jax.vjp(lambda v: lookup.embed(v, slots, index)["s"], values)
            return result, pull(cotangent)[0]["item"], chosen["item"].ids

        found, gradient, ids = both(table)
        if ids is None:
            return found, np.asarray(gradient)
        assert not np.asarray(gradient)[ids >= rows].any()
        by_row = np.zeros((rows, 3), np.float32)
        by_row[ids[ids < rows]] = gradient[ids < rows]
        return found, by_row

    @pytest.mark.usefixtures("way_of_lookup")
    @pytest.mark.parametrize("whole", [True, False])
    def test_reads_zeros_and_adds_to_no_row(self, whole):
        cotangent = draw(1, *self.IDS.shape, 3)
        found, gradient = self.value_and_gradient(6, cotangent, whole)
        np.testing.assert_array_equal(found[self.IDS == PADDING], 0)
        expected = np.zeros((6, 3))
        for place in zip(*np.nonzero(self.IDS), strict=True):
            expected[self.IDS[place]] += cotangent[place]
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(gradient[[PADDING, 4, 5]], 0)

    @pytest.mark.parametrize("whole", [True, False])
    def test_a_gradient_of_padding_is_dropped_not_added_as_a_zero(self, whole, monkeypatch):
        """A NaN times zero is a NaN; one that is dropped is nowhere."""
        monkeypatch.setattr(lookup, "ONE_HOT_ROWS", 0)
        cotangent = np.where(self.IDS[..., None] == PADDING, np.nan, 1.0).astype(np.float32)
        cotangent = np.broadcast_to(cotangent, (*self.IDS.shape, 3))
        _, gradient = self.value_and_gradient(6, cotangent, whole)
        np.testing.assert_array_equal(gradient[:, 0], [0, 1, 1, 3, 0, 0])

    def test_padded_tokens_of_a_text_read_no_row(self):
        table = jnp.asarray(draw(0, 40, 3))
        slots = {"t": slot("text", [[4, 0, 6, 0], [0, 0, 0, 0]], pooled=True)}
        embedded = lookup.embed({"text": table}, slots)["t"]
        np.testing.assert_allclose(embedded[0], (table[4] + table[6]) / 2, rtol=1e-6)
        np.testing.assert_array_equal(embedded[1], 0)


@pytest.mark.parametrize("rows", [lookup.ONE_HOT_ROWS, lookup.ONE_HOT_ROWS + 1])
def test_a_product_with_one_hot_rows_equals_a_gather(rows, monkeypatch):
    """The bits of the values, and the gradients up to the order of their sums."""
    table, ids = jnp.asarray(draw(0, rows, 32)), np.random.default_rng(1).integers(0, rows, 3_000)
    slots = {"s": slot("item", ids)}
    cotangent = jnp.asarray(draw(2, len(ids), 32))
    results = []
    for limit in (0, rows):
        monkeypatch.setattr(lookup, "ONE_HOT_ROWS", limit)
        value, pull = jax.vjp(lambda table: lookup.embed({"item": table}, slots)["s"], table)
        results.append((value, pull(cotangent)[0]))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "adds"), [(lookup.ONE_HOT_ROWS, False), (1_000, True)])
def test_only_tables_of_many_rows_add_up_gradients_by_scattering(rows, adds):
    slots = {"s": slot("item", np.arange(50) % rows)}
    gradient = jax.grad(lambda table: (lookup.embed({"item": table}, slots)["s"] ** 2).sum())
    assert ("scatter-add" in str(jax.make_jaxpr(gradient)(jnp.ones((rows, 4))))) == adds


def test_tables_start_small_with_a_zero_padding_row_and_differ_from_each_other():
    tables = init_tables(jax.random.key(0), {"a": 400, "b": 400}, lambda table: 8, 0.05)
    for table in tables.values():
        assert table.shape == (400, 8)
        np.testing.assert_array_equal(table[PADDING], 0)
        assert np.std(table[1:]) == pytest.approx(0.05, rel=0.1)
    assert not np.allclose(tables["a"], tables["b"])


def test_the_store_on_device_has_no_wide_numbers():
    store = lookup.item_store(
        {"id": np.arange(3, dtype=np.int64), "numeric": np.ones((3, 1), np.float64)}
    )
    assert {name: value.dtype.str for name, value in store.items()} == {
        "id": "<i4",
        "numeric": "<f4",
    }
