"""One table of properties: every registered model, and InteractRank with each of its switches."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from interactrank_jax.examples.format import PADDING
from interactrank_jax.io.errors import InputError
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.models.registry import MODELS, build_model
from interactrank_jax.models.two_tower import TwoTower
from interactrank_jax.runs.run import Run
from interactrank_jax.tables import lookup
from tests.marks import some_quick
from tests.models.model_case import (
    CASES,
    CORPUS,
    HEADS,
    INTERACTRANK,
    LONG,
    QUICK,
    REQUEST_COLUMNS,
    REQUESTS,
    SWITCHES,
    UTILITY,
)
from tests.synthetic import SLATE, tiny_config


@pytest.fixture(params=some_quick(CASES, QUICK, LONG))
def case(request, cases):
    return cases(request.param)


@pytest.fixture
def interactrank(cases):
    return cases(INTERACTRANK)


def changed(batch, **columns):
    return {**batch, **columns}


def other_rows(batch, columns):
    """The batch with some columns taken from the next request."""
    return changed(batch, **{name: np.roll(batch[name], 1, axis=0) for name in columns})


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def all_rows_differ(left, right) -> bool:
    """Whether every leading row of some leaf moved."""
    return any(
        (np.abs(a - b).reshape(len(a), -1).max(1) > 1e-6).all()
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


def test_the_table_has_every_registered_model():
    assert {model for model, _ in CASES.values()} == set(MODELS)


class TestEveryModel:
    def test_shapes_are_as_documented(self, case):
        outputs = case()
        corpus = len(CORPUS)
        assert outputs["call"].shape == (REQUESTS, SLATE, HEADS)
        assert outputs["score_all"].shape == (REQUESTS, corpus, HEADS)
        assert outputs["rank_all"].shape == (REQUESTS, corpus)
        assert outputs["similarity"].shape == (REQUESTS, corpus)
        for leaf in jax.tree.leaves(outputs["query"]):
            assert leaf.shape[0] == REQUESTS
        pairs = zip(
            jax.tree.leaves(outputs["items"]), jax.tree.leaves(outputs["corpus"]), strict=True
        )
        for slate, flat in pairs:
            assert slate.shape == (REQUESTS, SLATE, *flat.shape[1:])
            assert flat.shape[0] == corpus
        kinds = {leaf.dtype for leaf in jax.tree.leaves(outputs) if leaf.dtype != np.int32}
        assert kinds == {np.dtype(np.float32)}  # an item may also store a number, such as FIT's
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))

    def test_score_of_the_encoded_sides_equals_the_call(self, case):
        outputs = case()
        np.testing.assert_allclose(outputs["score"], outputs["call"], atol=1e-6)

    def test_the_outer_score_equals_the_aligned_one_without_cross_terms(self, case):
        outputs = case()
        np.testing.assert_allclose(outputs["score_all"], outputs["aligned"], atol=1e-5)

    def test_the_slate_scores_as_it_does_in_the_corpus(self, case):
        slate = case.batch["item"][0]
        outputs = case(corpus=np.resize(slate, len(CORPUS)))
        np.testing.assert_allclose(
            outputs["score_all"][0, :SLATE], outputs["score_without_cross"][0], atol=1e-5
        )

    def test_the_ranked_score_is_the_utility_weighted_sum_of_heads(self, case):
        outputs = case()
        expected = outputs["score_all"] @ np.array(UTILITY, np.float32)
        np.testing.assert_allclose(outputs["rank_all"], expected, atol=1e-5)

    def test_item_representations_do_not_move_when_the_request_does(self, case):
        before, after = case(), case(other_rows(case.batch, REQUEST_COLUMNS))
        assert_same(before["items"], after["items"])
        assert_same(before["corpus"], after["corpus"])
        assert all_rows_differ(before["query"], after["query"])

    def test_query_representations_do_not_move_when_the_candidates_do(self, case):
        columns = ("item", "mask", "actions", "cross")
        before, after = case(), case(other_rows(case.batch, columns), corpus=CORPUS + 20)
        assert_same(before["query"], after["query"])
        assert all_rows_differ(before["items"], after["items"])
        assert all_rows_differ(before["corpus"], after["corpus"])

    def test_a_score_does_not_depend_on_the_rest_of_the_batch(self, case):
        others = {name: np.roll(value[1:], 2, axis=0) for name, value in case.batch.items()}
        mixed = {
            name: np.concatenate([value[:1], others[name]]) for name, value in case.batch.items()
        }
        before, after = case()["call"], case(mixed)["call"]
        np.testing.assert_allclose(after[0], before[0], atol=1e-6)
        assert all_rows_differ(before[1:], after[1:])

    def test_a_candidate_scores_the_same_wherever_it_stands_in_the_slate(self, case):
        turned = changed(
            case.batch,
            **{name: case.batch[name][:, ::-1] for name in ("item", "mask", "actions", "cross")},
        )
        np.testing.assert_allclose(case(turned)["call"][:, ::-1], case()["call"], atol=1e-6)

    def test_what_stands_at_padded_history_places_changes_nothing(self, case):
        padded = case.batch["history_item"] == PADDING
        assert padded.any()
        assert not padded.all()
        garbage = changed(
            case.batch,
            history_action=np.where(padded, 2, case.batch["history_action"]),
            history_age=np.where(padded, 1e7, case.batch["history_age"]).astype(np.float32),
        )
        assert_same(case(garbage), case())

    def test_the_padding_row_of_a_table_is_never_read(self, case):
        tables = {name: table.copy() for name, table in case.tables.items()}
        for table in tables.values():
            table[PADDING] = 1e3
        assert_same(case(tables=tables), case())

    def test_an_empty_history_gives_finite_scores_and_another_representation(self, case):
        empty = {
            name: np.zeros_like(value) if "history" in name else value
            for name, value in case.batch.items()
        }
        outputs = case(empty)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))
        had_one = (case.batch["history_item"] != PADDING).any(1)
        before, after = (
            jax.tree.map(lambda leaf: leaf[had_one], each["query"]) for each in (case(), outputs)
        )
        moved = all_rows_differ(before, after)
        assert moved == bool(case.inputs.histories)

    def test_cross_features_count_only_where_they_are_not_zero(self, case):
        outputs = case()
        difference = outputs["score"] - outputs["score_without_cross"]
        known = (case.batch["cross"] != 0).any(-1)
        assert known.any()
        assert not known.all()
        np.testing.assert_array_equal(difference[~known], 0)
        if case.model.uses_cross:
            assert (np.abs(difference[known]) > 1e-6).any(-1).all()
        else:
            np.testing.assert_array_equal(difference, 0)

    @pytest.mark.long  # compiles the gradient of each model
    def test_gradients_are_finite_and_reach_every_parameter_and_table(self, case):
        params, tables = case.gradient(case.batch)
        seen = {feature.table for feature in (*case.inputs.request, *case.inputs.item)}
        tables = {name: leaf for name, leaf in tables.items() if name in seen}
        for path, leaf in jax.tree_util.tree_leaves_with_path({"params": params, **tables}):
            name = jax.tree_util.keystr(path)
            assert np.isfinite(leaf).all(), name
            assert np.any(leaf), f"no gradient for {name}"
        for name, leaf in tables.items():
            np.testing.assert_array_equal(leaf[PADDING], 0, err_msg=name)

    def test_training_gives_what_the_model_declares(self, case):
        """By shapes alone: each model's own tests compare its training logits with those served."""
        training, similarity = jax.eval_shape(
            case.train, case.params, case.tables, case.store, case.batch, np.float32(0.3)
        )
        assert training.logits.shape == (REQUESTS, SLATE, HEADS)
        assert similarity.shape == (REQUESTS, REQUESTS)
        assert set(case.model.auxiliary_losses()) <= set(training.losses)
        assert set(case.model.diagnostic_names()) == set(training.diagnostics)
        for term in (*training.losses.values(), *training.diagnostics.values()):
            assert term.loss.shape == term.weight.shape == ()

    @pytest.mark.long  # compiles the gradient of each model
    def test_gradients_are_finite_where_there_is_nothing_to_see(self, case):
        nothing = {name: np.zeros_like(value) for name, value in case.batch.items()}
        for leaf in jax.tree.leaves(case.gradient(nothing)):
            assert np.isfinite(leaf).all()


class TestSwitches:
    @pytest.mark.parametrize("name", SWITCHES)
    def test_every_switch_changes_the_parameters_or_what_they_give(self, name, cases, interactrank):
        switched = cases(name)
        shapes = [jax.tree.map(np.shape, case.params) for case in (switched, interactrank)]
        if shapes[0] == shapes[1]:
            same = switched(params=interactrank.params, tables=interactrank.tables)
            assert all_rows_differ(same["call"], interactrank()["call"])

    @pytest.mark.parametrize(
        ("name", "absent"),
        [
            ("without masknet", "MaskNet"),
            ("without sequences", "history"),
            ("mean of sequences", "history"),
            ("without action and age", "action"),
            ("without action and age", "age"),
            ("weighted pooling only", "'query'"),
            ("attention pooling only", "alpha"),
        ],
    )
    def test_what_is_switched_off_has_no_parameters(self, name, absent, cases, interactrank):
        def has(case):
            paths = jax.tree_util.tree_leaves_with_path(case.params["query_tower"])
            return any(absent in jax.tree_util.keystr(path) for path, _ in paths)

        assert has(interactrank)
        assert not has(cases(name))

    def test_two_tower_has_no_cross_weights_and_interactrank_one_per_feature_and_head(
        self, cases, interactrank
    ):
        assert "cross_terms" not in cases("two_tower").params
        assert interactrank.params["cross_terms"]["weight"].shape == (2, HEADS)

    def test_a_linear_cross_term_is_the_weighted_sum_of_scaled_features(self, cases):
        case = cases("linear cross")
        outputs = case()
        scaled = case.batch["cross"] / np.array(case.inputs.cross_scale, np.float32)
        np.testing.assert_allclose(
            outputs["score"] - outputs["score_without_cross"],
            scaled @ case.params["cross_terms"]["weight"],
            atol=1e-5,
        )

    def test_a_log_cross_term_damps_both_signs_alike(self, interactrank):
        case = interactrank
        cross = np.random.default_rng(0).normal(size=case.batch["cross"].shape).astype(np.float32)
        outputs = case(changed(case.batch, cross=cross))
        scaled = cross / np.array(case.inputs.cross_scale, np.float32)
        damped = np.sign(scaled) * np.log1p(np.abs(scaled))
        np.testing.assert_allclose(
            outputs["score"] - outputs["score_without_cross"],
            damped @ case.params["cross_terms"]["weight"],
            atol=1e-5,
        )

    @pytest.mark.parametrize(
        ("model", "history"),
        [("interactrank", "avg"), ("two_tower", "target"), ("cold", "sum")],
    )
    def test_a_history_pooled_in_an_unknown_way_is_refused(self, examples, model, history):
        config = tiny_config(model, sequence={"history": history})
        with pytest.raises(InputError, match=rf"sequence\.history is '{history}' in model"):
            _ = Run("unused", config, examples.metadata).model_template

    @pytest.mark.parametrize("model", ["fit", "interactfit"])
    @pytest.mark.parametrize("switch", ["attention_hidden", "vectors"])
    def test_a_history_left_to_a_target_that_does_not_attend_is_refused(
        self, examples, model, switch
    ):
        config = tiny_config(model, meta={switch: 0})
        with pytest.raises(InputError, match=r"history is 'target'.* 0: set history to 'mean'"):
            _ = Run("unused", config, examples.metadata).model_template

    def test_an_unknown_model_is_refused_with_the_nearest_name(self, interactrank):
        config = tiny_config("interactrank", name="interactrnak")
        with pytest.raises(InputError, match="Did you mean 'interactrank'"):
            build_model(config.model, interactrank.inputs)


class TestBfloat16:
    def test_is_close_to_float32_and_is_no_wider(self, cases):
        exact, rounded = cases(INTERACTRANK), cases("bfloat16")
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(rounded.params))
        expected, found = exact(), rounded()
        for name in ("query", "items", "score", "similarity"):
            ((value,), (exactly,)) = (jax.tree.leaves(each[name]) for each in (found, expected))
            assert value.dtype == np.float32
            assert 0 < np.abs(value - exactly).max() < 0.05 * np.abs(exactly).max(), name
        norm = np.linalg.norm(found["items"], axis=-1)
        np.testing.assert_allclose(norm, 1, atol=1e-6)  # normalised in float32

    def test_its_towers_multiply_in_bfloat16(self, cases):
        case = cases("bfloat16")
        items = lookup.embed_items(case.tables, CORPUS, case.store, case.inputs)
        encode = functools.partial(case.model.apply, {"params": case.params}, method="encode_item")
        lines = str(jax.make_jaxpr(encode)(items)).splitlines()
        products = [line for line in lines if "dot_general" in line]
        # The mixture of numeric views alone is float32: its inputs are raw values.
        assert sum("f32" in line.split("=")[0].replace("bf16", "") for line in products) == 1
        assert sum("bf16" in line.split("=")[0] for line in products) == len(products) - 1 > 3

    def test_its_gradients_are_float32(self, cases):
        case = cases("bfloat16")
        assert {leaf.dtype for leaf in jax.tree.leaves(case.gradient(case.batch))} == {
            np.dtype(np.float32)
        }


class TestProjection:
    @pytest.mark.parametrize("raw", [-20.0, 0.0, 30.0])
    def test_the_weight_of_the_dot_product_is_positive_whatever_is_learned(self, cases, raw):
        case = cases("two_tower")
        params = {**case.params, "dot_weight": np.full(HEADS, raw, np.float32)}
        weight = case.model.apply({"params": params}, method="dot_weight")
        assert (np.asarray(weight) > 0).all()

    def test_a_logit_is_affine_in_the_dot_product_of_unit_vectors(self, interactrank):
        outputs = interactrank()
        query, items = outputs["query"].vectors, outputs["corpus"]
        np.testing.assert_allclose(np.linalg.norm(query, axis=-1), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(items, axis=-1), 1, atol=1e-5)
        weight = np.log1p(np.exp(interactrank.params["dot_weight"]))
        expected = np.einsum("rhd,id->rih", query, items) * weight + interactrank.params["bias"]
        np.testing.assert_allclose(outputs["score_all"], expected, atol=1e-5)

    def test_one_serving_vector_ranks_as_all_heads_together(self, interactrank):
        outputs = interactrank()
        vector = interactrank.model.apply(
            {"params": interactrank.params}, outputs["query"], UTILITY, method="serving_query"
        )
        assert vector.shape == (REQUESTS, outputs["corpus"].shape[-1])
        scores = np.asarray(vector) @ outputs["corpus"].T
        shift = outputs["rank_all"] - scores  # the bias, the same for every item
        np.testing.assert_allclose(shift, np.broadcast_to(shift[0, 0], shift.shape), atol=1e-5)

    def test_the_similarity_is_a_cosine_over_a_temperature_clamped_at_a_hundredth(self, cases):
        case = cases("two_tower")
        outputs = case()
        cosine = outputs["query"].vectors[:, 0] @ outputs["corpus"].T
        for learned, inverse in ((np.log(20.0), 20.0), (np.log(1e4), 100.0)):
            params = {**case.params, "log_inverse_temperature": np.float32(learned)}
            similarity = case(params=params)["similarity"]
            np.testing.assert_allclose(similarity, inverse * cosine, atol=1e-4)


def test_a_model_that_only_scores_aligned_inherits_an_outer_score(interactrank):
    case, outputs = interactrank, interactrank()

    class Aligned(TwoTower):
        score_all = PreRanker.score_all  # by broadcasting
        rank_all = PreRanker.rank_all
        similarity = PreRanker.similarity

    model = Aligned(case.model.config, case.inputs)
    apply: Any = functools.partial(model.apply, {"params": case.params}, outputs["query"])
    np.testing.assert_allclose(
        apply(outputs["corpus"], method="score_all"), outputs["score_all"], atol=1e-5
    )
    np.testing.assert_allclose(
        apply(outputs["corpus"], UTILITY, method="rank_all"), outputs["rank_all"], atol=1e-5
    )
    np.testing.assert_allclose(
        apply(outputs["corpus"], method="similarity"), outputs["score_all"][..., 0], atol=1e-5
    )


@pytest.mark.parametrize("positive", [True, False])
def test_the_dot_weight_is_signed_only_when_the_switch_says_so(examples, positive):
    config = tiny_config("two_tower", positive_dot_weight=positive)
    run = Run("unused", config, examples.metadata)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), run.model_template["params"])
    params["dot_weight"] = np.array([-1.5, 2.0])
    weight = run.model.apply({"params": params}, method="dot_weight")
    expected = np.log1p(np.exp([-1.5, 2.0])) if positive else [-1.5, 2.0]
    np.testing.assert_allclose(weight, expected, rtol=1e-6)
