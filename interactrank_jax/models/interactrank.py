"""InteractRank (Khandagale et al., WWW 2025): two towers, plus what history knows of the pair."""

from typing import ClassVar

import jax

from interactrank_jax.models import flops
from interactrank_jax.models.history_terms import CrossTerms, UserTerms
from interactrank_jax.models.inputs import RequestInput
from interactrank_jax.models.registry import register
from interactrank_jax.models.two_tower import Query, TwoTower

Array = jax.Array


@register("interactrank", flops=flops.interactrank)
class InteractRank(TwoTower):
    """logit_h = w_h <u_h, v> + sum_k w_hk f(IQP_k) + sum_u v_hu g(z_u) + b_h.

    The towers are those of the two-tower model, by default with parallel MaskNet and both
    histories pooled with attention (`config.tower`, `config.sequence`). z are the user's counts and
    rates, if the examples have them: no part of the paper, and alike for all candidates.
    `score_all`, which sees no cross features, stays one matrix product.
    """

    uses_cross: ClassVar[bool] = True

    def setup(self):
        """Adds the weights of what history knows."""
        super().setup()
        self.cross_terms = CrossTerms(self.inputs, **self.config.cross)
        self.user_terms = UserTerms(self.inputs)

    def offset(self, request: RequestInput) -> Array | None:
        """Returns what the user's past adds to all candidates, `[R, H]`."""
        return self.user_terms(request.numeric)

    def score(self, query: Query, items: Array, cross: Array) -> Array:
        """Returns `[R, C, H]`."""
        return super().score(query, items, cross) + self.cross_terms(cross)

    def cross_parts(self, cross: Array) -> Array:
        """Returns what each cross feature adds to the logits, `[..., K, H]`."""
        return self.cross_terms.parts(cross)
