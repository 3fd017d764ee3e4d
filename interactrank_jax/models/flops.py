"""FLOPs of one candidate in `score`, by a formula for each model: XLA's count is checked with them.

A model names its formula where it registers (`registry.register`).

2 for each term of a product, 1 for each other addition, multiplication and comparison, biases
included. Left out: exponentials and sigmoids, gathers, and what is added alike to every candidate,
such as the logit's bias. So the affine projection of a dot product and K cross features costs
2 (K + 1), and InteractRank, with 64 dimensions and 6 of them, 2 * 64 + 2 * 7 = 142 as its paper
says. One head is ranked by; cross features are transformed before.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict


class Shapes(NamedTuple):
    """What a candidate's cost depends on.

    Attributes:
      config: the `model` part of the config.
      K: number of cross features.
      query: shape of one request's representation.
      item: shape of one item's representation.
    """

    config: ConfigDict
    K: int
    query: tuple[int, ...]
    item: tuple[int, ...]

    @property
    def d(self) -> int:
        """Width of an embedding, and of a field without its first-order weight."""
        return int(self.config.embedding_dim)

    @property
    def pair_fields(self) -> int:
        """Number of the fields that differ between candidates."""
        return self.item[-2] + self.K

    @property
    def fields(self) -> int:
        """Number of all fields."""
        return self.query[-2] + self.pair_fields


# --- Decoupled models ---


def _dot(width: int) -> int:
    """A dot product and its weight."""
    return 2 * width + 1


def two_tower(s: Shapes) -> int:
    """The dot product of two vectors, and its weight."""
    return _dot(s.item[-1])


def matrix_factorization(s: Shapes) -> int:
    """The dot product of two factors, and the item's bias."""
    return 2 * s.d + 1


def linear_cross(s: Shapes) -> int:
    """Products of the cross features with their weights, added to the rest.

    All there is to logistic regression, where the rest is the sum of an item's weights.
    """
    return 2 * s.K + 1 if s.K else 0


def interactrank(s: Shapes) -> int:
    """The dot product, its weight, and the cross features."""
    return two_tower(s) + linear_cross(s)


def late(s: Shapes) -> int:
    """FIT's scorer: similarities, scaled and centred, a layer along each side, the output."""
    config = s.config.late
    if not config.user_heads:
        return _dot(s.config.tower.output_dim)
    U, V, (first, second) = config.user_heads, config.item_heads, config.hidden
    similarity = U * V * (2 * config.width + 2)
    by_item, by_user = U * first * (2 * V + 2), first * second * (2 * U + 2)
    return similarity + by_item + by_user + 2 * first * second


def inttower(s: Shapes) -> int:
    """Similarities of all pairs of heads, the largest of each query head, their sum, its weight."""
    (U, width), V = s.query, s.item[0]
    return U * V * 2 * width + U * (V - 1) + (U - 1) + 1


def interactfit(s: Shapes) -> int:
    """FIT's scorer, and the cross features."""
    return late(s) + linear_cross(s)


# --- Models that run a network for each pair ---


def _mlp(width: int, tower: ConfigDict) -> int:
    """Layers with bias and ReLU, and one output; a layer norm is 7 for each unit.

    These 7: two sums, a square, a difference, two products and a bias.
    """
    hidden: Sequence[int] = tower.hidden
    layers = sum(n * (2 * m + 2) for m, n in itertools.pairwise([width, *hidden]))
    return layers + 7 * sum(hidden) * tower.layer_norm + 2 * hidden[-1]


def _affine(s: Shapes) -> int:
    """The affine terms beside a network."""
    return linear_cross(s) if s.config.cross.affine else 0


def _deep(s: Shapes) -> int:
    """Fields of cross features, the affine terms, and the MLP, which adds the request's part."""
    return s.K * s.d + _affine(s) + _mlp(s.pair_fields * s.d, s.config.tower)


def wide_deep(s: Shapes) -> int:
    """The sum of the first-order weights beside the MLP."""
    return _deep(s) + s.K + s.pair_fields + 2


def deepfm(s: Shapes) -> int:
    """Sums of vectors and of their squares; per dimension a square, a difference and sums."""
    return wide_deep(s) + 3 * s.pair_fields * s.d + 5 * s.d + 3


def dcn_v2(s: Shapes) -> int:
    """Layers x_0 * (W x + b) + x, and their output, beside the MLP."""
    width = s.fields * s.d
    return _deep(s) + s.config.cross_layers * width * (2 * width + 3) + 2 * width + 1


def autoint(s: Shapes) -> int:
    """Layers of attention among all fields, and their output, beside the MLP."""
    attention, F, width, total = s.config.interacting, s.fields, s.d, 0
    out = attention.heads * attention.width
    for _ in range(attention.layers):
        projections, products = 4 * F * 2 * width * out, 2 * F * F * 2 * out
        softmax, residual = 4 * attention.heads * F * F, 2 * F * out
        total += projections + products + softmax + residual
        width = out
    return _deep(s) + total + 2 * F * width + 1


def cold(s: Shapes) -> int:
    """Means of the fields, their gates, the gated fields, and an MLP of all of them."""
    F = s.fields
    gated = F * s.d + F * (2 * F + 1) + F * s.d
    return s.K * s.d + _affine(s) + gated + _mlp(F * s.d, s.config.tower)
