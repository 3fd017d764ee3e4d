"""Matrix factorisation with biases: what ids alone can do, and the line that others must pass."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from interactrank_jax.io.errors import InputError
from interactrank_jax.models import flops
from interactrank_jax.models.fields import l2_penalty
from interactrank_jax.models.inputs import ITEM, USER, ItemInput, RequestInput
from interactrank_jax.models.layers import along_last
from interactrank_jax.models.preranker import PreRanker, Training
from interactrank_jax.models.registry import register

Array = jax.Array


@register("matrix_factorization", flops=flops.matrix_factorization)
class MatrixFactorization(PreRanker):
    """logit_h = <p_uh, q_ih> + b_uh + b_ih + b_h (Koren et al., 2009), a factorisation per head.

    A row of a table holds, for each head, the `config.embedding_dim` factors of an id and then its
    bias. No other feature is looked at. Training adds `config.l2` times the mean over candidates of
    |p_u|^2 + |q_i|^2, so that who is seen often is held back as often; biases go free.

    QueryRep: `[R, H, d + 1]`. ItemRep: `[..., H, d + 1]`. Factors, then the bias.
    """

    uses_cross: ClassVar[bool] = False

    def setup(self):
        """Makes the global bias."""
        for name, features in ((USER, self.inputs.request), (ITEM, self.inputs.item)):
            if name not in [feature.name for feature in features]:
                raise InputError(
                    f"matrix factorisation needs '{name}': take it out of config.model.exclude."
                )
        self.bias = self.param("bias", nn.initializers.zeros, (len(self.inputs.heads),))

    def row_width(self, table: str) -> int:
        """Returns the width of the rows of either table: H (d + 1)."""
        return len(self.inputs.heads) * (super().row_width(table) + 1)

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Array:
        """Returns the user's rows, `[R, H, d + 1]`."""
        del train
        return self._by_head(request.features, USER)

    def encode_item(self, items: ItemInput, *, train: bool = False) -> Array:
        """Returns the item's rows, `[..., H, d + 1]`."""
        del train
        return self._by_head(items.features, ITEM)

    def _by_head(self, features: Mapping[str, Array], name: str) -> Array:
        row = features[name]
        return row.reshape(*row.shape[:-1], len(self.inputs.heads), -1)

    def score(self, query: Array, items: Array, cross: Array) -> Array:
        """Returns `[R, C, H]`; the cross features are not looked at."""
        del cross
        return self._logits("rhd,rchd->rch", query, items, items[..., -1])

    def score_all(self, query: Array, items: Array) -> Array:
        """Returns `[R, I, H]`."""
        return self._logits("rhd,ihd->rih", query, items, items[None, ..., -1])

    def train_score(
        self,
        query: Array,
        items: Array,
        cross: Array,
        *,
        engaged: Array,
        mask: Array,
        progress: Array,
    ) -> Training:
        """Returns the logits, and the factors' squared lengths as the loss 'l2'."""
        del engaged, progress
        penalty = l2_penalty(query[..., :-1], items[..., :-1], mask)
        return Training(self.score(query, items, cross), {"l2": penalty}, {})

    def auxiliary_losses(self) -> dict[str, float]:
        """Returns the weight of the squared lengths."""
        return {"l2": float(self.config.l2)}

    def _logits(self, product: str, query: Array, items: Array, item_bias: Array) -> Array:
        dot = jnp.einsum(product, query[..., :-1], items[..., :-1])
        return dot + query[:, None, :, -1] + item_bias + along_last(self.bias, dot)
