"""log Q is right: its probabilities, and the expected gradient of the softmax they correct."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax import losses
from interactrank_jax.io.errors import InputError

ITEMS, CHUNK = 40, 500
Q = 1 / np.arange(1.0, ITEMS + 1)  # Zipf, so that popular items are over-sampled
Q /= Q.sum()
COUNT, TOTAL = jnp.asarray(1e9 * Q, jnp.float32), 1e9
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=ITEMS), jnp.float32)
SOFTMAX = np.asarray(jax.nn.softmax(LOGITS), np.float64)
EYE = np.eye(ITEMS, dtype=bool)


def draw(batches, draws, uniform=0, seed=0):
    """How often each item is drawn in each batch, [batches, ITEMS]."""
    generator = np.random.default_rng(seed)
    count = generator.multinomial(draws, Q, size=batches)
    return count + generator.multinomial(uniform, np.full(ITEMS, 1 / ITEMS), size=batches)


def log_q(draws, uniform=0):
    return losses.log_q_from_counts(COUNT, TOTAL, draws, uniform=uniform, items=ITEMS)


# Columns are the catalogue, of which a batch holds what was drawn: repeated items are merged.
def _own_batch(correction, logits, log_q, count):
    """Requests are the draws, each with its item as its positive: as within a training batch."""
    repeated = jnp.broadcast_to(count[:, None], EYE.shape).astype(jnp.float32)
    return losses.sampled_softmax(
        jnp.broadcast_to(logits[None], EYE.shape),
        jnp.asarray(EYE),
        log_q=log_q,
        correction=correction,
        where=count > 0,
        weights=repeated,
    ).mean()


def _one_positive(correction, positive, logits, log_q, count):
    """One request, whose positive is there whatever was drawn."""
    return losses.sampled_softmax(
        logits[None], positive[None], log_q=log_q, correction=correction, where=positive | count > 0
    ).mean()


@functools.cache
def _mean_gradient(setting, correction):
    """Compiled `(log_q, count) -> gradient`, averaged over batches; log_q is an argument."""

    def average(loss, log_q, count):
        each = jax.vmap(jax.grad(loss), in_axes=(None, None, 0))
        return each(LOGITS, log_q, count).mean(0)

    if setting == "own batch":
        return jax.jit(functools.partial(average, functools.partial(_own_batch, correction)))

    def each_positive(log_q, count):
        def one(positive):
            return average(functools.partial(_one_positive, correction, positive), log_q, count)

        return jax.vmap(one)(jnp.asarray(EYE))

    return jax.jit(each_positive)


def distance(setting, correction, log_q, count):
    """Relative distance of the mean sampled gradient from that of the full softmax."""
    exact = SOFTMAX - Q if setting == "own batch" else SOFTMAX[None] - EYE
    chunks = jnp.asarray(count.reshape(-1, CHUNK, ITEMS))
    each = [_mean_gradient(setting, correction)(log_q, chunk) for chunk in chunks]
    gradient = np.mean(np.asarray(each, np.float64), axis=0)
    return np.linalg.norm(gradient - exact) / np.linalg.norm(exact)


class TestExpectedGradient:
    # A quotient of estimates has a bias of order 1 / draws, and so has a positive that is weighed
    # as if it was drawn. 128 draws of these 40 items leave .021 within the own batch (.051 at 64
    # draws), and .006 where each positive is always there and kept apart (.015 at 64). The Monte
    # Carlo error of 4,000 batches is .007 and .002. Without correction the distance is 8 times the
    # bias, with the wrong sign 15 times.
    @pytest.mark.long  # compiles a step for itself
    @pytest.mark.parametrize(
        ("setting", "correction", "draws", "uniform", "tolerance"),
        [
            ("own batch", "standard", 128, 0, 0.032),
            ("own batch", "positive_apart", 128, 0, 0.032),
            ("each positive", "positive_apart", 128, 0, 0.0095),
            ("each positive", "positive_apart", 48, 16, 0.0095),
        ],
    )
    def test_is_that_of_the_full_softmax_with_the_right_sign_only(
        self, setting, correction, draws, uniform, tolerance
    ):
        count, subtracted = draw(4000, draws, uniform), log_q(draws, uniform)
        assert distance(setting, correction, subtracted, count) < tolerance
        few = count[:1000]  # enough to see what is far off
        assert distance(setting, correction, 0 * subtracted, few) > 4 * tolerance
        assert distance(setting, correction, -subtracted, few) > 8 * tolerance

    def test_the_bias_halves_with_twice_the_draws(self):
        far, near = (
            distance("each positive", "positive_apart", log_q(draws), draw(4000, draws))
            for draws in (32, 64)
        )
        assert 1.5 < far / near < 2.7

    def test_of_a_positive_that_is_always_there_only_keeping_it_apart_is_near(self):
        count, subtracted = draw(1500, 64), log_q(64)
        apart, standard = (
            distance("each positive", correction, subtracted, count)
            for correction in ("positive_apart", "standard")
        )
        assert standard > 2.5 * apart

    def test_mixed_draws_need_the_probability_of_both(self):
        count = draw(1500, 64, uniform=64)
        both, log_only = (
            distance("each positive", "positive_apart", log_q(64, uniform), count)
            for uniform in (64, 0)
        )
        assert log_only > 5 * both


# The sum over the sampled negatives has no bias at all, however few were drawn.
@pytest.mark.parametrize(("draws", "uniform"), [(8, 0), (8, 6)])
def test_the_expected_denominator_is_exactly_that_of_the_catalogue(draws, uniform):
    count, positive = draw(40_000, draws, uniform), jnp.asarray(EYE[3])

    @jax.jit
    def denominators(log_q, count):
        loss = functools.partial(_one_positive, "positive_apart", positive, LOGITS, log_q)
        return jnp.exp(LOGITS[3]) * jnp.expm1(jax.vmap(loss)(count))

    exact = np.exp(np.asarray(LOGITS, np.float64))[~EYE[3]].sum()

    def errors_off(log_q):
        each = np.asarray(denominators(log_q, jnp.asarray(count)), np.float64)
        return abs(each.mean() - exact) / (each.std() / math.sqrt(len(each)))

    right = log_q(draws, uniform)
    assert errors_off(right) < 4
    assert errors_off(0 * right) > 100
    assert errors_off(-right) > 100
    # Not told apart by a tolerance: the expected number of draws is larger than the probability.
    assert errors_off(jnp.log(jnp.asarray(draws * Q + uniform / ITEMS, jnp.float32))) > 10


class TestLogQFromCounts:
    def test_equals_the_exact_probability_from_rare_to_certain(self):
        counts, total, batch = np.array([1, 1000, 10**6, 5 * 10**8, 10**9]), 10**9, 4096
        p = counts / total
        with np.errstate(divide="ignore"):
            expected = np.log(-np.expm1(batch * np.log1p(-p)))
        value = losses.log_q_from_counts(jnp.asarray(counts), total, batch)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
        assert value[0] == pytest.approx(math.log(4096e-9), rel=1e-5)

    def test_mixed_equals_the_exact_probability_from_rare_to_certain(self):
        counts, total, batch = np.array([0, 1, 1000, 10**6, 5 * 10**8, 10**9]), 10**9, 4096
        for uniform, items in ((1, 10**7), (512, 10**6), (512, 20)):
            missed = uniform * np.log1p(-1 / items)
            with np.errstate(divide="ignore"):
                expected = np.log(-np.expm1(batch * np.log1p(-counts / total) + missed))
            value = losses.log_q_from_counts(
                jnp.asarray(counts), total, batch, uniform=uniform, items=items
            )
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)

    def test_equals_simulated_batches(self):
        q, batch = np.array([0.6, 0.3, 0.1]), 5
        generator = np.random.default_rng(0)
        drawn = generator.choice(3, p=q, size=(40_000, batch))
        seen = [(drawn == item).any(1).mean() for item in range(3)]
        value = losses.log_q_from_counts(jnp.array([6, 3, 1]), 10, batch)
        np.testing.assert_allclose(np.exp(value), seen, atol=0.01)
        both = np.concatenate([drawn, generator.integers(3, size=(40_000, 2))], axis=1)
        seen = [(both == item).any(1).mean() for item in range(3)]
        value = losses.log_q_from_counts(jnp.array([6, 3, 1]), 10, batch, uniform=2, items=3)
        np.testing.assert_allclose(np.exp(value), seen, atol=0.01)

    def test_an_item_never_counted_is_finite(self):
        value = losses.log_q_from_counts(jnp.array([0, 1]), 100, 8)
        assert value[0] == value[1]
        assert np.isfinite(value).all()

    def test_a_batch_without_draws_from_the_log_is_uniform(self):
        value = losses.log_q_from_counts(jnp.array([0, 50, 100]), 100, 0, uniform=3, items=10)
        np.testing.assert_allclose(np.exp(value), 1 - 0.9**3, rtol=1e-5)

    def test_uniform_draws_of_no_item_are_refused(self):
        with pytest.raises(InputError, match="Give `items`"):
            losses.log_q_from_counts(jnp.array([1]), 10, 8, uniform=4)
