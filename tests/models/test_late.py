"""The lightweight similarity scorer against a literal numpy version of its equations."""

import jax
import numpy as np
import pytest

from interactrank_jax.config import models as configs
from interactrank_jax.models.late import LightweightScorer
from tests.models.literal import apply, dense, draw, random_like


class TestScorer:
    U, V, P, HIDDEN, H = 3, 2, 4, (5, 6), 2

    @pytest.fixture
    def scorer(self):
        """Module, random parameters, and heads of seven pairs."""
        module = LightweightScorer(self.HIDDEN, self.H, 5.0)
        user, item = draw(10, 7, self.U, self.P), draw(11, 7, self.V, self.P)
        return module, random_like(module, 0, user, item), user, item

    def test_equals_the_equations_one_pair_at_a_time(self, scorer):
        module, params, user, item = scorer
        expected = np.zeros((7, self.H))
        for pair in range(7):
            similarity = np.zeros((self.U, self.V))
            for u, v in np.ndindex(self.U, self.V):
                dot = user[pair, u] @ item[pair, v]
                similarity[u, v] = np.exp(params["log_scale"]) * (dot - params["centre"][u, v])
            first = np.zeros((self.U, self.HIDDEN[0]))
            for u in range(self.U):
                first[u] = np.maximum(dense(params["item"], similarity[u]), 0)
            second = np.zeros((self.HIDDEN[0], self.HIDDEN[1]))
            for k in range(self.HIDDEN[0]):
                second[k] = np.maximum(dense(params["user"], first[:, k]), 0)
            expected[pair] = dense(params["output"], second.reshape(-1))
        found = apply(module, params, user, item)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def test_permuting_user_heads_with_their_weights_alike_changes_nothing(self, scorer):
        module, params, user, item = scorer
        order = np.array([2, 0, 1])
        turned = {
            **params,
            "centre": params["centre"][order],
            "user": {**params["user"], "kernel": params["user"]["kernel"][order]},
        }
        before = apply(module, params, user, item)
        after = apply(module, turned, user[:, order], item)
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
        assert not np.allclose(apply(module, params, user[:, order], item), before)

    def test_initial_logits_of_unit_vectors_have_a_usable_spread(self):
        late = configs.fit().model.late
        module = LightweightScorer(tuple(late.hidden), 1, late.scale_init)
        spreads = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            shapes = (500, late.user_heads, late.width), (500, late.item_heads, late.width)
            user, item = (rng.normal(size=shape) for shape in shapes)
            user, item = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (user, item))
            logits, _ = module.init_with_output(jax.random.key(seed), user, item)
            spreads.append(float(np.std(logits)))
        assert min(spreads) > 0.05
        assert max(spreads) < 1
