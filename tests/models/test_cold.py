"""COLD against a slow, literal numpy version."""

import numpy as np
import pytest

from interactrank_jax.examples.format import Examples
from interactrank_jax.models.cold import SqueezeExcitation
from tests.models.literal import apply, dense, draw, random_like
from tests.models.model_case import REQUESTS, Case
from tests.synthetic import SLATE


@pytest.fixture(scope="module")
def case(examples_path):
    return Case("cold", Examples(examples_path))


def squeeze_excitation(params, fields):
    """Fields `[F, d]`, one at a time."""
    squeezed = [field.mean() for field in fields]
    scaled = []
    for number, field in enumerate(fields):
        excitation = params["Dense_0"]["bias"][number]
        for other, mean in enumerate(squeezed):
            excitation = excitation + mean * params["Dense_0"]["kernel"][other, number]
        scaled.append(field / (1 + np.exp(-excitation)))
    return np.array(scaled)


def test_the_se_block_scales_each_field_by_an_importance_seen_from_all_fields():
    module, fields = SqueezeExcitation(), draw(0, 2, 3, 4, 5)
    params = random_like(module, 1, fields)
    found = apply(module, params, fields)
    assert found.shape == fields.shape
    for place in np.ndindex(2, 3):
        expected = squeeze_excitation(params, fields[place].astype(np.float64))
        np.testing.assert_allclose(found[place], expected, rtol=1e-4, atol=1e-5)


def test_a_logit_is_an_mlp_of_all_scaled_fields(case):
    outputs, params = case(), case.params
    scaled = case.batch["cross"] / np.array(case.inputs.cross_scale, np.float32)
    damped = np.sign(scaled) * np.log1p(np.abs(scaled))
    for request, candidate in np.ndindex(REQUESTS, SLATE):
        crossed = damped[request, candidate][:, None] * params["cross_fields"]["vectors"]
        fields = [outputs["query"].fields[request], outputs["items"][request, candidate], crossed]
        fields = squeeze_excitation(params["squeeze_excitation"], np.concatenate(fields))
        hidden = np.maximum(dense(params["deep"]["Dense_0"], fields.reshape(-1)), 0)
        affine = damped[request, candidate] @ params["cross_terms"]["weight"]
        expected = dense(params["deep_output"], hidden) + affine
        found = outputs["score"][request, candidate]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_one_field_can_switch_another_on():
    dense_0 = {"bias": np.zeros(2, np.float32), "kernel": np.array([[0, 0], [9, 0]], np.float32)}
    fields = np.array([[1.0, 1.0], [0.0, 0.0]], np.float32)
    module = SqueezeExcitation()
    low = apply(module, {"Dense_0": dense_0}, fields)
    high = apply(module, {"Dense_0": dense_0}, fields + np.array([[0.0], [1.0]], np.float32))
    np.testing.assert_allclose(low[0], 0.5, atol=1e-6)
    np.testing.assert_allclose(high[0], 1.0, atol=1e-3)
