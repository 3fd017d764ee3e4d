"""Models over fields against slow, literal numpy versions of their equations."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from interactrank_jax.examples.format import PADDING
from interactrank_jax.io.errors import InputError
from interactrank_jax.models.fields import SideFields
from interactrank_jax.models.history_terms import transform_cross
from interactrank_jax.models.inputs import zero_inputs
from interactrank_jax.models.layers import NumericNormalizer
from interactrank_jax.models.ranking import CrossNetwork, InteractingLayer, factorization_machine
from interactrank_jax.runs.run import Run
from interactrank_jax.tables import lookup
from tests.models.literal import apply, dense, draw, random_like
from tests.models.model_case import HEADS, REQUESTS
from tests.synthetic import ACTIONS, SLATE, tiny_config

JOINT = ("wide_deep", "deepfm", "dcn_v2", "autoint", "cold")
DIM = 8


def cross_network(params, layers, x):
    first = x
    for layer in range(layers):
        x = first * dense(params[f"Dense_{layer}"], x) + x
    return x


def interacting_layer(params, heads, fields):
    """Fields `[F, d]`, one output number at a time."""
    weight = {name: params[name]["kernel"] for name in params}
    count, width = len(fields), weight["query"].shape[1] // heads
    output = np.zeros((count, heads * width))
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        query, key, value = (fields @ weight[name][:, own] for name in ("query", "key", "value"))
        for field in range(count):
            odds = [np.exp(query[field] @ key[other]) for other in range(count)]
            for other in range(count):
                output[field, own] += odds[other] / sum(odds) * value[other]
    return np.maximum(output + fields @ weight["residual"], 0)


def second_order(vectors):
    pairs = [(f, g) for g in range(len(vectors)) for f in range(g)]
    return sum(vectors[f] @ vectors[g] for f, g in pairs)


class Pair:
    """The fields of one request with one of its candidates, put together by hand."""

    def __init__(self, case, outputs, request, candidate):
        scaled = case.batch["cross"][request, candidate] / np.array(case.inputs.cross_scale)
        damped = np.sign(scaled) * np.log1p(np.abs(scaled))
        crossed = [
            value * vector
            for value, vector in zip(damped, case.params["cross_fields"]["vectors"], strict=True)
        ]
        self.params = case.params
        self.fields = np.array(
            [
                *outputs["query"].fields[request],
                *outputs["items"][request, candidate],
                *crossed,
            ]
        )
        self.vectors = self.fields[:, :DIM]
        self.first_order = self.fields[:, DIM:].sum(0)
        self.affine = damped @ case.params["cross_terms"]["weight"]

    def deep(self):
        layer, pair = self.params["deep"]["Dense_0"], self.params["deep"]["pair"]
        kernel = np.concatenate([layer["kernel"], pair["kernel"]])
        hidden = np.maximum(self.vectors.reshape(-1) @ kernel + layer["bias"], 0)
        return dense(self.params["deep_output"], hidden)


def wide_deep(pair):
    return pair.first_order + pair.deep() + pair.affine


def deepfm(pair):
    machine = second_order(pair.vectors) * pair.params["second_order"]
    return pair.first_order + machine + pair.deep() + pair.affine


def dcn_v2(pair):
    crossed = cross_network(pair.params["cross_network"], 2, pair.vectors.reshape(-1))
    return crossed @ pair.params["cross_output"]["kernel"] + pair.deep() + pair.affine


def autoint(pair):
    fields = pair.vectors
    for layer in range(3):
        fields = interacting_layer(pair.params[f"interacting_{layer}"], 2, fields)
    output = fields.reshape(-1) @ pair.params["interacting_output"]["kernel"]
    return output + pair.deep() + pair.affine


def train_score(case, outputs, seed=0) -> Any:
    apply = functools.partial(case.model.apply, {"params": case.params}, method="train_score")
    mask = case.batch["mask"]
    return apply(
        outputs["query"],
        outputs["items"],
        case.batch["cross"],
        engaged=mask,
        mask=mask,
        progress=0.0,
        rngs={"dropout": jax.random.key(seed)},
    )


class TestLogits:
    @pytest.mark.long  # compiles a step for itself
    @pytest.mark.parametrize("by_hand", [wide_deep, deepfm, dcn_v2, autoint])
    def test_are_those_of_the_equation(self, cases, by_hand):
        case = cases(by_hand.__name__)
        outputs = case()
        for request in range(REQUESTS):
            for candidate in range(SLATE):
                pair = Pair(case, outputs, request, candidate)
                found = outputs["score"][request, candidate]
                np.testing.assert_allclose(found, by_hand(pair), rtol=1e-3, atol=1e-4)

    @pytest.mark.long  # compiles a step for itself
    @pytest.mark.parametrize("name", JOINT)
    def test_have_dropout_in_training_only(self, cases, name):
        outputs = cases(name)()
        first, second = (train_score(cases(name), outputs, seed).logits for seed in (0, 1))
        assert first.shape == outputs["score"].shape
        assert not np.allclose(first, second)
        np.testing.assert_array_equal(cases(name)()["score"], outputs["score"])

    @pytest.mark.parametrize("name", JOINT)
    def test_in_bfloat16_are_close_and_float32(self, examples, cases, name):
        case = cases(name)
        expected: Any = case()
        rounded = Run("unused", tiny_config(name, dtype="bfloat16"), examples.metadata).model
        score = functools.partial(rounded.apply, {"params": case.params}, method="score")
        arguments = expected["query"], expected["items"], case.batch["cross"]
        found: Any = jax.jit(score)(*arguments)
        assert found.dtype == np.float32
        difference = np.abs(found - expected["score"]).max()
        assert 0 < difference < 0.05 * np.abs(expected["score"]).max()
        products = [
            line
            for line in str(jax.make_jaxpr(score)(*arguments)).splitlines()
            if "dot_general" in line
        ]
        assert any("bf16" in line.split("=")[0] for line in products)


class TestPenalty:
    def test_is_the_squared_length_of_the_vectors_of_the_candidates_there_are(self, cases):
        case = cases("deepfm")
        outputs, mask = case(), case.batch["mask"]
        assert not mask.all()
        lengths = []
        for request, candidate in np.argwhere(mask):
            fields = [*outputs["query"].fields[request], *outputs["items"][request, candidate]]
            lengths.append(sum((field[:DIM] ** 2).sum() for field in fields))
        penalty = train_score(case, outputs).losses["l2"]
        assert penalty.weight == mask.sum()
        np.testing.assert_allclose(penalty.mean(), np.mean(lengths), rtol=1e-5)

    @pytest.mark.parametrize(("weight", "terms"), [(0.0, {}), (0.5, {"l2": 0.5})])
    def test_is_a_loss_where_it_has_a_weight(self, examples, weight, terms):
        model = Run("unused", tiny_config("cold", l2=weight), examples.metadata).model
        assert model.auxiliary_losses() == terms


class TestLayers:
    def test_a_factorization_machine_sums_the_products_of_all_pairs_of_fields(self):
        query, pair = draw(0, 2, 3, 5), draw(1, 2, 4, 2, 5)
        found = factorization_machine(query, pair)
        assert found.shape == (2, 4)
        for request, candidate in np.ndindex(2, 4):
            expected = second_order([*query[request], *pair[request, candidate]])
            np.testing.assert_allclose(found[request, candidate], expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layers", [1, 3])
    def test_a_cross_network_multiplies_its_input_with_each_layer(self, layers):
        module, x = CrossNetwork(layers), draw(0, 2, 3, 4)
        params = random_like(module, 1, x)
        assert params["Dense_0"]["kernel"].shape == (4, 4)
        expected = cross_network(params, layers, x)
        np.testing.assert_allclose(apply(module, params, x), expected, rtol=1e-3, atol=1e-4)

    def test_a_cross_network_of_one_layer_is_of_degree_two(self):
        module, x = CrossNetwork(1), draw(0, 4)
        params = random_like(module, 1, x)
        values = [apply(module, params, np.float32(t) * x) for t in (0, 1, 2, 3)]
        np.testing.assert_allclose(np.diff(values, n=3, axis=0), 0, atol=1e-3)
        assert np.abs(np.diff(values, n=2, axis=0)).max() > 0.1

    def test_an_interacting_layer_lets_every_field_attend_to_all(self):
        module, fields = InteractingLayer(heads=2, width=3), draw(0, 2, 4, 5)
        params = random_like(module, 1, fields)
        found = apply(module, params, fields)
        assert found.shape == (2, 4, 6)
        for row in range(2):
            expected = interacting_layer(params, 2, fields[row].astype(np.float64))
            np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)

    def test_an_interacting_layer_keeps_the_order_of_fields(self):
        module, fields = InteractingLayer(heads=2, width=3), draw(0, 4, 5)
        params = random_like(module, 1, fields)
        turned = apply(module, params, fields[::-1])
        np.testing.assert_allclose(turned[::-1], apply(module, params, fields), atol=1e-4)

    def test_a_side_without_any_field_is_refused(self):
        module = SideFields(4, (), (), ("gaussian",), 0.1)
        with pytest.raises(InputError, match="leaves nothing"):
            module.init(jax.random.key(0), {}, np.zeros((1, 0), np.float32))


def pooled_text(table, tokens):
    present = [table[token] for token in tokens if token != PADDING]
    return np.mean(present, 0) if present else np.zeros(table.shape[1])


def number_field(params, statistics, value):
    module = NumericNormalizer(statistics, ("range", "log", "gaussian"))
    normal = module.apply({"params": params["NumericNormalizer_0"]}, np.array([value]))
    return np.asarray(normal)[0] * params["numeric"]["vectors"][0]


class TestFields:
    NAME = "deepfm"  # its rows have first-order weights

    def by_hand(self, case, batch, request, by_action):
        tables, params = case.tables, case.params["request_fields"]

        def column(name):
            return batch[name][request]

        fields = [
            tables["user"][column("user")],
            tables["query"][column("query")],
            tables["country"][column("request/country")],
            pooled_text(tables["text"], column("request/query_text")),
            dense(params["mood"], column("request/mood")),
            number_field(params, case.inputs.request_numeric, column("request_numeric")[0]),
        ]
        for role in ("history", "query_history"):
            groups: list[list[int]] = [[]]
            if role == "history" and by_action:
                groups = [[] for _ in ACTIONS]
            for place, item in enumerate(column(f"{role}_item")):
                if item != PADDING:
                    group = column("history_action")[place] - 1 if len(groups) > 1 else 0
                    groups[group].append(item)
            for items in groups:
                for table, name in (("item", "id"), ("category", "category")):
                    rows = [tables[table][case.store[name][item]] for item in items]
                    field = np.mean(rows, 0) if rows else np.zeros(DIM + HEADS)
                    field[DIM:] = 0  # no first-order weight
                    fields.append(field)
        return fields

    def test_a_request_is_its_features_its_numbers_and_its_histories(self, cases):
        case = cases(self.NAME)
        query = case()["query"].fields
        assert query.shape == (REQUESTS, 5 + 1 + 2 * 2, DIM + HEADS)
        for request in range(REQUESTS):
            expected = self.by_hand(case, case.batch, request, by_action=False)
            np.testing.assert_allclose(query[request], expected, rtol=1e-4, atol=1e-5)

    def test_a_history_may_be_a_field_per_action(self, examples, cases):
        case = cases(self.NAME)
        config = tiny_config(self.NAME, sequence={"history": "mean_by_action"})
        model = Run("unused", config, examples.metadata).model
        request = lookup.embed_requests(case.tables, case.batch, case.store, case.inputs)
        encoded: Any = model.apply({"params": case.params}, request, method="encode_query")
        query = encoded.fields
        assert query.shape == (REQUESTS, 5 + 1 + 2 * len(ACTIONS) + 2, DIM + HEADS)
        for row in range(REQUESTS):
            expected = self.by_hand(case, case.batch, row, by_action=True)
            np.testing.assert_allclose(query[row], expected, rtol=1e-4, atol=1e-5)

    def test_an_item_is_its_features_and_its_numbers(self, cases):
        case = cases(self.NAME)
        tables, store = case.tables, case.store
        items = case()["items"]
        assert items.shape == (REQUESTS, SLATE, 4, DIM + HEADS)
        params = case.params["item_fields"]
        for place in np.ndindex(REQUESTS, SLATE):
            item = case.batch["item"][place]
            expected = [
                tables["item"][store["id"][item]],
                tables["category"][store["category"][item]],
                pooled_text(tables["text"], store["title"][item]),
                number_field(params, case.inputs.item_numeric, store["numeric"][item, 0]),
            ]
            np.testing.assert_allclose(items[place], expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("transform", ["log", "linear"])
    def test_a_cross_feature_counts_by_its_scale_and_both_signs_alike(self, transform, cases):
        cross: Any = np.array([[-3.0, 0.0], [0.5, 6.0]], np.float32)
        inputs = cases(self.NAME).inputs._replace(cross_scale=(0.5, 2.0), cross_mean=(0.0, 0.0))
        found = transform_cross(cross, inputs, transform)
        expected = np.array([[-6.0, 0.0], [1.0, 3.0]])
        if transform == "log":
            expected = np.array([[-np.log(7), 0.0], [np.log(2), np.log(4)]])
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_all_fields_start_as_small_as_the_rows_of_the_tables(self, examples):
        run = Run("unused", tiny_config("lr"), examples.metadata)
        sample = zero_inputs(run.inputs, run.model.row_width)
        params = run.model.init(jax.random.key(0), **sample)["params"]
        for leaf in jax.tree.leaves(params):
            assert np.abs(leaf).max() < 4 * run.config.model.embedding_scale

    def test_a_row_is_as_wide_as_what_a_model_keeps_in_it(self, cases):
        for name, width in (("deepfm", DIM + HEADS), ("autoint", DIM), ("lr", HEADS)):
            assert {table.shape[1] for table in cases(name).tables.values()} == {width}

    def test_a_pooling_that_makes_no_field_is_refused(self, examples):
        config = tiny_config(self.NAME, sequence={"history": "interactrank"})
        with pytest.raises(InputError, match="'interactrank' in model 'deepfm'"):
            _ = Run("unused", config, examples.metadata).model_template

    @pytest.mark.parametrize("name", ["lr", "cold"])
    def test_examples_without_histories_or_cross_features_are_enough(self, examples, name):
        run = Run("unused", tiny_config(name), examples.metadata)
        inputs = run.inputs._replace(
            cross=(), cross_scale=(), cross_mean=(), history_length=0, query_history_length=0
        )
        model = run.model.clone(inputs=inputs)
        sample = zero_inputs(inputs, model.row_width)
        logits, variables = jax.jit(lambda: model.init_with_output(jax.random.key(0), **sample))()
        assert logits.shape == (1, 1, HEADS)
        assert all(leaf.size for leaf in jax.tree.leaves(variables))  # none of no cross features


class TestLogisticRegression:
    def test_a_logit_is_the_sum_of_the_weights_of_all_inputs(self, cases):
        case = cases("lr")
        batch, store, tables, params = case.batch, case.store, case.tables, case.params
        found = case()["score"]
        request_side, item_side = params["request_weights"], params["item_weights"]

        def standard(statistics, value):
            clipped = min(max(value, statistics.minimum), statistics.maximum)
            return (clipped - statistics.mean) / statistics.std

        for request, candidate in np.ndindex(REQUESTS, SLATE):
            item = batch["item"][request, candidate]
            age, price = batch["request_numeric"][request, 0], store["numeric"][item, 0]
            cross = batch["cross"][request, candidate] / np.array(case.inputs.cross_scale)
            weights = [
                params["bias"],
                tables["user"][batch["user"][request]],
                tables["query"][batch["query"][request]],
                tables["country"][batch["request/country"][request]],
                pooled_text(tables["text"], batch["request/query_text"][request]),
                dense(request_side["mood"], batch["request/mood"][request]),
                standard(case.inputs.request_numeric[0], age)
                * request_side["numeric"]["vectors"][0],
                tables["item"][store["id"][item]],
                tables["category"][store["category"][item]],
                pooled_text(tables["text"], store["title"][item]),
                standard(case.inputs.item_numeric[0], price) * item_side["numeric"]["vectors"][0],
                *(
                    np.sign(value) * np.log1p(abs(value)) * weight
                    for value, weight in zip(cross, params["cross_terms"]["weight"], strict=True)
                ),
            ]
            np.testing.assert_allclose(
                found[request, candidate], np.sum(weights, 0), rtol=1e-4, atol=1e-4
            )

    def test_without_cross_features_all_requests_rank_alike(self, cases):
        scores = cases("lr")()["score_all"]
        gaps = scores - scores[:, :1]
        np.testing.assert_allclose(gaps, np.broadcast_to(gaps[:1], gaps.shape), atol=1e-5)
