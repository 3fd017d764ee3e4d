"""Layers against slow, literal numpy versions of their equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from interactrank_jax.examples.encoder import NumericStatistics
from interactrank_jax.models import layers, sequence
from interactrank_jax.models.inputs import SequenceInput
from interactrank_jax.models.layers import (
    MLP,
    MaskBlock,
    NumericNormalizer,
    ParallelMaskNet,
    along_last,
    l2_normalize,
)
from interactrank_jax.models.registry import MODELS
from interactrank_jax.runs.run import Run
from tests.models.literal import apply, dense, draw, layer_norm, random_like
from tests.synthetic import tiny_config


class TestL2Normalize:
    def test_has_unit_length_and_the_same_direction(self):
        x = draw(0, 5, 4) * 100
        expected = x / np.sqrt((x**2).sum(-1, keepdims=True))
        np.testing.assert_allclose(l2_normalize(jnp.asarray(x)), expected, rtol=1e-5)

    def test_a_zero_vector_stays_zero_with_a_finite_gradient(self):
        zero = jnp.zeros((2, 4))
        value, gradient = jax.value_and_grad(lambda x: l2_normalize(x)[..., 0].sum())(zero)
        assert value == 0
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(l2_normalize(zero), 0)

    def test_the_gradient_is_orthogonal_to_the_vector(self):
        x = jnp.asarray(draw(1, 4))
        gradient = jax.grad(lambda x: l2_normalize(x) @ jnp.asarray(draw(2, 4)))(x)
        assert abs(gradient @ x) < 1e-5
        assert np.linalg.norm(gradient) > 1e-2


class TestNumericNormalizer:
    STATISTICS = (
        NumericStatistics(0.0, 100.0, 40.0, 20.0, 3.0, 1.5),
        NumericStatistics(-5.0, 5.0, 1.0, 2.0, 1.2, 0.5),
    )

    def by_hand(self, x, mixture):
        result = np.zeros_like(x)
        for index, value in np.ndenumerate(x):
            feature = self.STATISTICS[index[-1]]
            value = min(max(float(value), feature.minimum), feature.maximum)
            views = [
                (value - feature.minimum) / (feature.maximum - feature.minimum),
                (np.log(1 + value - feature.minimum) - feature.log_mean) / feature.log_std,
                (value - feature.mean) / feature.std,
            ]
            shares = np.exp(mixture[index[-1]]) / np.exp(mixture[index[-1]]).sum()
            result[index] = sum(s * v for s, v in zip(shares, views, strict=True))
        return result

    @pytest.mark.parametrize("shape", [(6, 2), (2, 3, 2)])
    def test_is_a_learned_mixture_of_three_views_per_feature(self, shape):
        module = NumericNormalizer(self.STATISTICS)
        x = np.abs(draw(0, *shape)) * 30 - 4
        params = random_like(module, 1, x)
        assert params["mixture"].shape == (2, 3)
        np.testing.assert_allclose(
            apply(module, params, x), self.by_hand(x, params["mixture"]), rtol=1e-4, atol=1e-5
        )

    def test_values_beyond_the_training_range_count_as_its_ends(self):
        module = NumericNormalizer(self.STATISTICS)
        params = random_like(module, 2, np.zeros((1, 2), np.float32))
        beyond = apply(module, params, np.array([[-1e9, 1e9], [1e30, -1e30]], np.float32))
        ends = apply(module, params, np.array([[0, 5], [100, -5]], np.float32))
        np.testing.assert_array_equal(beyond, ends)

    def test_starts_with_equal_shares(self):
        module = NumericNormalizer(self.STATISTICS)
        x = draw(3, 4, 2)
        params = module.init(jax.random.key(0), x)["params"]
        expected = self.by_hand(x, np.zeros((2, 3)))
        np.testing.assert_allclose(apply(module, params, x), expected, rtol=1e-4, atol=1e-5)

    def test_a_feature_that_is_constant_in_training_is_finite(self):
        module = NumericNormalizer((NumericStatistics(3.0, 3.0, 3.0, 0.0, 0.0, 0.0),))
        x = np.array([[3.0], [7.0]], np.float32)
        np.testing.assert_array_equal(apply(module, random_like(module, 0, x), x), 0)


class TestMaskNet:
    def by_hand(self, params, x):
        gate = np.maximum(dense(params["Dense_0"], x), 0)
        gate = dense(params["Dense_1"], gate)
        return np.maximum(layer_norm(params["LayerNorm_0"], dense(params["Dense_2"], gate * x)), 0)

    def test_a_block_gates_its_input_and_passes_a_normalised_hidden_layer(self):
        module, x = MaskBlock(width=6), draw(0, 3, 20)
        params = random_like(module, 1, x, train=False)
        assert params["Dense_0"]["kernel"].shape == (20, 2)  # a tenth of the input
        np.testing.assert_allclose(
            apply(module, params, x, train=False), self.by_hand(params, x), rtol=1e-3, atol=1e-4
        )

    @pytest.mark.parametrize(("width", "reduction", "bottleneck"), [(5, 0.1, 1), (20, 0.5, 10)])
    def test_the_bottleneck_is_a_share_of_the_input_and_at_least_one(
        self, width, reduction, bottleneck
    ):
        params = random_like(MaskBlock(4, reduction), 0, draw(0, 1, width), train=False)
        assert params["Dense_0"]["kernel"].shape == (width, bottleneck)

    def test_parallel_blocks_see_the_same_input_and_stand_side_by_side(self):
        module, x = ParallelMaskNet(blocks=3, width=4), draw(0, 2, 3, 10)
        params = random_like(module, 1, x, train=False)
        expected = [self.by_hand(params[f"MaskBlock_{block}"], x) for block in range(3)]
        output = apply(module, params, x, train=False)
        assert output.shape == (2, 3, 12)
        np.testing.assert_allclose(output, np.concatenate(expected, -1), rtol=1e-3, atol=1e-4)

    def test_dropout_acts_in_training_only(self):
        module, x = MLP((400,), dropout=0.5), draw(0, 1, 3)
        params = random_like(module, 1, x, train=False)
        plain = apply(module, params, x, train=False)
        np.testing.assert_allclose(plain, np.maximum(dense(params["Dense_0"], x), 0), rtol=1e-5)
        rngs = {"dropout": jax.random.key(1)}
        dropped = apply(module, params, x, train=True, rngs=rngs)
        kept = dropped[plain > 0] > 0
        assert 0.35 < kept.mean() < 0.65
        np.testing.assert_allclose(dropped[dropped > 0], 2 * plain[dropped > 0], rtol=1e-5)


class TestAgeBucket:
    @pytest.mark.parametrize(
        ("hours", "bucket"),
        [(0.0, 0), (0.999, 0), (1.0, 1), (1.999, 1), (2.0, 2), (3.999, 2), (4.0, 3), (-3.0, 0)],
    )
    def test_bucket_b_holds_ages_from_two_to_the_b_minus_one_to_two_to_the_b(self, hours, bucket):
        assert sequence.age_bucket(jnp.float32(hours), 16) == bucket

    def test_every_power_of_two_opens_a_bucket_and_what_is_just_below_it_does_not(self):
        powers = np.arange(15)
        edges = (2.0**powers).astype(np.float32)
        below = np.nextafter(edges, np.float32(0))
        np.testing.assert_array_equal(sequence.age_bucket(jnp.asarray(edges), 16), powers + 1)
        np.testing.assert_array_equal(sequence.age_bucket(jnp.asarray(below), 16), powers)

    def test_the_last_bucket_is_open(self):
        assert sequence.age_bucket(jnp.float32(1e9), 4) == 3


class TestMaskedMean:
    def test_averages_what_the_mask_holds_and_nothing_gives_zeros(self):
        items = draw(0, 2, 3, 4)
        mask = np.array([[True, False, True], [False, False, False]])
        mean = sequence.masked_mean(jnp.asarray(items), jnp.asarray(mask))
        np.testing.assert_allclose(mean[0], (items[0, 0] + items[0, 2]) / 2, rtol=1e-6)
        np.testing.assert_array_equal(mean[1], 0)


class TestSequencePooling:
    R, L, D, DQ = 3, 4, 5, 2
    ACTIONS, BUCKETS = 2, 4

    def sequence(self):
        rng = np.random.default_rng(0)
        mask: Any = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
        return SequenceInput(
            items=draw(1, self.R, self.L, self.D) * mask[..., None],
            action=(rng.integers(1, self.ACTIONS + 1, mask.shape) * mask).astype(np.int32),
            age=(np.array([0.5, 1.5, 3.0, 90.0], np.float32) * mask).astype(np.float32),
            mask=mask,
        )

    def by_hand(self, params, events, query, weighted, attention, sides):
        bucket = [0, 1, 2, 3]  # of the ages above
        pooled = np.zeros((self.R, self.D))
        for request in range(self.R):
            present = [place for place in range(self.L) if events.mask[request, place]]
            embedded = {}
            for place in present:
                embedded[place] = events.items[request, place].astype(np.float64)
                if sides:
                    embedded[place] += params["events"]["action"][events.action[request, place]]
                    embedded[place] += params["events"]["age"][bucket[place]]
            if weighted:
                for place in present:
                    pooled[request] += params["alpha"][place] * embedded[place]
            if attention and present:
                projected = query[request] @ params["query"]["kernel"]
                odds = {p: np.exp(projected @ embedded[p] / np.sqrt(self.D)) for p in present}
                for place in present:
                    pooled[request] += odds[place] / sum(odds.values()) * embedded[place]
        return pooled

    @pytest.mark.parametrize(
        ("weighted", "attention", "sides"),
        [(True, True, True), (True, False, True), (False, True, True), (True, True, False)],
    )
    def test_is_the_sum_of_the_poolings_over_present_events(self, weighted, attention, sides):
        module = sequence.SequencePooling(
            actions=self.ACTIONS if sides else 0,
            age_buckets=self.BUCKETS if sides else 0,
            weighted=weighted,
            attention=attention,
        )
        events, query = self.sequence(), draw(2, self.R, self.DQ)
        params = random_like(module, 3, events, query)
        assert set(params) == {
            *(["events"] if sides else []),
            *(["alpha"] if weighted else []),
            *(["query"] if attention else []),
        }
        expected = self.by_hand(params, events, query, weighted, attention, sides)
        pooled = apply(module, params, events, query)
        np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(pooled[2], 0)  # an empty sequence

    def test_gradients_are_finite_for_an_empty_sequence(self):
        module = sequence.SequencePooling(self.ACTIONS, self.BUCKETS)
        events, query = self.sequence(), draw(2, self.R, self.DQ)
        params = random_like(module, 3, events, query)
        empty = jax.tree.map(np.zeros_like, events)

        def functional(params, query):
            pooled: Any = module.apply({"params": params}, empty, query)
            return pooled.sum()

        gradient = jax.jit(jax.grad(functional, argnums=(0, 1)))(params, query)
        for leaf in jax.tree.leaves(gradient):
            np.testing.assert_array_equal(leaf, 0)


class TestMeanByAction:
    def test_averages_the_events_of_each_action_apart(self):
        items = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
        action, mask = np.array([[1, 2, 1, 1]]), np.array([[True, True, True, False]])
        pooled = sequence.masked_mean_by_action(items, action, mask, 3)
        expected = np.concatenate([(items[0, 0] + items[0, 2]) / 2, items[0, 1], np.zeros(3)])
        np.testing.assert_allclose(pooled, expected[None], rtol=1e-6)


class TestTargetAttention:
    R, L, M, D, HIDDEN = 2, 4, 3, 5, 6

    @pytest.mark.parametrize("softmax", [False, True])
    @pytest.mark.parametrize("target_width", [D, 7])
    def test_equals_the_network_on_target_event_difference_and_product(self, target_width, softmax):
        module = sequence.TargetAttention(self.HIDDEN, softmax=softmax)
        events = draw(1, self.R, self.L, self.D)
        target = draw(2, self.R, self.M, target_width)
        mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0]], bool)
        params = random_like(module, 3, events, mask, target)
        weights = np.zeros((self.R, self.M, self.L))
        for r, m, place in np.ndindex(self.R, self.M, self.L):
            t, e = target[r, m], events[r, place]
            if target_width != self.D:
                t = t @ params["target"]["kernel"]
            hidden = np.concatenate([t, e, t - e, t * e]) @ params["weight"] + params["bias"]
            attention = params["attention"]
            weights[r, m, place] = dense(attention, np.maximum(hidden, 0)).item()
        if softmax:
            weights = np.exp(weights) * mask[:, None]
            weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
        expected = np.einsum("rml,rl,rld->rmd", weights, mask, events)
        attended = apply(module, params, events, mask, target)
        np.testing.assert_allclose(attended, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(attended[1], 0)  # an empty sequence

    def test_a_softmax_makes_an_average_of_the_events_that_are_present(self):
        """The network's output is the event itself here: events log 2 and log 6 weigh 1/4, 3/4."""
        log2, log6 = np.log([2.0, 6.0])
        params = {
            "weight": np.array([[0], [1], [0], [0]], np.float32),
            "bias": np.zeros(1, np.float32),
            "attention": {"kernel": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)},
        }
        events = np.array([[[log2], [log6], [9.0]]], np.float32)
        mask, target = np.array([[1, 1, 0]], bool), np.ones((1, 1, 1), np.float32)
        plain = apply(sequence.TargetAttention(1), params, events, mask, target)
        assert plain.item() == pytest.approx(log2**2 + log6**2, rel=1e-5)
        module = sequence.TargetAttention(1, softmax=True)
        averaged = apply(module, params, events, mask, target)
        assert averaged.item() == pytest.approx(log2 / 4 + 3 * log6 / 4, rel=1e-5)


def test_a_layer_norm_adds_a_hundred_thousandth_to_the_variance():
    x = np.array([[0.0, 2e-3]], np.float32)  # variance 1e-6: 1e-5 more makes the deviation
    params = {"scale": np.ones(2, np.float32), "bias": np.zeros(2, np.float32)}
    found = apply(layers.layer_norm(), params, x)
    np.testing.assert_allclose(
        found, [[-1e-3 / np.sqrt(1.1e-5), 1e-3 / np.sqrt(1.1e-5)]], rtol=1e-4
    )


def test_every_layer_norm_of_every_model_has_the_epsilon_of_interactranks_code(examples):
    epsilons = {}

    def record(next_function, args, kwargs, context):
        if isinstance(context.module, nn.LayerNorm):
            epsilons.setdefault(name, set()).add(context.module.epsilon)
        return next_function(*args, **kwargs)

    for name in MODELS:
        config = tiny_config(name)
        if "tower" in config.model:
            config.model.tower.layer_norm = True
        with nn.intercept_methods(record):
            assert Run("unused", config, examples.metadata).model_template
    assert {"interactrank", "two_tower", "fit", "inttower", "dat", "deepfm"} <= set(epsilons)
    assert set().union(*epsilons.values()) == {1e-5}


class TestMLP:
    def test_a_layer_norm_follows_each_activation(self):
        module, x = MLP((6, 4), layer_norm=True), draw(0, 3, 5)
        params = random_like(module, 1, x, train=False)
        expected = x
        for layer in range(2):
            activated = np.maximum(dense(params[f"Dense_{layer}"], expected), 0)
            expected = layer_norm(params[f"LayerNorm_{layer}"], activated)
        assert (expected < 0).any()
        np.testing.assert_allclose(apply(module, params, x, train=False), expected, rtol=1e-3)

    def test_a_pair_input_is_more_columns_of_the_first_layer(self):
        module = MLP((4, 3))
        x, pair = draw(1, 2, 5), draw(2, 2, 6, 7)
        params = random_like(module, 3, x, pair, train=False)
        repeated = np.broadcast_to(x[:, None], (2, 6, 5))
        first = np.concatenate([params["Dense_0"]["kernel"], params["pair"]["kernel"]])
        joint = {**params, "Dense_0": {**params["Dense_0"], "kernel": first}}
        del joint["pair"]
        expected = apply(module, joint, np.concatenate([repeated, pair], -1), train=False)
        found = apply(module, params, x, pair, train=False)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_along_last_gives_a_vector_the_rank_it_is_broadcast_to():
    assert along_last(jnp.arange(3.0), jnp.zeros((2, 5, 3))).shape == (1, 1, 3)
