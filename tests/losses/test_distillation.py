import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interactrank_jax import losses
from interactrank_jax.losses.properties import normal

TEACHER = normal((2, 5), scale=2.0, seed=3)
MISSING = np.array([[0, 1, 0, 0, 0], [1, 0, 0, 0, 1]], bool)


@pytest.mark.parametrize("loss", [losses.distill_pointwise, losses.distill_delta_ndcg])
class TestTeacher:
    def test_rows_without_its_score_are_left_out_by_where(self, loss):
        logits = normal((2, 5))
        teacher = jnp.where(MISSING, jnp.nan, TEACHER)
        where = ~jnp.isnan(teacher)
        evaluate = jax.jit(jax.value_and_grad(lambda x, t, kept: loss(x, t, where=kept).loss))
        value, gradient = evaluate(logits, teacher, where)
        assert value == evaluate(logits, TEACHER, where)[0]  # as if there was one
        assert value < evaluate(logits, TEACHER, ~jnp.isnan(TEACHER))[0]
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[MISSING], 0)
        assert np.isnan(evaluate(logits, teacher, ~jnp.isnan(TEACHER))[0])

    def test_it_gets_no_gradient(self, loss):
        gradient = jax.grad(lambda teacher: loss(normal((2, 5)), teacher).loss)(TEACHER)
        np.testing.assert_array_equal(gradient, 0)

    def test_learning_from_it_ends_in_its_order(self, loss):
        @jax.jit
        def descend(logits):
            gradient = jax.grad(lambda x: loss(x, TEACHER).mean())
            return jax.lax.fori_loop(0, 300, lambda _, x: x - 2.0 * gradient(x), logits)

        logits = descend(-TEACHER)
        np.testing.assert_array_equal(np.argsort(logits, -1), np.argsort(TEACHER, -1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_teachers_logit_is_the_optimum_at_any_temperature(temperature):
    gradient = jax.grad(
        lambda x: losses.distill_pointwise(x, TEACHER, temperature=temperature).loss
    )
    np.testing.assert_allclose(gradient(TEACHER), jnp.zeros((2, 5)), atol=1e-6)
    p, target = jax.nn.sigmoid(0.0), jax.nn.sigmoid(TEACHER / temperature)
    expected = temperature * (p - target)
    np.testing.assert_allclose(gradient(jnp.zeros((2, 5))), expected, rtol=1e-5, atol=1e-6)


class TestDeltaNdcg:
    def test_the_weight_is_the_change_in_ndcg_of_the_students_ranking(self):
        logits, teacher = jnp.array([[0.0, 1.0]]), jnp.array([[2.0, -2.0]])
        gains, discount = 1 / (1 + np.exp([-2.0, 2.0])), 1 / math.log2(3)
        ideal = gains[0] + gains[1] * discount
        change = (gains[0] - gains[1]) * (1 - discount) / ideal
        total = losses.distill_delta_ndcg(logits, teacher)
        assert total.weight == pytest.approx(change, rel=1e-5)
        assert total.loss == pytest.approx(change * math.log(1 + math.e), rel=1e-5)

    def test_a_pair_at_the_top_of_the_students_ranking_counts_more(self):
        teacher, first_pair = jnp.array([[1.0, -1.0, 0.0, 0.0]]), jnp.array([[1, 1, 1e-6, 1e-6]])
        top, bottom = (
            losses.distill_delta_ndcg(jnp.array([logits]), teacher, weights=first_pair).weight
            for logits in ([2.0, 3.0, 0.0, 0.1], [0.0, 0.1, 2.0, 3.0])
        )
        expected = (1 - 1 / math.log2(3)) / (1 / 2 - 1 / math.log2(5))
        assert top / bottom == pytest.approx(expected, rel=1e-4)

    def test_ties_are_ranked_against_the_student_and_whatever_the_order_of_the_slate(self):
        teacher = jnp.array([[-2.0, 3.0, 0.0, 1.0]])
        tied = losses.distill_delta_ndcg(jnp.zeros((1, 4)), teacher)
        worst = losses.distill_delta_ndcg(-1e-4 * teacher, teacher)
        best = losses.distill_delta_ndcg(1e-4 * teacher, teacher)
        np.testing.assert_allclose(tied, worst, rtol=1e-3)
        assert abs(best.weight / worst.weight - 1) > 0.02
        logits = jnp.array([[0.0, 0.0, 1.0, 1.0]])
        expected = losses.distill_delta_ndcg(logits, teacher)
        for order in np.array([[3, 2, 1, 0], [1, 0, 3, 2], [2, 0, 3, 1]]):
            permuted = losses.distill_delta_ndcg(logits[:, order], teacher[:, order])
            np.testing.assert_allclose(permuted, expected, rtol=1e-6)

    def test_a_teacher_who_is_certain_of_all_leaves_nothing_to_order(self):
        total = losses.distill_delta_ndcg(normal((1, 3)), jnp.array([[200.0, 300.0, 400.0]]))
        assert total == (0, 0)
        assert total.mean() == 0
