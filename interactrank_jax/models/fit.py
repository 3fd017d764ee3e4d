"""FIT (Xiong et al., SIGIR 2025): learned early and late interaction that keep the towers apart.

Early: a meta query stands in for the candidate inside the user tower. A matrix of N learned vectors
is all the user tower ever sees of items, so a request has N user vectors, whatever the number of
candidates, and an item stores which of them it goes with beside its own vector. Late: a small
network scores the similarities of several user and item heads instead of one dot product.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import Total
from interactrank_jax.models import flops
from interactrank_jax.models.affine import AffineRanker, add_offset
from interactrank_jax.models.inputs import ItemInput, RequestInput
from interactrank_jax.models.late import WIDEST_BLOCKS, LightweightScorer, score_in_blocks
from interactrank_jax.models.preranker import Training
from interactrank_jax.models.registry import register
from interactrank_jax.models.sequence import EventEmbedding, TargetAttention
from interactrank_jax.models.towers import ItemTower, QueryTower

Array = jax.Array


class Request(NamedTuple):
    """A request in training: what does not depend on the candidate, once for all of them.

    Attributes:
      x: `[R, D]` input of the tower's MLP.
      history: events `[R, L, De]` that the meta query attends to and their mask `[R, L]`, or None.
      offset: `[R, H]` what all its candidates have in common; None: nothing.
      hard: `[R, N, U, p]` user vectors of the meta queries, which the sampled softmax compares;
        a loss without one does not look at them, and they are then not computed.
    """

    x: Array
    history: tuple[Array, Array] | None
    offset: Array | None = None
    hard: Array | None = None


class Query(NamedTuple):
    """A request in serving.

    Attributes:
      vectors: `[R, N, U, p]` user vectors, one set per meta query.
      offset: `[R, H]` what all its candidates have in common; None: nothing.
    """

    vectors: Array
    offset: Array | None = None


class Item(NamedTuple):
    """An item.

    Attributes:
      vectors: `[..., V, p]` its heads, of unit length.
      meta: int32 `[...]` the meta query that it goes with.
      similarity: `[..., N]` of its attributes and the meta vectors; None where only hard queries
        are scored, as in serving.
    """

    vectors: Array
    meta: Array
    similarity: Array | None = None


class MetaQueries(nn.Module):
    """The item meta matrix Q `[N, D]` and the query group Q* = (Q Q^T) Q (FIT, Meta Query Module).

    Attributes:
      count: N.
      width: D, of an item's concatenated embeddings.
    """

    count: int
    width: int

    def setup(self):
        """Makes the matrix, Kaiming-uniform."""
        init = nn.initializers.he_uniform(in_axis=-1, out_axis=-2)
        self.matrix = self.param("matrix", init, (self.count, self.width))

    def group(self) -> Array:
        """Returns the queries Q*, `[N, D]`: parameter-free self-attention without a softmax."""
        return (self.matrix @ self.matrix.T) @ self.matrix

    def similarity(self, attributes: Array) -> Array:
        """Returns e Q^T `[..., N]` of attributes `[..., D]`, with the raw matrix."""
        return attributes @ self.matrix.T


def temperature(progress: Array, decay: float, minimum: float) -> Array:
    """Returns tau = max(1 - progress / decay, minimum); decay: share of training it falls over."""
    return jnp.maximum(1 - progress / decay, minimum)


@register("fit", flops=flops.late)
class FIT(AffineRanker):
    """logit = LSS(heads(u_idx), heads(v)), with u_n the user vector of meta query n.

    Training mixes the queries of an item by softmax(similarity / tau) (the soft query) and so runs
    the user tower's MLP once per candidate, and for the sampled softmax N times per request;
    serving takes the nearest (the hard query) and runs it N times per request. In all three, what
    does not depend on the query is computed once per request: the embeddings, pooling, layer norm
    and MaskNet, their product with the first layer of the MLP, and the events' part of the target
    attention. Per query remain the query's own columns of the first layer, its products with the
    events, and the later layers. So the query enters after the layer norm and is not gated by the
    MaskNet, as other features are.

    `config.meta.vectors = 0` leaves the meta queries out, `config.late.user_heads = 0` puts a dot
    product (affine, as in the two-tower model) in place of the scorer; without both it is the
    two-tower model. Meta queries attend to the user's history unless `config.meta.attention_hidden`
    is 0. That alone is the history where `config.sequence.history` is 'target'; otherwise it is
    pooled beside that, once for all candidates.

    QueryRep: a `Query`; in training a `Request`. ItemRep: an `Item`.
    """

    uses_cross: ClassVar[bool] = False

    def setup(self):
        """Makes the towers, the meta queries and the scorer."""
        config, heads = self.config, len(self.inputs.heads)
        dtype = jnp.dtype(config.dtype)
        late, width = config.late, config.tower.output_dim
        if config.sequence.history == "target" and not (
            config.meta.vectors and config.meta.attention_hidden
        ):
            raise InputError(
                "config.model.sequence.history is 'target', to which meta queries attend, but "
                "config.model.meta.vectors or attention_hidden is 0: set history to 'mean', "
                "'mean_by_action', 'interactrank' or 'none' too."
            )
        user_vectors, item_vectors = heads, 1
        if late.user_heads:
            user_vectors, item_vectors, width = late.user_heads, late.item_heads, late.width
            self.scorer = LightweightScorer(
                tuple(late.hidden), heads, late.scale_init, starts_at_zero=self.uses_cross
            )
        else:
            self._make_projection()
        self.query_tower = QueryTower(
            config, self.inputs, user_vectors, width, has_target=self._attends()
        )
        self.item_tower = ItemTower(config, self.inputs, item_vectors, width)
        self._make_temperature()
        if config.meta.vectors:
            self.meta = MetaQueries(config.meta.vectors, self._attribute_width())
            if self._attends():
                self.events = EventEmbedding(
                    self.inputs.actions if config.sequence.action else 0,
                    config.sequence.age_buckets,
                )
                self.attention = TargetAttention(
                    config.meta.attention_hidden, dtype, config.meta.attention_softmax
                )

    def _attribute_width(self) -> int:
        if not self.inputs.item:
            raise InputError(
                "meta queries are compared with the embedded features of items, and "
                "config.model.only and .exclude leave none: keep one, or set "
                "config.model.meta.vectors to 0."
            )
        return sum(
            feature.width if feature.kind == "embedding" else self.row_width(feature.table)
            for feature in self.inputs.item
        )

    def _attends(self) -> bool:
        meta = self.config.meta
        return bool(meta.vectors and meta.attention_hidden and "history" in self.inputs.histories)

    def bias_path(self) -> tuple[str, ...]:
        """Returns where the constant of the logits is: in the last layer of the scorer."""
        return ("scorer", "output", "bias") if self.config.late.user_heads else ("bias",)

    # --- Encoding ---

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Any:
        """Returns a `Query`; in training a `Request`."""
        encoded = self._encode_request(request, train=train)
        hard = self._hard_vectors(encoded, train=train)
        return encoded._replace(hard=hard) if train else Query(hard, encoded.offset)

    def _encode_request(self, request: RequestInput, *, train: bool) -> Request:
        x, offset = self.query_tower.encode_input(request, train=train), self.offset(request)
        history = request.history
        if history is None or not self._attends():
            return Request(x, None, offset)
        return Request(x, (self.events(history), history.mask), offset)

    def _user_vectors(self, request: Request, queries: Array, *, train: bool) -> Array:
        """Returns `[R, M, U, p]` of M queries per request, `[R, M, D]`."""
        pair = queries
        if request.history is not None:
            attended = self.attention(*request.history, queries)
            pair = jnp.concatenate([queries, attended], -1)
        return self.query_tower.encode_output(request.x, pair, train=train)

    def _hard_vectors(self, request: Request, *, train: bool) -> Array:
        """Returns the user vectors of all N meta queries, `[R, N, U, p]`."""
        if not self.config.meta.vectors:
            return self.query_tower.encode_output(request.x, train=train)[:, None]
        group = self.meta.group()
        queries = jnp.broadcast_to(group, (request.x.shape[0], *group.shape))
        return self._user_vectors(request, queries, train=train)

    def encode_item(
        self, items: ItemInput, *, train: bool = False, keep_similarity: bool = False
    ) -> Item:
        """Returns the item's heads and the number of its meta query.

        Args:
          items: the items.
          train: whether dropout is on.
          keep_similarity: whether an item keeps its `similarity`, which soft queries need; in
            training it does.
        """
        vectors = self.item_tower(items, train=train)
        if not self.config.meta.vectors:
            return Item(vectors, jnp.zeros(vectors.shape[:-2], jnp.int32))
        attributes = [items.features[feature.name] for feature in self.inputs.item]
        similarity = self.meta.similarity(jnp.concatenate(attributes, -1))
        nearest = jnp.argmax(similarity, -1).astype(jnp.int32)
        return Item(vectors, nearest, similarity if train or keep_similarity else None)

    def number_limit(self) -> int:
        """Returns the number of meta queries, which `Item.meta` is one of."""
        return max(int(self.config.meta.vectors), 1)

    # --- Scoring ---

    def score(self, query: Query, items: Item, cross: Array) -> Array:
        """Returns `[R, C, H]`: the item's own user vector with the item."""
        del cross
        numbers = items.meta[..., None, None]
        user = jnp.take_along_axis(query.vectors, numbers, 1, mode="promise_in_bounds")
        return add_offset(self._logits(user, items.vectors), query.offset)

    def score_all(self, query: Query, items: Item) -> Array:
        """Returns `[R, I, H]`, request by request: products of all pairs would fill a memory."""

        def one(model, carry, vectors):
            return carry, model._score_one(vectors, items)

        by_request = nn.scan(one, variable_broadcast="params", split_rngs={"params": False})
        return add_offset(by_request(self, (), query.vectors)[1], query.offset)

    def score_one(self, query: Query, items: Item) -> Array:
        """Returns `[I, H]` of one request with items."""
        logits = self._score_one(query.vectors[0], items)
        return add_offset(logits[None], query.offset)[0]

    def _score_one(self, vectors: Array, items: Item) -> Array:
        """Returns `[I, H]` of a request's user vectors `[N, U, p]`.

        By one product of the items' heads with the vectors of all meta queries, of which each item
        takes those of its own: eight times the arithmetic, and still half the time of picking the
        vectors first, which leaves a product of 4 x 4 for each item.
        """
        count, user_heads, width = vectors.shape
        item_heads = items.vectors.shape[-2]
        late = bool(self.config.late.user_heads)
        units = self.config.late.hidden[0] if late else 1
        if max(count, user_heads, units) > WIDEST_BLOCKS:
            return self._logits(vectors[items.meta], items.vectors)
        all_products = items.vectors.reshape(-1, width) @ vectors.reshape(-1, width).T
        all_products = all_products.reshape(-1, item_heads, count, user_heads)
        products, meta = all_products[:, :, 0], items.meta[:, None, None]
        for number in range(1, count):
            products = jnp.where(meta == number, all_products[:, :, number], products)
        if late:
            return score_in_blocks(self.scorer.variables["params"], products)
        return self._project(products.sum(1))

    def _logits(self, user: Array, item: Array) -> Array:
        """Returns logits `[..., H]` of user vectors `[..., U, p]` and items `[..., V, p]`."""
        if self.config.late.user_heads:
            return self.scorer(user, item)
        return self._project(jnp.einsum("...hp,...vp->...h", user, item))

    def similarity(self, query: Any, items: Item) -> Array:
        """Returns `[R, N]`: mean cosine of the heads over the learned temperature."""
        vectors: Any = query.hard if isinstance(query, Request) else query.vectors
        late = bool(self.config.late.user_heads)
        user = vectors.mean(-2) if late else vectors[..., 0, :]
        # An item's vector in its meta query's block of N, zeros in the others: one product does not
        # need the cosines of the N - 1 user vectors that the item does not go with.
        block = jax.nn.one_hot(items.meta, user.shape[1], dtype=user.dtype)[..., None]
        blocks = (block * items.vectors.mean(-2)[:, None]).reshape(len(items.meta), -1)
        return self._over_temperature(user.reshape(len(user), -1) @ blocks.T)

    # --- Training ---

    def train_score(
        self, query: Any, items: Any, cross: Array, *, engaged: Array, mask: Array, progress: Array
    ) -> Training:
        """Returns the logits of soft queries, how close those are to the hard ones, and their use.

        Diagnostics: `query_similarity`, the cosine of soft and hard query, which must approach 1 as
        the temperature falls; `meta_usage/n`, the share of candidates that go with meta query n.
        """
        del cross, engaged
        if not self.config.meta.vectors:
            logits = self._logits(query.hard, items.vectors)
            return Training(add_offset(logits, query.offset), {}, {})
        config = self.config.meta
        tau = temperature(progress, config.decay, config.temperature_min)
        group = self.meta.group()
        soft = jax.nn.softmax(items.similarity / tau, -1) @ group
        hard = group[items.meta]
        user = self._user_vectors(query, soft, train=True)
        logits = add_offset(self._logits(user, items.vectors), query.offset)
        norms = jnp.linalg.norm(soft, axis=-1) * jnp.linalg.norm(hard, axis=-1)
        cosine = (soft * hard).sum(-1) / jnp.maximum(norms, 1e-12)
        count = mask.sum().astype(jnp.float32)
        used = jax.nn.one_hot(items.meta, config.vectors) * mask[..., None]
        figures = [(cosine * mask).sum(), *used.sum((0, 1))]
        diagnostics = zip(self.diagnostic_names(), figures, strict=True)
        return Training(logits, {}, {name: Total(value, count) for name, value in diagnostics})

    def diagnostic_names(self) -> tuple[str, ...]:
        """Returns the names of the figures that `train_score` reports."""
        vectors = int(self.config.meta.vectors)
        usage = tuple(f"meta_usage/{number}" for number in range(vectors))
        return ("query_similarity", *usage) if vectors else ()
