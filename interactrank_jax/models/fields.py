"""Fields, and the base of the models that score a pair by a network over them.

Field: one input of a request, an item or a pair, as a vector of a width that all of them share.
Such models see more of a pair than two towers do, and pay for it with a network per candidate. They
are the references that pre-ranking models are held against, not models to serve at this stage.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from interactrank_jax.examples.encoder import Feature, NumericStatistics
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import Total
from interactrank_jax.models.affine import add_offset
from interactrank_jax.models.history_terms import CrossTerms, UserTerms, transform_cross
from interactrank_jax.models.inputs import ItemInput, RequestInput
from interactrank_jax.models.layers import MLP, NumericNormalizer
from interactrank_jax.models.preranker import PreRanker, Training
from interactrank_jax.models.sequence import (
    check_poolings,
    masked_mean,
    masked_mean_by_action,
)

Array = jax.Array

POOLINGS = ("mean", "mean_by_action", "none")


def l2_penalty(query: Array, items: Array, mask: Array) -> Total:
    """Returns |query|^2 + |item|^2 over the candidates that exist.

    A vector is held back as often as it is seen, so that one seen often may grow longer.

    Args:
      query: `[R, ...]`, all of a request's vectors.
      items: `[R, C, ...]`.
      mask: `[R, C]`.
    """
    query, items = query.reshape(len(query), 1, -1), items.reshape(*items.shape[:2], -1)
    length = (query * query).sum(-1) + (items * items).sum(-1)
    return Total((length * mask).sum(), mask.sum().astype(jnp.float32))


class ValueFields(nn.Module):
    """A number times a learned vector is its field: `[..., F]` to `[..., F, width]`.

    Attributes:
      width: of a field.
      scale: standard deviation of the vectors at the start.
    """

    width: int
    scale: float

    @nn.compact
    def __call__(self, values: Array) -> Array:
        """Multiplies."""
        shape = (values.shape[-1], self.width)
        vectors = self.param("vectors", nn.initializers.normal(self.scale), shape)
        return jnp.einsum("...f,fw->...fw", values, vectors)


class SideFields(nn.Module):
    """The fields of one side: embedded features as they are, given vectors projected, numbers.

    Attributes:
      width: of a field.
      features: of this side, in order.
      statistics: of its numeric features.
      views: of those, see `NumericNormalizer`.
      scale: standard deviation of all weights at the start.
    """

    width: int
    features: tuple[Feature, ...]
    statistics: tuple[NumericStatistics, ...]
    views: tuple[str, ...]
    scale: float

    @nn.compact
    def __call__(self, features: Mapping[str, Array], numeric: Array) -> Array:
        """Maps features by name, `[..., width]` each, and numeric `[..., Fn]` to `[..., F, width]`.

        Features of kind 'embedding' come as given, in a width of their own.
        """
        fields = []
        for feature in self.features:
            vector = features[feature.name]
            if feature.kind == "embedding":
                # As small at the start as the rows of a table: a linear model has nothing between.
                init = nn.initializers.normal(self.scale)
                vector = nn.Dense(self.width, kernel_init=init, name=feature.name)(vector)
            fields.append(vector)
        stacked = [jnp.stack(fields, -2)] if fields else []
        if self.statistics:
            values = NumericNormalizer(self.statistics, self.views)(numeric)
            stacked.append(ValueFields(self.width, self.scale, name="numeric")(values))
        if not stacked:
            raise InputError(
                "config.model.exclude leaves nothing of a request or of an item: keep at least "
                "one feature of each."
            )
        return jnp.concatenate(stacked, -2)


class Query(NamedTuple):
    """A request.

    Attributes:
      fields: `[R, Fq, w]`.
      offset: `[R, H]` what all its candidates have in common; None: nothing.
    """

    fields: Array
    offset: Array | None = None


class JointRanker(PreRanker):
    """A network over the fields of a pair, run anew for each; subclasses give `logits`.

    logit_h = network_h(all fields) + sum_k w_hk f(IQP_k) + sum_u v_hu g(z_u): the affine terms of
    InteractRank beside the network, whose last layer starts at zero. They are no part of the
    papers; `config.cross.affine` off leaves them out.

    Fields are every embedded feature, every numeric one, the average of each history (one field per
    feature that it is made of, and per action in 'mean_by_action'), and every cross feature.

    A field has `config.embedding_dim` places, and in models with first-order terms one more per
    head: the weight of that input in a linear model, kept in the same row of the same table.

    QueryRep: a `Query`. ItemRep: `[..., Fi, w]`, the item's fields, passed through: nothing of the
    network can be computed ahead, so an index of them is of no use.
    """

    uses_cross: ClassVar[bool] = True
    is_decoupled: ClassVar[bool] = False
    has_first_order: ClassVar[bool] = False

    def setup(self):
        """Makes what turns inputs into fields, and the deep part."""
        config, inputs = self.config, self.inputs
        check_poolings(config, inputs.histories, POOLINGS)
        views, scale, heads = tuple(config.tower.numeric_views), config.embedding_scale, self.heads
        width = self.row_width("")
        self.request_fields = SideFields(
            width, inputs.request, inputs.request_numeric, views, scale
        )
        self.item_fields = SideFields(width, inputs.item, inputs.item_numeric, views, scale)
        if inputs.cross:
            self.cross_fields = ValueFields(width, scale)
        self.dtype = jnp.dtype(config.dtype)
        tower = config.tower
        self.deep = MLP(
            tuple(tower.hidden), tower.dropout, dtype=self.dtype, layer_norm=tower.layer_norm
        )
        self.deep_output = output_layer(heads)
        if config.cross.affine:
            self.cross_terms = CrossTerms(inputs, config.cross.transform)
            self.user_terms = UserTerms(inputs)

    @property
    def heads(self) -> int:
        """The number of heads, H."""
        return len(self.inputs.heads)

    def row_width(self, table: str) -> int:
        """Returns the width of a table's rows, and of every field."""
        return super().row_width(table) + (self.heads if self.has_first_order else 0)

    # --- What a pair consists of ---

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Query:
        """Returns the request's fields, and what all its candidates have in common."""
        del train
        fields = self.request_fields(request.features, request.numeric)
        fields = jnp.concatenate([fields, *self._history_fields(request)], -2)
        return Query(fields, self.offset(request))

    def offset(self, request: RequestInput) -> Array | None:
        """Returns what the user's past adds to all candidates, `[R, H]`."""
        return self.user_terms(request.numeric) if self.config.cross.affine else None

    def bias_path(self) -> tuple[str, ...]:
        """Returns where the constant of the logits is: in the last layer of the MLP."""
        return ("deep_output", "bias")

    def _history_fields(self, request: RequestInput) -> list[Array]:
        fields, width = [], self.row_width("")
        for role in self.inputs.histories:
            events = getattr(request, role)
            if not events.mask.shape[-1]:
                continue
            if self.config.sequence[role] == "mean":
                pooled = masked_mean(events.items, events.mask)
            else:
                pooled = masked_mean_by_action(
                    events.items, events.action, events.mask, self.inputs.actions
                )
            pooled = pooled.reshape(len(pooled), -1, width)
            # A first-order weight is that of the item as a candidate, not as one of a history.
            fields.append(pooled.at[..., self.config.embedding_dim :].set(0.0))
        return fields

    def encode_item(self, items: ItemInput, *, train: bool = False) -> Array:
        """Returns the item's fields `[..., Fi, w]`."""
        del train
        return self.item_fields(items.features, items.numeric)

    def _pair_fields(self, items: Array, cross: Array) -> Array:
        """Returns the fields that differ between candidates, `[R, C, Fi + K, w]`."""
        if not self.inputs.cross:
            return items
        values = transform_cross(cross, self.inputs, self.config.cross.transform)
        return jnp.concatenate([items, self.cross_fields(values)], -2)

    # --- Scoring ---

    def logits(self, query: Array, pair: Array, *, train: bool) -> Array:
        """Returns `[R, C, H]` of fields: the request's `[R, Fq, w]`, the pair's `[R, C, Fp, w]`."""
        raise NotImplementedError

    def score(self, query: Query, items: Array, cross: Array) -> Array:
        """Returns `[R, C, H]`."""
        return self._with_terms(query, items, cross, train=False)

    def _with_terms(self, query: Query, items: Array, cross: Array, *, train: bool) -> Array:
        """Returns the network's logits with the affine terms beside them, `[R, C, H]`."""
        logits = self.logits(query.fields, self._pair_fields(items, cross), train=train)
        if self.config.cross.affine:
            logits = logits + self.cross_terms(cross)
        return add_offset(logits, query.offset)

    def score_all(self, query: Query, items: Array) -> Array:
        """Returns `[R, I, H]`, request by request: the fields of all pairs would fill a memory."""
        no_cross = jnp.zeros((1, len(items), len(self.inputs.cross)))

        def one(model, carry, fields):
            return carry, model.score(Query(fields[None]), items[None], no_cross)[0]

        by_request = nn.scan(one, variable_broadcast="params", split_rngs={"params": False})
        return add_offset(by_request(self, (), query.fields)[1], query.offset)

    def train_score(
        self,
        query: Query,
        items: Array,
        cross: Array,
        *,
        engaged: Array,
        mask: Array,
        progress: Array,
    ) -> Training:
        """Returns the logits, with dropout, and the vectors' squared lengths as the loss 'l2'."""
        del engaged, progress
        logits = self._with_terms(query, items, cross, train=True)
        penalty = l2_penalty(self.vectors(query.fields), self.vectors(items), mask)
        return Training(logits, {"l2": penalty}, {})

    def auxiliary_losses(self) -> dict[str, float]:
        """Returns the weight of the squared lengths."""
        return {"l2": float(self.config.l2)} if self.config.l2 else {}

    # --- Parts that several models have ---

    def vectors(self, fields: Array) -> Array:
        """Returns fields without their first-order weights, `[..., F, d]`."""
        return fields[..., : self.config.embedding_dim]

    def first_order(self, query: Array, pair: Array) -> Array:
        """Returns the sum of all first-order weights, `[R, C, H]`: a linear model."""

        def weights(fields):
            return fields[..., self.config.embedding_dim :].sum(-2)

        return weights(query)[:, None] + weights(pair)

    def all_vectors(self, query: Array, pair: Array) -> Array:
        """Returns the vectors of all fields of each pair, `[R, C, F, d]`."""
        query, pair = self.vectors(query), self.vectors(pair)
        shape = (*pair.shape[:2], *query.shape[1:])
        return jnp.concatenate([jnp.broadcast_to(query[:, None], shape), pair], -2)

    def deep_logits(self, query: Array, pair: Array, *, train: bool) -> Array:
        """Returns `[R, C, H]`: an MLP of all vectors side by side.

        The request's part of its first layer is computed once, whatever the number of candidates.
        """
        hidden = self.deep(flat(self.vectors(query)), flat(self.vectors(pair)), train=train)
        return self.deep_output(hidden)


def output_layer(heads: int, *, use_bias: bool = True) -> nn.Dense:
    """Returns a last layer that starts at zero, so that what stands beside the network counts."""
    return nn.Dense(heads, use_bias=use_bias, kernel_init=nn.initializers.zeros)


def flat(fields: Array) -> Array:
    """Returns `[..., F, d]` as `[..., F * d]`."""
    return fields.reshape(*fields.shape[:-2], -1)
