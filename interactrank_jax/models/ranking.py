"""Models of the ranking stage: logistic regression, Wide&Deep, DeepFM, DCN-V2, AutoInt."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from interactrank_jax.models import flops
from interactrank_jax.models.affine import add_offset
from interactrank_jax.models.fields import JointRanker, SideFields, flat, output_layer
from interactrank_jax.models.history_terms import CrossTerms, UserTerms
from interactrank_jax.models.inputs import ItemInput, RequestInput
from interactrank_jax.models.layers import along_last
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.models.registry import register

Array = jax.Array


@register("lr", flops=flops.linear_cross)
class LogisticRegression(PreRanker):
    """logit_h = sum of the weights of all inputs + b_h: of ids one, of numbers and cross linear.

    A row of a table is the weights of one id, one per head. Histories are not looked at. A sum
    decouples, so that, unlike the other models here, this one can be indexed and served; without
    cross features it ranks all candidates alike for every request.

    QueryRep: `[R, H]`. ItemRep: `[..., H]`. Sums of weights.
    """

    def setup(self):
        """Makes the weights that are in no table."""
        config, inputs, heads = self.config, self.inputs, len(self.inputs.heads)
        views, scale = tuple(config.tower.numeric_views), config.embedding_scale
        self.request_weights = SideFields(
            heads, inputs.request, inputs.request_numeric, views, scale
        )
        self.item_weights = SideFields(heads, inputs.item, inputs.item_numeric, views, scale)
        self.cross_terms, self.user_terms = CrossTerms(inputs, **config.cross), UserTerms(inputs)
        self.bias = self.param("bias", nn.initializers.zeros, (heads,))

    def row_width(self, table: str) -> int:
        """Returns the number of heads."""
        del table
        return len(self.inputs.heads)

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Array:
        """Returns the request's part of the logits, `[R, H]`."""
        del train
        weights = self.request_weights(request.features, request.numeric).sum(-2)
        return add_offset(weights, self.user_terms(request.numeric))

    def encode_item(self, items: ItemInput, *, train: bool = False) -> Array:
        """Returns the item's part of the logits, `[..., H]`."""
        del train
        return self.item_weights(items.features, items.numeric).sum(-2)

    def score(self, query: Array, items: Array, cross: Array) -> Array:
        """Returns `[R, C, H]`."""
        return self._sum(query[:, None], items) + self.cross_terms(cross)

    def score_all(self, query: Array, items: Array) -> Array:
        """Returns `[R, I, H]`."""
        return self._sum(query[:, None], items[None])

    def _sum(self, query: Array, items: Array) -> Array:
        return query + items + along_last(self.bias, items)


@register("wide_deep", flops=flops.wide_deep)
class WideAndDeep(JointRanker):
    """logit = first-order terms + MLP(all fields) (Cheng et al., 2016).

    The wide part is linear in all inputs. What was crossed by hand there are the cross features.
    """

    has_first_order: ClassVar[bool] = True

    def logits(self, query: Array, pair: Array, *, train: bool) -> Array:
        """Returns `[R, C, H]`."""
        return self.first_order(query, pair) + self.deep_logits(query, pair, train=train)


def factorization_machine(query: Array, pair: Array) -> Array:
    """Returns sum_{f<g} <v_f, v_g> over all fields of a pair, `[R, C]` (Rendle, 2010).

    As ((sum_f v_f)^2 - sum_f v_f^2) / 2, summed over the places of a vector: linear in the number
    of fields, and the request's share of both sums is formed once.

    Args:
      query: `[R, Fq, d]` vectors of the request.
      pair: `[R, C, Fp, d]` vectors of each candidate.
    """
    total = query.sum(-2)[:, None] + pair.sum(-2)
    squares = (query * query).sum(-2)[:, None] + (pair * pair).sum(-2)
    return 0.5 * (total * total - squares).sum(-1)


@register("deepfm", flops=flops.deepfm)
class DeepFM(JointRanker):
    """logit_h = first-order terms + a_h FM(all fields) + MLP(all fields) (Guo et al., 2017).

    The vectors are one set for all heads, so each head weighs their one FM term; a_h starts at 1.
    """

    has_first_order: ClassVar[bool] = True

    def setup(self):
        """Adds the weight of the second-order terms."""
        super().setup()
        self.second_order = self.param("second_order", nn.initializers.ones, (self.heads,))

    def logits(self, query: Array, pair: Array, *, train: bool) -> Array:
        """Returns `[R, C, H]`."""
        machine = factorization_machine(self.vectors(query), self.vectors(pair))[..., None]
        linear = self.first_order(query, pair) + machine * along_last(self.second_order, machine)
        return linear + self.deep_logits(query, pair, train=train)


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l with full W (DCN-V2, Wang et al., 2021, eq. 1).

    Attributes:
      layers: how many.
      dtype: to compute in.
    """

    layers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., D]` to `[..., D]`."""
        first = x = x.astype(self.dtype)
        for _ in range(self.layers):
            x = first * nn.Dense(x.shape[-1], dtype=self.dtype)(x) + x
        return x


@register("dcn_v2", flops=flops.dcn_v2)
class DCNV2(JointRanker):
    """logit = linear in [cross network(x), MLP(x)], x all fields in a row: the parallel form."""

    def setup(self):
        """Adds the cross network."""
        super().setup()
        self.cross_network = CrossNetwork(self.config.cross_layers, self.dtype)
        self.cross_output = output_layer(self.heads, use_bias=False)

    def logits(self, query: Array, pair: Array, *, train: bool) -> Array:
        """Returns `[R, C, H]`."""
        crossed = self.cross_network(flat(self.all_vectors(query, pair)))
        return self.cross_output(crossed) + self.deep_logits(query, pair, train=train)


class InteractingLayer(nn.Module):
    """Fields attend to fields (AutoInt, Song et al., 2019, eqs. 5 to 8).

    Per head: alpha_fg = softmax_g <Q e_f, K e_g>, then sum_g alpha_fg V e_g. Heads side by side,
    plus a projection of the input, then ReLU. The scores are not divided by a root of the width.

    Attributes:
      heads: of the attention.
      width: of each.
      dtype: to multiply in; the softmax is float32.
    """

    heads: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, fields: Array) -> Array:
        """Maps `[..., F, d]` to `[..., F, heads * width]`."""

        def project(name):
            dense = nn.Dense(self.heads * self.width, use_bias=False, dtype=self.dtype, name=name)
            return dense(fields)

        def split(x):
            return x.reshape(*x.shape[:-1], self.heads, self.width)

        query, key, value = (split(project(name)) for name in ("query", "key", "value"))
        scores = jnp.einsum("...fhw,...ghw->...hfg", query, key, preferred_element_type=jnp.float32)
        alpha = nn.softmax(scores, -1).astype(self.dtype)
        attended = jnp.einsum("...hfg,...ghw->...fhw", alpha, value)
        return nn.relu(attended.reshape(*fields.shape[:-1], -1) + project("residual"))


@register("autoint", flops=flops.autoint)
class AutoInt(JointRanker):
    """logit = linear in [interacting layers(fields), MLP(fields)] (Song et al., 2019).

    With the MLP it is the paper's AutoInt+, which is also what benchmarks run as AutoInt.
    """

    def setup(self):
        """Adds the interacting layers."""
        super().setup()
        config = self.config.interacting
        self.interacting = [
            InteractingLayer(config.heads, config.width, self.dtype) for _ in range(config.layers)
        ]
        self.interacting_output = output_layer(self.heads, use_bias=False)

    def logits(self, query: Array, pair: Array, *, train: bool) -> Array:
        """Returns `[R, C, H]`."""
        fields = self.all_vectors(query, pair)
        for layer in self.interacting:
            fields = layer(fields)
        return self.interacting_output(flat(fields)) + self.deep_logits(query, pair, train=train)
