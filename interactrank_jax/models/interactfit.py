"""InteractFIT: FIT's learned interaction, and what history knows of the pair (InteractRank)."""

from typing import Any, ClassVar

import jax

from interactrank_jax.models import flops
from interactrank_jax.models.fit import FIT, Item, Query
from interactrank_jax.models.history_terms import CrossTerms, UserTerms
from interactrank_jax.models.inputs import RequestInput
from interactrank_jax.models.preranker import Training
from interactrank_jax.models.registry import register

Array = jax.Array


@register("interactfit", flops=flops.interactfit)
class InteractFIT(FIT):
    """logit = FIT's logit + sum_k w_hk f(IQP_k) + sum_u v_hu g(z_u), as InteractRank's.

    InteractRank's sequence, MaskNet and losses are those of the config. Where the examples have no
    cross features it is FIT.
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

    def score(self, query: Query, items: Item, cross: Array) -> Array:
        """Returns `[R, C, H]`."""
        return super().score(query, items, cross) + self.cross_terms(cross)

    def cross_parts(self, cross: Array) -> Array:
        """Returns what each cross feature adds to the logits, `[..., K, H]`."""
        return self.cross_terms.parts(cross)

    def train_score(self, query: Any, items: Any, cross: Array, **batch: Any) -> Training:
        """Returns FIT's training logits with the cross terms."""
        training = super().train_score(query, items, cross, **batch)
        return training._replace(logits=training.logits + self.cross_terms(cross))
