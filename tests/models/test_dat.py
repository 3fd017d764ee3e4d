"""DAT against a two-tower model fed by hand, and its mimic loss against a literal numpy version."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.models.two_tower import TwoTower
from interactrank_jax.runs.run import Run
from interactrank_jax.tables import lookup
from tests.models.model_case import CORPUS, Case
from tests.synthetic import TABLES, tiny_config

DIM = 8  # of embeddings and of vectors alike


@pytest.fixture(scope="module")
def case(examples):
    return Case("dat", examples)


@pytest.fixture(scope="module")
def engaged(case):
    """Some of the candidates."""
    engaged = case.batch["actions"].any(-1) & case.batch["mask"]
    assert engaged.any()
    assert not engaged.all()
    return engaged


def encode(case, params=None, tables=None):
    """Both sides in training."""
    params = case.params if params is None else params
    tables = case.tables if tables is None else tables
    apply: Any = functools.partial(case.model.apply, {"params": params}, train=True)
    request = lookup.embed_requests(tables, case.batch, case.store, case.inputs)
    items = lookup.embed_items(tables, case.batch["item"], case.store, case.inputs)
    return apply(request, method="encode_query"), apply(items, method="encode_item")


def train(case, query, items, engaged):
    return case.model.apply(
        {"params": case.params},
        query,
        items,
        case.batch["cross"],
        engaged=engaged,
        mask=case.batch["mask"],
        progress=0.0,
        method="train_score",
    )


@pytest.fixture(scope="module")
def encoded(case):
    return encode(case)


class TestTowers:
    def test_an_id_keeps_both_vectors_in_one_row(self, case, examples):
        widths = {name: table.shape[1] for name, table in case.tables.items()}
        assert widths == dict.fromkeys(TABLES, DIM) | {"query": 2 * DIM, "item": 2 * DIM}
        run = Run("unused", tiny_config("dat", augment={"request": "user_id"}), examples.metadata)
        assert run.model.row_width("user") == 2 * DIM
        assert run.model.row_width("query") == DIM

    @pytest.mark.long  # compiles a step for itself
    def test_it_is_a_two_tower_model_with_one_more_input_on_each_side(self, case):
        """As if the augmented vectors were in tables of their own: histories have none."""
        narrow = {name: table[:, :DIM] for name, table in case.tables.items()}
        apply: Any = functools.partial(
            TwoTower(case.model.config, case.inputs).apply, {"params": case.params}
        )

        def with_input(side, name, vector):
            return dataclasses.replace(side, features={**side.features, name: vector})

        request = lookup.embed_requests(narrow, case.batch, case.store, case.inputs)
        own = case.tables["query"][case.batch["query"], DIM:]
        query = apply(with_input(request, "query_id/augmented", own), method="encode_query")
        corpus = lookup.embed_items(narrow, CORPUS, case.store, case.inputs)
        own = case.tables["item"][case.store["id"][CORPUS], DIM:]
        items = apply(with_input(corpus, "item_id/augmented", own), method="encode_item")
        outputs = case()
        np.testing.assert_allclose(query.vectors, outputs["query"].vectors, atol=1e-5)
        np.testing.assert_allclose(items, outputs["corpus"], atol=1e-5)
        scores = apply(query, items, method="score_all")
        np.testing.assert_allclose(scores, outputs["score_all"], atol=1e-5)

    def test_the_logits_learn_the_augmented_vectors_too(self, case):
        _, tables = case.gradient(case.batch)
        assert tables["query"][:, DIM:].any()
        assert tables["item"][:, DIM:].any()

    def test_it_trains_on_the_logits_and_similarities_that_it_serves(self, case, encoded, engaged):
        query, items = encoded
        outputs = case()
        logits = train(case, query, items, engaged).logits
        np.testing.assert_allclose(logits, outputs["call"], atol=1e-5)
        sides = (
            (query, jax.tree.map(lambda leaf: leaf[0], items)),
            (outputs["query"], outputs["items"][0]),
        )
        training, serving = (
            case.model.apply({"params": case.params}, *pair, method="similarity") for pair in sides
        )
        np.testing.assert_allclose(training, serving, atol=1e-4)


class TestMimic:
    def by_hand(self, case, engaged, sides=("query", "item")):
        """The sum over positives, one at a time."""
        outputs, batch = case(), case.batch
        total = 0.0
        for request, candidate in zip(*np.nonzero(engaged), strict=True):
            u = outputs["query"].vectors[request, 0]  # of the first head
            v = outputs["items"][request, candidate]
            a_u = case.tables["query"][batch["query"][request]][DIM:]
            a_v = case.tables["item"][case.store["id"][batch["item"][request, candidate]]][DIM:]
            if "query" in sides:
                total += sum((a_u[k] - v[k]) ** 2 for k in range(DIM))
            if "item" in sides:
                total += sum((a_v[k] - u[k]) ** 2 for k in range(DIM))
        return total

    def test_is_the_squared_distance_to_the_other_towers_vector_on_positives(
        self, case, encoded, engaged
    ):
        query, items = encoded
        mimic = train(case, query, items, engaged).losses["mimic"]
        np.testing.assert_allclose(mimic.loss, self.by_hand(case, engaged), rtol=1e-4)
        assert mimic.weight == engaged.sum()

    def test_candidates_not_engaged_with_do_not_count(self, case, encoded, engaged):
        query, items = encoded
        others = jax.tree.map(
            lambda leaf: jnp.where(engaged.reshape(*engaged.shape, 1), leaf, 7.0), items
        )
        before, after = (train(case, query, each, engaged) for each in (items, others))
        assert before.losses["mimic"] == after.losses["mimic"]
        none = train(case, query, items, np.zeros_like(engaged)).losses["mimic"]
        assert none.weight == 0
        assert none.mean() == 0

    def test_its_gradient_moves_augmented_vectors_alone_and_each_towards_its_target(
        self, case, engaged
    ):
        """Neither tower is drawn to what mimics it: the targets' gradients are stopped."""

        def loss(params, tables):
            query, items = encode(case, params, tables)
            return train(case, query, items, engaged).losses["mimic"].loss

        params, tables = jax.jit(jax.grad(loss, (0, 1)))(case.params, case.tables)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            assert not np.any(leaf), jax.tree_util.keystr(path)
        outputs, batch = case(), case.batch
        expected = {name: np.zeros_like(table) for name, table in case.tables.items()}
        for request, candidate in zip(*np.nonzero(engaged), strict=True):
            u, v = outputs["query"].vectors[request, 0], outputs["items"][request, candidate]
            query, item = (
                batch["query"][request],
                case.store["id"][batch["item"][request][candidate]],
            )
            expected["query"][query, DIM:] += 2 * (case.tables["query"][query, DIM:] - v)
            expected["item"][item, DIM:] += 2 * (case.tables["item"][item, DIM:] - u)
        for name, table in tables.items():
            np.testing.assert_allclose(table, expected[name], atol=1e-4, err_msg=name)

    def test_has_the_weight_of_the_config_and_is_left_out_at_zero(self, examples):
        for weight, losses in ((0.25, {"mimic": 0.25}), (0.0, {})):
            run = Run("unused", tiny_config("dat", mimic_weight=weight), examples.metadata)
            assert run.model.auxiliary_losses() == losses


class TestExcludedIds:
    @pytest.mark.parametrize(
        ("exclude", "without", "left"),
        [(("query_id",), "query", "item"), (("item_id",), "item", "query")],
    )
    def test_a_side_without_its_id_has_no_augmented_vector(self, examples, exclude, without, left):
        features = ("category",) if without == "item" else ("item_id", "category")
        case = Case("dat", examples, exclude=exclude, sequence={"features": features})
        assert case.model.row_width(without) == DIM
        assert case.model.row_width(left) == 2 * DIM
        sides = dict(zip(("query", "item"), encode(case), strict=True))
        assert sides[without].augmented is None
        assert sides[left].augmented is not None
        engaged = case.batch["mask"]
        mimic = train(case, sides["query"], sides["item"], engaged).losses["mimic"]
        expected = TestMimic().by_hand(case, engaged, sides=(left,))
        np.testing.assert_allclose(mimic.loss, expected, rtol=1e-4)

    def test_a_config_without_an_id_to_augment_is_refused(self, examples):
        fields = {"exclude": ("query_id", "item_id"), "sequence": {"features": ("category",)}}
        run = Run("unused", tiny_config("dat", **fields), examples.metadata)
        with pytest.raises(InputError, match=r"exclude names both.*two_tower"):
            _ = run.model_template
