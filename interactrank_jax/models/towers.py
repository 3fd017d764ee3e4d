"""The two towers: everything about a request, or about an item, to vectors of unit length."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import FrozenConfigDict

from interactrank_jax.examples.encoder import NumericStatistics
from interactrank_jax.io.errors import InputError
from interactrank_jax.models.inputs import QUERY, Inputs, ItemInput, RequestInput
from interactrank_jax.models.layers import (
    MLP,
    NumericNormalizer,
    ParallelMaskNet,
    l2_normalize,
    layer_norm,
)
from interactrank_jax.models.sequence import (
    SequencePooling,
    check_poolings,
    masked_mean,
    masked_mean_by_action,
)

Array = jax.Array


POOLINGS = ("interactrank", "mean", "mean_by_action", "none")


class TowerInput(nn.Module):
    """Concat, layer norm, parallel MaskNet (if `masknet.blocks`): a side of the pair to `[..., D]`.

    Attributes:
      config: `tower` of the model config: numeric_views, masknet.
      statistics: of the numeric features.
      dtype: to compute in.
    """

    config: FrozenConfigDict
    statistics: tuple[NumericStatistics, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Mapping[str, Array], numeric: Array, extra: list[Array], *, train: bool
    ) -> Array:
        """Maps features `[..., d]` each, in the order of their names, and numeric `[..., Fn]`."""
        parts = [features[name] for name in sorted(features)] + extra
        if self.statistics:
            views = self.config.numeric_views
            parts.append(NumericNormalizer(self.statistics, tuple(views))(numeric))
        x = layer_norm(self.dtype)(jnp.concatenate(parts, -1))
        masknet = self.config.masknet
        if not masknet.blocks:
            return x
        gated = ParallelMaskNet(
            masknet.blocks, masknet.width, masknet.reduction, masknet.dropout, self.dtype
        )
        return gated(x, train=train)


class TowerOutput(nn.Module):
    """MLP, projection to vectors, L2 norm.

    Attributes:
      config: `tower` of the model config: hidden, layer_norm, dropout.
      vectors: how many to emit.
      width: of each.
      dtype: to compute in; the vectors are float32.
    """

    config: FrozenConfigDict
    vectors: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, pair: Array | None = None, *, train: bool) -> Array:
        """Maps `[..., D]`, and `[..., M, P]` beside it, to `[..., (M,) vectors, width]`."""
        tower = self.config
        mlp = MLP(tuple(tower.hidden), tower.dropout, dtype=self.dtype, layer_norm=tower.layer_norm)
        x = nn.Dense(self.vectors * self.width, dtype=self.dtype)(mlp(x, pair, train=train))
        return l2_normalize(x.reshape(*x.shape[:-1], self.vectors, self.width))


class QueryTower(nn.Module):
    """The request, its user and its query, with both histories: `[R, vectors, width]`.

    `config.sequence` says how each of `history` and `query_history` is pooled: 'interactrank'
    (weighted pooling and query cross-attention, with age and action), 'mean', 'mean_by_action' (one
    mean per action), or 'none'; 'target' leaves `history` to a model that attends to it by a target
    of its own, and says so with `has_target`.
    """

    config: FrozenConfigDict
    inputs: Inputs
    vectors: int
    width: int
    has_target: bool = False

    def setup(self):
        """Makes the parts."""
        for role in self.inputs.histories:
            kinds = (*POOLINGS, "target") if role == "history" and self.has_target else POOLINGS
            check_poolings(self.config, (role,), kinds)
        dtype = jnp.dtype(self.config.dtype)
        self.tower_input = TowerInput(self.config.tower, self.inputs.request_numeric, dtype)
        self.tower_output = TowerOutput(self.config.tower, self.vectors, self.width, dtype)
        sequence = self.config.sequence
        self.pooling = {
            role: SequencePooling(
                actions=self.inputs.actions if role == "history" and sequence.action else 0,
                age_buckets=sequence.age_buckets if role == "history" else 0,
                weighted=sequence.weighted_pooling,
                attention=sequence.query_attention,
                dtype=dtype,
            )
            for role in self.inputs.histories
            if sequence[role] == "interactrank"
        }

    def encode_input(self, request: RequestInput, *, train: bool) -> Array:
        """Returns what the tower makes of a request alone, `[R, D]`, before its MLP."""
        pooled = []
        for role in self.inputs.histories:
            events, kind = getattr(request, role), self.config.sequence[role]
            if not events.mask.shape[-1]:
                continue
            if kind == "mean":
                pooled.append(masked_mean(events.items, events.mask))
            elif kind == "mean_by_action":
                pooled.append(
                    masked_mean_by_action(
                        events.items, events.action, events.mask, self.inputs.actions
                    )
                )
            elif kind == "interactrank":
                pooled.append(self.pooling[role](events, self._query(request)))
        return self.tower_input(request.features, request.numeric, pooled, train=train)

    def _query(self, request: RequestInput) -> Array:
        query = [
            request.features[feature.name]
            for feature in self.inputs.request
            if feature.name == QUERY or feature.kind == "text"
        ]
        if not query:
            raise InputError(
                "config.model.exclude leaves nothing of the query, which histories are pooled "
                "with: set config.model.sequence's history and query_history to 'mean'."
            )
        return jnp.concatenate(query, -1)

    def encode_output(self, x: Array, pair: Array | None = None, *, train: bool) -> Array:
        """Returns unit vectors of an encoded input `[R, D]`, see `TowerOutput`."""
        return self.tower_output(x, pair, train=train)

    def __call__(self, request: RequestInput, *, train: bool) -> Array:
        """Encodes requests."""
        return self.encode_output(self.encode_input(request, train=train), train=train)


class ItemTower(nn.Module):
    """The item alone: `[..., vectors, width]`."""

    config: FrozenConfigDict
    inputs: Inputs
    vectors: int
    width: int

    @nn.compact
    def __call__(self, items: ItemInput, *, train: bool) -> Array:
        """Encodes items."""
        tower, dtype = self.config.tower, jnp.dtype(self.config.dtype)
        x = TowerInput(tower, self.inputs.item_numeric, dtype, name="tower_input")(
            items.features, items.numeric, [], train=train
        )
        output = TowerOutput(tower, self.vectors, self.width, dtype, name="tower_output")
        return output(x, train=train)
