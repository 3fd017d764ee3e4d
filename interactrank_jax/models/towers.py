"""The two towers: everything about a request, or about an item, to vectors of unit length."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import FrozenConfigDict

from interactrank_jax.data.examples import NumericStatistics
from interactrank_jax.errors import InputError
from interactrank_jax.models.embeddings import QUERY, Inputs, ItemInput, RequestInput
from interactrank_jax.models.layers import MLP, NumericNormalizer, ParallelMaskNet, l2_normalize
from interactrank_jax.models.sequence import SequencePooling, masked_mean

Array = jax.Array


class Tower(nn.Module):
    """Concat, layer norm, parallel MaskNet (if `masknet.blocks`), MLP, projection, L2 norm.

    Attributes:
      config: `tower` of the model config: numeric_views, hidden, output_dim, dropout, masknet.
      statistics: of the numeric features.
      heads: vectors to emit.
      dtype: to compute in; the vectors are float32.
    """

    config: FrozenConfigDict
    statistics: tuple[NumericStatistics, ...]
    heads: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Mapping[str, Array], numeric: Array, extra: list[Array], *, train: bool
    ) -> Array:
        """Maps features `[..., d]` each and numeric `[..., Fn]` to `[..., heads, output_dim]`."""
        parts = [features[name] for name in sorted(features)] + extra
        if self.statistics:
            views = self.config.numeric_views
            parts.append(NumericNormalizer(self.statistics, tuple(views))(numeric))
        x = nn.LayerNorm(dtype=self.dtype)(jnp.concatenate(parts, -1))
        masknet = self.config.masknet
        if masknet.blocks:
            gated = ParallelMaskNet(
                masknet.blocks, masknet.width, masknet.reduction, masknet.dropout, self.dtype
            )
            x = gated(x, train=train)
        x = MLP(tuple(self.config.hidden), self.config.dropout, dtype=self.dtype)(x, train=train)
        x = nn.Dense(self.heads * self.config.output_dim, dtype=self.dtype)(x)
        return l2_normalize(x.reshape(*x.shape[:-1], self.heads, self.config.output_dim))


class QueryTower(nn.Module):
    """The request, its user and its query, with both histories: `[R, heads, output_dim]`.

    `config.sequence` says how each of `history` and `query_history` is pooled: 'interactrank'
    (weighted pooling and query cross-attention, with age and action), 'mean', or 'none'.
    """

    config: FrozenConfigDict
    inputs: Inputs
    heads: int = 1

    @nn.compact
    def __call__(self, request: RequestInput, *, train: bool) -> Array:
        """Encodes requests."""
        sequence = self.config.sequence
        query = [
            request.features[feature.name]
            for feature in self.inputs.request
            if feature.name == QUERY or feature.kind == "text"
        ]
        pooled = []
        for role in self.inputs.histories:
            events = getattr(request, role)
            if not events.mask.shape[-1]:
                continue
            if sequence[role] == "mean":
                pooled.append(masked_mean(events.items, events.mask))
                continue
            if not query:
                raise InputError(
                    "config.model.exclude leaves nothing of the query, which histories are pooled "
                    "with: set config.model.sequence's history and query_history to 'mean'."
                )
            is_user = role == "history"
            pooled.append(
                SequencePooling(
                    actions=self.inputs.actions if is_user and sequence.action else 0,
                    age_buckets=sequence.age_buckets if is_user else 0,
                    weighted=sequence.weighted_pooling,
                    attention=sequence.query_attention,
                    dtype=jnp.dtype(self.config.dtype),
                    name=role,
                )(events, jnp.concatenate(query, -1))
            )
        tower = Tower(
            self.config.tower,
            self.inputs.request_numeric,
            self.heads,
            jnp.dtype(self.config.dtype),
            name="tower",
        )
        return tower(request.features, request.numeric, pooled, train=train)


class ItemTower(nn.Module):
    """The item alone: `[..., output_dim]`."""

    config: FrozenConfigDict
    inputs: Inputs

    @nn.compact
    def __call__(self, items: ItemInput, *, train: bool) -> Array:
        """Encodes items."""
        tower = Tower(
            self.config.tower,
            self.inputs.item_numeric,
            dtype=jnp.dtype(self.config.dtype),
            name="tower",
        )
        return tower(items.features, items.numeric, [], train=train)[..., 0, :]
