"""What a model takes: read off prepared examples, and filled from what a batch looks up."""

from typing import Any

import jax
import numpy as np
import pytest

from interactrank_jax.examples.format import PADDING, Examples
from interactrank_jax.examples.input import evaluation_batches
from interactrank_jax.io.errors import InputError
from interactrank_jax.models.inputs import Inputs, zero_inputs
from interactrank_jax.tables import lookup
from tests.synthetic import FEATURES, TABLES


def model_config(exclude=(), features=("item_id",), history="mean", only=()):
    return {
        "only": only,
        "exclude": exclude,
        "sequence": {"features": features, "history": history, "query_history": history},
    }


@pytest.fixture(scope="module")
def examples(examples_path):
    return Examples(examples_path)


@pytest.fixture(scope="module")
def store(examples) -> Any:
    return lookup.item_store(examples.items)


@pytest.fixture(scope="module")
def batch(examples) -> Any:
    return next(evaluation_batches(examples, "test", 4))


@pytest.fixture(scope="module")
def tables():
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(size=(rows, 3)).astype(np.float32) for name, rows in TABLES.items()
    }


@pytest.fixture(scope="module")
def inputs(examples):
    heads = ("engaged", "save")
    return Inputs.from_metadata(examples.metadata, heads, model_config())


def test_are_ids_then_features_of_each_side(inputs):
    assert [f.name for f in inputs.request] == [
        "user_id",
        "query_id",
        "country",
        "query_text",
        "mood",
    ]
    assert [f.name for f in inputs.item] == ["item_id", "category", "title"]
    assert len(inputs.request_numeric) == len(inputs.item_numeric) == 1
    assert inputs.cross_scale == (0.3, 0.3)
    hash(inputs)  # a module's field


def test_excluded_features_are_not_looked_up(examples, batch, store):
    config = model_config(exclude=("user_id", "query_text", "title"))
    inputs = Inputs.from_metadata(examples.metadata, ("engaged",), config)
    slots = lookup.request_slots(batch, store, inputs)
    slots |= lookup.item_slots(store, batch["item"], inputs)
    assert not {"request/user_id", "request/query_text", "item/title"} & set(slots)
    assert {slot.table for slot in slots.values()} == set(TABLES) - {"user", "text"}


def test_excluded_numbers_are_left_out_of_the_stack(examples, batch, store, tables):
    [of_requests, of_items] = (
        [feature.name for feature in examples.metadata.select(side, "numeric")]
        for side in (("user", "request"), ("item",))
    )
    kept = Inputs.from_metadata(examples.metadata, ("engaged",), model_config())
    config = model_config(exclude=(of_items[0],))
    inputs = Inputs.from_metadata(examples.metadata, ("engaged",), config)
    assert inputs.request_numeric == kept.request_numeric
    assert inputs.item_numeric == kept.item_numeric[1:]
    found = lookup.embed_items(tables, batch["item"], store, inputs)
    np.testing.assert_array_equal(found.numeric, store["numeric"][batch["item"]][..., 1:])
    config = model_config(exclude=(of_requests[0],))
    inputs = Inputs.from_metadata(examples.metadata, ("engaged",), config)
    request = lookup.embed_requests(tables, batch, store, inputs)
    np.testing.assert_array_equal(request.numeric, batch["request_numeric"][:, 1:])


def test_an_unknown_exclusion_is_refused_with_the_nearest_name(examples):
    config = model_config(exclude=("user",))
    with pytest.raises(InputError, match=r"exclude: 'user'.*Did you mean 'user_id'"):
        Inputs.from_metadata(examples.metadata, ("engaged",), config)


def test_histories_that_nobody_looks_at_are_not_looked_up(examples, batch, store):
    config = model_config(history="none")
    inputs = Inputs.from_metadata(examples.metadata, ("engaged",), config)
    slots = lookup.request_slots(batch, store, inputs)
    assert not [name for name in slots if "history" in name]


def test_histories_made_of_nothing_are_refused(examples):
    config = model_config(features=())
    with pytest.raises(InputError, match=r"sequence\.features is empty"):
        Inputs.from_metadata(examples.metadata, ("engaged",), config)


@pytest.mark.parametrize(
    ("fields", "sequence"),
    [
        ({"features": ("item_id", "category"), "exclude": ("item_id",)}, ("category",)),
        ({"exclude": ("item_id",)}, ("category", "title")),
        ({"exclude": ("item_id", "category")}, ("title",)),
        ({"only": ("user_id", "category")}, ("category",)),
        ({"exclude": ("title",)}, ("item_id",)),
    ],
)
def test_histories_are_made_of_what_the_model_sees_of_items(examples, fields, sequence):
    inputs = Inputs.from_metadata(examples.metadata, ("engaged",), model_config(**fields))
    assert inputs.sequence == sequence
    assert inputs.histories == ("history", "query_history")


def test_where_no_feature_of_items_is_looked_up_there_are_no_histories(examples):
    fields: Any = {"exclude": ("item_id", "category", "title")}
    inputs = Inputs.from_metadata(examples.metadata, ("engaged",), model_config(**fields))
    assert inputs.histories == inputs.sequence == ()
    config = model_config(**fields, history="target")
    with pytest.raises(InputError, match=r"history is 'target'.*set it to 'none'"):
        Inputs.from_metadata(examples.metadata, ("engaged",), config)


@pytest.mark.parametrize("side", ["item", "request"])
def test_a_side_without_any_feature_is_refused(examples, side):
    entities = ("item",) if side == "item" else ("user", "request")
    ids = ("item_id",) if side == "item" else ("user_id", "query_id")
    exclude = (*ids, *(feature.name for feature in examples.metadata.select(entities)))
    config = model_config(exclude=exclude, history="none")
    with pytest.raises(InputError, match=f"leave nothing of an? {side}"):
        Inputs.from_metadata(examples.metadata, ("engaged",), config)


def test_a_misspelt_feature_of_histories_is_refused(examples):
    config = model_config(features=("categry",))
    with pytest.raises(InputError, match=r"sequence\.features: 'categry'.*'category'"):
        Inputs.from_metadata(examples.metadata, ("engaged",), config)


def test_every_table_is_looked_up_by_some_slot(batch, store, inputs):
    slots = lookup.request_slots(batch, store, inputs)
    slots |= lookup.item_slots(store, batch["item"], inputs)
    assert {slot.table for slot in slots.values()} == set(TABLES)


def test_items_carry_their_store_rows(store, tables, inputs):
    items: Any = np.array([[3, 7]], np.int32)
    found = lookup.embed_items(tables, items, store, inputs)
    assert set(found.features) == {"item_id", "category", "title"}
    np.testing.assert_allclose(
        found.features["item_id"][0], tables["item"][store["id"][[3, 7]]], rtol=1e-6
    )
    np.testing.assert_array_equal(found.numeric[0], store["numeric"][[3, 7]])


def test_a_history_is_made_of_the_chosen_item_features_in_store_order(
    examples, batch, store, tables
):
    config = model_config(features=("category", "item_id"))
    inputs = Inputs.from_metadata(examples.metadata, ("engaged",), config)
    request = lookup.embed_requests(tables, batch, store, inputs)
    history = np.asarray(request.history.items)
    assert history.shape == (*batch["history_item"].shape, 6)
    rows = batch["history_item"]
    present = rows != PADDING
    np.testing.assert_array_equal(request.history.mask, present)
    np.testing.assert_array_equal(history[~present], 0)
    np.testing.assert_allclose(
        history[present][:, :3], tables["item"][store["id"][rows[present]]], rtol=1e-6
    )
    np.testing.assert_allclose(
        history[present][:, 3:], tables["category"][store["category"][rows[present]]], rtol=1e-6
    )
    np.testing.assert_array_equal(request.features["mood"], batch["request/mood"])


def test_zero_inputs_have_the_shapes_of_real_ones(examples, store, tables, inputs):
    batch: Any = next(evaluation_batches(examples, "test", 1))
    zero = zero_inputs(inputs, lambda table: 3)
    request = lookup.embed_requests(tables, batch, store, inputs)
    assert jax.tree.map(np.shape, zero["request"]) == jax.tree.map(np.shape, request)
    items = lookup.embed_items(tables, batch["item"][:, :1], store, inputs)
    assert jax.tree.map(np.shape, zero["items"]) == jax.tree.map(np.shape, items)
    assert zero["cross"].shape == batch["cross"][:, :1].shape


def test_the_synthetic_features_cover_every_kind():
    assert {feature.kind for feature in FEATURES} == {"categorical", "numeric", "text", "embedding"}
