"""IntTower (Li et al., CIKM 2022): two towers whose layers interact, late and finely.

Light-SE weighs the fields of each side; the FE-block compares heads of every layer of the query
tower with heads of the item tower's last; CIR contrasts the last layers within the batch.

CIR is the sampled softmax that all models have, on `similarity`, without a correction for how often
items come: `train.loss.softmax_weight` is its weight and `train.loss.log_q` is 'none'.
"""

import dataclasses
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from interactrank_jax.models import flops
from interactrank_jax.models.inputs import ItemInput, RequestInput
from interactrank_jax.models.layers import MLP, along_last, l2_normalize
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.models.registry import register
from interactrank_jax.models.sequence import masked_mean
from interactrank_jax.models.towers import QueryTower, TowerInput

Array = jax.Array

TEMPERATURE = 0.07  # of CIR, fixed


class LightSE(nn.Module):
    """Gates of fields: 1 + softmax(W z + b), with z_f the mean of field f (IntTower, Light-SE).

    The paper scales a field x by its softmax weight alone; the authors' code adds the block's input
    to that, x + x softmax(W z), and so do we: a field that weighs nothing still enters its tower.
    On MovieLens-100K, clean_random, that is level with F x softmax(W z), F being the number of
    fields: ROC-AUC on validation .8697 and .8693 without layer norms, means of three seeds that
    deviate by .0025 and .0017.

    Attributes:
      dtype: to compute in; the gates are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the gates of F fields `[..., d]`, by name, `[..., 1]` each; widths may differ."""
        names = sorted(fields)
        if not names:  # of a side that has numbers alone
            return {}
        squeezed = jnp.stack([fields[name].mean(-1) for name in names], -1)
        excited = nn.Dense(len(names), dtype=self.dtype)(squeezed).astype(jnp.float32)
        gates = 1 + jax.nn.softmax(excited, -1)
        return dict(zip(names, jnp.split(gates, len(names), -1), strict=True))


class LayerHeads(nn.Module):
    """An MLP, and unit heads of its layers: `[..., D]` to `[..., layers * heads, width]`.

    Attributes:
      hidden: widths of the layers.
      dropout: after each.
      heads: of a layer.
      width: of a head.
      every_layer: whether all layers have heads, or the last alone.
      layer_norm: whether each layer is normalised after its activation.
      dtype: to compute in; the heads are float32.
    """

    hidden: tuple[int, ...]
    dropout: float
    heads: int
    width: int
    every_layer: bool
    layer_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Applies the layers; the heads of the last layer come last."""
        found = []
        for number, hidden in enumerate(self.hidden, start=1):
            layer = MLP((hidden,), self.dropout, dtype=self.dtype, layer_norm=self.layer_norm)
            x = layer(x, train=train)
            if self.every_layer or number == len(self.hidden):
                heads = nn.Dense(self.heads * self.width, dtype=self.dtype)(x)
                found.append(heads.reshape(*x.shape[:-1], self.heads, self.width))
        return l2_normalize(jnp.concatenate(found, -2))


def max_similarity(user: Array, item: Array) -> Array:
    """Returns sum_u max_v <z_u, z_v>: of `[R, U, p]` and `[R, C, V, p]`, `[R, C]` (FE-block)."""
    # Query heads lie side by side in memory: maxima along the last axis take three times as long.
    return jnp.einsum("rup,rcvp->rcvu", user, item).max(-2).sum(-1)


def expected_maximum(count: int, width: int) -> float:
    """Returns about the mean of the largest of so many cosines of random vectors of a width.

    By Blom's (1958) quantile of the largest of `count` normal numbers.
    """
    quantile = NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
    return float(quantile / np.sqrt(width))


@register("inttower", flops=flops.inttower)
class IntTower(PreRanker):
    """logit_h = w_h (s - c) + b_h, with s = sum_l sum_u max_v <z_lu, z_v>.

    z_lu are the `config.fe.heads` heads of layer l of the query tower, z_v those of the item
    tower's last layer. No maximum asks which layer a query head is from: layers fold into heads.

    The paper's logit is s, of heads of any length. Here heads have unit length, which trains better
    (ROC-AUC .862 against .850 on validation of MovieLens-100K, clean_random, one seed). A sum of
    maxima then lies far above zero, so it is centred on c, what random heads give; and w starts at
    `config.dot_weight_init` over the number of query heads, so that logits have the range that they
    have in the two-tower model.

    Fields of Light-SE are all embedded or given features of a side, and each history as one field,
    its plain mean; the gate scales the history's events. Numbers pass beside it.

    QueryRep: `[R, L * U, p]`. ItemRep: `[..., V, p]`, V = U.
    """

    uses_cross: ClassVar[bool] = False

    def setup(self):
        """Makes the gates, the towers and the affine projection."""
        config, tower, fe = self.config, self.config.tower, self.config.fe
        dtype = jnp.dtype(config.dtype)
        heads = len(self.inputs.heads)
        hidden = tuple(tower.hidden)
        # Of the query tower the input side alone is used.
        self.query_tower = QueryTower(config, self.inputs, fe.heads, fe.width)
        self.item_input = TowerInput(tower, self.inputs.item_numeric, dtype)
        self.query_gate, self.item_gate = LightSE(dtype), LightSE(dtype)
        self.query_heads, self.item_heads = (
            LayerHeads(
                hidden, tower.dropout, fe.heads, fe.width, every_layer, tower.layer_norm, dtype
            )
            for every_layer in (True, False)
        )
        query_heads = len(hidden) * fe.heads
        self.centre = query_heads * expected_maximum(fe.heads, fe.width)
        weight = nn.initializers.constant(config.dot_weight_init / query_heads)
        self.weight = self.param("weight", weight, (heads,))
        self.bias = self.param("bias", nn.initializers.zeros, (heads,))

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Array:
        """Returns the heads of all layers, `[R, L * U, p]`."""
        histories = {role: getattr(request, role) for role in self.inputs.histories}
        means = {
            f"{role}/mean": masked_mean(events.items, events.mask)
            for role, events in histories.items()
        }
        gates = self.query_gate({**request.features, **means})
        features = {name: field * gates[name] for name, field in request.features.items()}
        gated = {
            role: dataclasses.replace(events, items=events.items * gates[f"{role}/mean"][:, None])
            for role, events in histories.items()
        }
        x = self.query_tower.encode_input(
            dataclasses.replace(request, features=features, **gated), train=train
        )
        return self.query_heads(x, train=train)

    def encode_item(self, items: ItemInput, *, train: bool = False) -> Array:
        """Returns the heads of the last layer, `[..., V, p]`."""
        gates = self.item_gate(items.features)
        features = {name: field * gates[name] for name, field in items.features.items()}
        x = self.item_input(features, items.numeric, [], train=train)
        return self.item_heads(x, train=train)

    def score(self, query: Array, items: Array, cross: Array) -> Array:
        """Returns `[R, C, H]`; the cross features are not looked at."""
        del cross
        return self._project(max_similarity(query, items))

    def score_all(self, query: Array, items: Array) -> Array:
        """Returns `[R, I, H]`, request by request: all pairs of heads would fill a memory."""
        total = jax.lax.map(lambda one: max_similarity(one[None], items[None])[0], query)
        return self._project(total)

    def _project(self, total: Array) -> Array:
        logits = total[..., None] - self.centre
        return logits * along_last(self.weight, logits) + along_last(self.bias, logits)

    def similarity(self, query: Array, items: Array) -> Array:
        """Returns `[R, N]`: cosine over the temperature .07 of the last layers' heads side by side.

        So CIR needs nothing in an index that the score does not need.
        """
        heads = self.config.fe.heads  # of unit length each: side by side, the root of as many
        cosine = jnp.einsum("rup,iup->ri", query[:, -heads:], items) / heads
        return cosine / TEMPERATURE
