"""Small functional layers shared by the towers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from interactrank_jax.examples.encoder import NumericStatistics

Array = jax.Array

LAYER_NORM_EPSILON = 1e-5  # InteractRank's code's, and PyTorch's; flax's own is 1e-6


def layer_norm(dtype: Any = jnp.float32) -> nn.LayerNorm:
    """Returns a layer norm over the last axis: what every model normalises with."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=dtype)


def l2_normalize(x: Array, epsilon: float = 1e-12) -> Array:
    """Scales `[..., d]` to unit length, in float32; zero stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), epsilon))


def along_last(vector: Array | np.ndarray, like: Array) -> Array:
    """Returns `[F]` as `[1, ..., F]`, to be broadcast against `like` `[..., F]` on purpose."""
    return jnp.reshape(vector, (1,) * (like.ndim - 1) + (-1,))


def one_hot_lookup(table: Array, index: Array) -> Array:
    """Returns rows of a table of few `[V, d]` at `[...]`, in the table's bits; out of range, zeros.

    The gradient of a product is a product too, and no contended scatter-add.
    """
    one_hot = jax.nn.one_hot(index, table.shape[0], dtype=table.dtype)
    # The highest precision: accelerators would round the table's rows.
    return jnp.matmul(one_hot, table, precision=jax.lax.Precision.HIGHEST)


class NumericNormalizer(nn.Module):
    """A learned mixture of views of each numeric feature (InteractRank, towers).

    After clipping to the training range, three views: 'range', the value scaled to [0, 1]; 'log',
    log1p of its distance from the minimum, standardised; 'gaussian', the value standardised. They
    are mixed by a softmax per feature.

    Attributes:
      statistics: one entry per feature, from the training split.
      views: which of them to mix; one alone has nothing to learn.
    """

    statistics: tuple[NumericStatistics, ...]
    views: tuple[str, ...] = ("range", "log", "gaussian")

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps raw `[..., F]` to normalised `[..., F]`."""

        def column(name: str) -> Array:
            values = [getattr(entry, name) for entry in self.statistics]
            return along_last(np.array(values, np.float32), x)

        def spread(value: Array) -> Array:
            return jnp.where(value > 0, value, 1.0)

        minimum, maximum = column("minimum"), column("maximum")
        x = jnp.clip(x, minimum, maximum)
        normalized = {
            "range": (x - minimum) / spread(maximum - minimum),
            "log": (jnp.log1p(x - minimum) - column("log_mean")) / spread(column("log_std")),
            "gaussian": (x - column("mean")) / spread(column("std")),
        }
        if len(self.views) == 1:
            return normalized[self.views[0]]
        shape = (len(self.statistics), len(self.views))
        mixture = jax.nn.softmax(self.param("mixture", nn.initializers.zeros, shape), -1)
        stacked = jnp.stack([normalized[view] for view in self.views], -1)
        return jnp.einsum("...fv,fv->...f", stacked, mixture)


class MaskBlock(nn.Module):
    """One block of MaskNet (Wang et al., 2021): an input-dependent gate, then a hidden layer.

    gate = W2 relu(W1 x) with a bottleneck of a tenth of x's width; out = relu(LN(W3 (gate * x))).

    Attributes:
      width: output width.
      reduction: bottleneck as a share of the input width.
      dropout: rate on the output.
      dtype: to compute in; parameters are float32.
    """

    width: int
    reduction: float = 0.1
    dropout: float = 0.005
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps `[..., D]` to `[..., width]`."""
        dim, dtype = x.shape[-1], self.dtype
        gate = nn.relu(nn.Dense(max(1, round(self.reduction * dim)), dtype=dtype)(x))
        gate = nn.Dense(dim, dtype=dtype)(gate)
        hidden = nn.Dense(self.width, dtype=dtype)(gate * x.astype(dtype))
        hidden = nn.relu(layer_norm(dtype)(hidden))
        return nn.Dropout(self.dropout, deterministic=not train)(hidden)


class ParallelMaskNet(nn.Module):
    """Blocks side by side on the same input: `[..., D]` to `[..., blocks * width]`."""

    blocks: int
    width: int
    reduction: float = 0.1
    dropout: float = 0.005
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Concatenates the blocks' outputs."""
        return jnp.concatenate(
            [
                MaskBlock(self.width, self.reduction, self.dropout, self.dtype)(x, train=train)
                for _ in range(self.blocks)
            ],
            -1,
        )


class MLP(nn.Module):
    """Dense layers with an activation after each: `[..., D]` to `[..., widths[-1]]`.

    With `layer_norm` each activation is normalised, and dropped out after that: InteractRank's code
    has linear, ReLU, layer norm.

    With a second input `pair` `[..., M, P]` the first layer sees both, for each of the M: its
    product with x is then computed once and not M times, and the output is `[..., M, widths[-1]]`.
    """

    widths: Sequence[int]
    dropout: float = 0.0
    activation: Callable[[Array], Array] = nn.relu
    dtype: Any = jnp.float32
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, pair: Array | None = None, *, train: bool) -> Array:
        """Applies the layers."""
        for number, width in enumerate(self.widths):
            x = nn.Dense(width, dtype=self.dtype)(x)
            if pair is not None and number == 0:
                second = nn.Dense(width, use_bias=False, dtype=self.dtype, name="pair")
                x = x[..., None, :] + second(pair)
            x = self.activation(x)
            if self.layer_norm:
                x = layer_norm(self.dtype)(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return x
