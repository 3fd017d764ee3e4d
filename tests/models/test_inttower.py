"""IntTower against literal numpy versions of its parts and of a whole tower."""

import re
from typing import Any

import jax
import numpy as np
import pytest

from interactrank_jax import losses
from interactrank_jax.config import models as configs
from interactrank_jax.models import inttower
from interactrank_jax.models.layers import NumericNormalizer
from interactrank_jax.models.sequence import masked_mean
from interactrank_jax.tables import lookup
from tests.models.literal import apply, dense, draw, layer_norm, random_like
from tests.models.model_case import CORPUS, REQUESTS, Case, first_logits
from tests.synthetic import SLATE, tiny_config

HIDDEN, HEADS, WIDTH = (12, 10), 3, 5
FIELDS: Any = {"tower": {"hidden": HIDDEN}, "fe": {"heads": HEADS, "width": WIDTH}}


@pytest.fixture(scope="module")
def case(examples):
    return Case("inttower", examples, **FIELDS)


def gates(params, fields):
    """Light-SE of fields by name, one example."""
    names = sorted(fields)
    squeezed = np.array([np.mean(fields[name]) for name in names])
    excited = np.exp(dense(params["Dense_0"], squeezed))
    return dict(zip(names, 1 + excited / excited.sum(), strict=True))


def layer_heads(params, x, every_layer):
    """One example through the layers."""
    found = []
    for number in range(len(HIDDEN)):
        layer = params[f"MLP_{number}"]
        x = np.maximum(dense(layer["Dense_0"], x), 0)
        if "LayerNorm_0" in layer:
            x = layer_norm(layer["LayerNorm_0"], x)
        if every_layer or number == len(HIDDEN) - 1:
            heads = dense(params[f"Dense_{number if every_layer else 0}"], x)
            for head in heads.reshape(HEADS, WIDTH):
                found.append(head / np.sqrt(sum(head**2)))
    return np.array(found)


def fe_block(user, item):
    """The score of the heads of one pair."""
    return sum(max(sum(z_u * z_v) for z_v in item) for z_u in user)


class TestParts:
    def test_light_se_weighs_fields_by_a_softmax_of_their_means(self):
        fields = {"b": draw(0, 3, 2, 4), "a": draw(1, 3, 2, 4), "wide": draw(2, 3, 2, 7)}
        module = inttower.LightSE()
        params = random_like(module, 1, fields)
        found = jax.tree.map(np.asarray, module.apply({"params": params}, fields))
        for place in np.ndindex(3, 2):
            expected = gates(params, {name: field[place] for name, field in fields.items()})
            for name, gate in expected.items():
                np.testing.assert_allclose(found[name][place], gate, rtol=1e-4)
        np.testing.assert_allclose(sum(found.values()) - 3, 1, rtol=1e-5)

    def test_light_se_adds_its_input(self):
        """Weights 1/4 and 3/4: a field is scaled by 5/4 and by 7/4, as in the authors' code."""
        kernel, bias = np.zeros((2, 2), np.float32), np.log(np.array([1, 3], np.float32))
        params = {"Dense_0": {"kernel": kernel, "bias": bias}}
        fields = {"a": np.ones((1, 3), np.float32), "b": np.ones((1, 3), np.float32)}
        found = inttower.LightSE().apply({"params": params}, fields)
        np.testing.assert_allclose([found["a"][0, 0], found["b"][0, 0]], [1.25, 1.75], rtol=1e-6)

    @pytest.mark.parametrize("norm", [True, False])
    @pytest.mark.parametrize("every_layer", [True, False])
    def test_heads_are_unit_projections_of_every_layer_or_of_the_last(self, every_layer, norm):
        module = inttower.LayerHeads(HIDDEN, 0.0, HEADS, WIDTH, every_layer, norm)
        x = draw(0, 4, 6)
        params = random_like(module, 1, x, train=False)
        assert ("LayerNorm_0" in params["MLP_0"]) == norm
        found = apply(module, params, x, train=False)
        expected = [layer_heads(params, row, every_layer) for row in x]
        assert found.shape == (4, HEADS * (len(HIDDEN) if every_layer else 1), WIDTH)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def test_the_fe_block_sums_over_query_heads_the_largest_product_with_an_item_head(self):
        user, item = draw(0, 2, 6, WIDTH), draw(1, 2, 4, HEADS, WIDTH)
        found = np.asarray(inttower.max_similarity(user, item))
        expected = [[fe_block(user[r], item[r, c]) for c in range(4)] for r in range(2)]
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    @pytest.mark.parametrize(("count", "width"), [(1, 16), (4, 16), (32, 64)])
    def test_the_centre_is_the_mean_largest_cosine_of_random_heads(self, count, width):
        one, many = draw(0, 4000, width), draw(1, 4000, count, width)
        dots = np.einsum("np,ncp->nc", one, many) / np.linalg.norm(many, axis=-1)
        measured = (dots / np.linalg.norm(one, axis=-1, keepdims=True)).max(1).mean()
        assert inttower.expected_maximum(count, width) == pytest.approx(measured, abs=0.015)


def normalize(tower, statistics, numeric):
    return apply(NumericNormalizer(statistics), tower["NumericNormalizer_0"], numeric)


class TestTowers:
    def test_a_query_head_is_of_gated_features_gated_histories_and_numbers(self, case):
        inputs, params = case.inputs, case.params
        request = lookup.embed_requests(case.tables, case.batch, case.store, inputs)
        tower = params["query_tower"]["tower_input"]
        numeric = normalize(tower, inputs.request_numeric, request.numeric)
        means = {}
        for role in ("history", "query_history"):
            events = getattr(request, role)
            means[role] = np.asarray(masked_mean(events.items, events.mask))
        for row in range(REQUESTS):
            fields = {name: np.asarray(value[row]) for name, value in request.features.items()}
            pooled = {f"{role}/mean": mean[row] for role, mean in means.items()}
            gate = gates(params["query_gate"], fields | pooled)
            parts = [fields[name] * gate[name] for name in sorted(fields)]
            parts += [pooled[f"{role}/mean"] * gate[f"{role}/mean"] for role in means]
            x = layer_norm(tower["LayerNorm_0"], np.concatenate([*parts, numeric[row]]))
            expected = layer_heads(params["query_heads"], x, every_layer=True)
            np.testing.assert_allclose(case()["query"][row], expected, rtol=1e-3, atol=1e-4)

    def test_an_item_head_is_of_gated_features_and_numbers(self, case):
        inputs, params = case.inputs, case.params
        items = lookup.embed_items(case.tables, CORPUS, case.store, inputs)
        tower = params["item_input"]
        numeric = normalize(tower, inputs.item_numeric, items.numeric)
        for row in range(len(CORPUS)):
            fields = {name: np.asarray(value[row]) for name, value in items.features.items()}
            gate = gates(params["item_gate"], fields)
            parts = [fields[name] * gate[name] for name in sorted(fields)]
            x = layer_norm(tower["LayerNorm_0"], np.concatenate([*parts, numeric[row]]))
            expected = layer_heads(params["item_heads"], x, every_layer=False)
            np.testing.assert_allclose(case()["corpus"][row], expected, rtol=1e-3, atol=1e-4)

    def test_it_trains_on_the_logits_that_it_serves(self, case):
        """Dropout is off by default."""
        request = lookup.embed_requests(case.tables, case.batch, case.store, case.inputs)
        slate = lookup.embed_items(case.tables, case.batch["item"], case.store, case.inputs)
        variables = {"params": case.params}
        logits = case.model.apply(variables, request, slate, case.batch["cross"], train=True)
        np.testing.assert_allclose(logits, case()["call"], atol=1e-5)


class TestScore:
    def test_a_logit_is_affine_in_the_centred_score_of_the_pairs_heads(self, case):
        outputs, params = case(), case.params
        centre = len(HIDDEN) * HEADS * inttower.expected_maximum(HEADS, WIDTH)
        for request, candidate in np.ndindex(REQUESTS, SLATE):
            score = fe_block(outputs["query"][request], outputs["items"][request, candidate])
            expected = params["weight"] * (score - centre) + params["bias"]
            found = outputs["score"][request, candidate]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def test_the_outer_score_never_holds_the_head_pairs_of_all_requests(self, case):
        outputs = case()
        jaxpr = jax.make_jaxpr(
            lambda query, items: case.model.apply(
                {"params": case.params}, query, items, method="score_all"
            )
        )(outputs["query"], outputs["corpus"])
        shapes = re.findall(r"f32\[([\d,]+)\]", str(jaxpr))
        largest = max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)
        pairs = len(CORPUS) * len(HIDDEN) * HEADS * HEADS
        assert largest == pairs  # of one request

    def test_first_logits_have_a_usable_spread_around_zero(self, examples):
        """With the default heads: at least a tenth, so that there is something to learn from."""
        config = tiny_config("inttower", tower={"hidden": (64, 32)})
        logits = first_logits(config, examples)[..., 0]
        assert logits.std((1, 2)).min() > 0.1
        assert logits.std((1, 2)).max() < 1.5
        assert np.abs(logits.mean((1, 2))).max() < 1


class TestContrast:
    def test_cir_is_infonce_of_the_last_layers_at_its_fixed_temperature(self, case):
        """Each request's positive against all items of the batch, one term at a time."""
        outputs = case()
        positive = np.eye(REQUESTS, len(CORPUS), dtype=bool)
        found = losses.sampled_softmax(outputs["similarity"], positive).mean()
        terms = []
        for request in range(REQUESTS):
            u = outputs["query"][request, -HEADS:].reshape(-1)
            cosine = [
                u @ v.reshape(-1) / np.sqrt((u @ u) * (v * v).sum()) for v in outputs["corpus"]
            ]
            odds = np.exp(np.array(cosine) / 0.07)
            terms.append(-np.log(odds[request] / odds.sum()))
        np.testing.assert_allclose(found, np.mean(terms), rtol=1e-4)

    @pytest.mark.parametrize("argument", ["search", "movielens_100k", "movielens_1m_published"])
    def test_every_config_trains_on_it_without_a_correction(self, argument):
        loss = configs.inttower(argument).train.loss
        assert loss.softmax_weight > 0
        assert loss.log_q == "none"
