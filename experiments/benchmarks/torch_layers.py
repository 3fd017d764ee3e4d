"""The layers of `torch_interactrank.py`, by the names of the flax model's parameters."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interactrank_jax.examples.encoder import NumericStatistics
from interactrank_jax.models.inputs import QUERY, Inputs
from interactrank_jax.models.layers import LAYER_NORM_EPSILON


class NumericNormalizer(nn.Module):
    """A learned mixture of three views of each numeric feature: `[..., F]` to `[..., F]`."""

    minimum: Tensor
    maximum: Tensor
    mean: Tensor
    std: Tensor
    log_mean: Tensor
    log_std: Tensor

    def __init__(self, statistics: tuple[NumericStatistics, ...]):
        super().__init__()
        for name in ("minimum", "maximum", "mean", "std", "log_mean", "log_std"):
            values = [getattr(entry, name) for entry in statistics]
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.mixture = nn.Parameter(torch.zeros(len(statistics), 3))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises raw values."""
        x = torch.minimum(torch.maximum(x, self.minimum), self.maximum)
        views = [
            (x - self.minimum) / (self.maximum - self.minimum),
            (torch.log1p(x - self.minimum) - self.log_mean) / self.log_std,
            (x - self.mean) / self.std,
        ]
        return (torch.stack(views, -1) * self.mixture.softmax(-1)).sum(-1)


class MaskBlock(nn.Module):
    """An input-dependent gate, then a hidden layer: `[..., D]` to `[..., width]`."""

    def __init__(self, dim: int, width: int, reduction: float, dropout: float):
        super().__init__()
        bottleneck = max(1, round(reduction * dim))
        self.dense_0 = nn.Linear(dim, bottleneck)
        self.dense_1 = nn.Linear(bottleneck, dim)
        self.dense_2 = nn.Linear(dim, width)
        self.layernorm_0 = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Gates and projects."""
        gate = self.dense_1(self.dense_0(x).relu())
        return self.dropout(self.layernorm_0(self.dense_2(gate * x)).relu())


class ParallelMaskNet(nn.Module):
    """Blocks side by side on the same input."""

    def __init__(self, dim: int, config: Any):
        super().__init__()
        self.blocks = config.blocks
        for block in range(config.blocks):
            module = MaskBlock(dim, config.width, config.reduction, config.dropout)
            self.add_module(f"maskblock_{block}", module)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenates the blocks' outputs."""
        return torch.cat([getattr(self, f"maskblock_{i}")(x) for i in range(self.blocks)], -1)


class MLP(nn.Module):
    """Dense layers with relu after each, and with a layer norm after that where asked."""

    def __init__(self, dim: int, widths: tuple[int, ...], layer_norm: bool):
        super().__init__()
        self.depth, self.layer_norm = len(widths), layer_norm
        for layer, (before, after) in enumerate(zip((dim, *widths), widths, strict=False)):
            self.add_module(f"dense_{layer}", nn.Linear(before, after))
            if layer_norm:
                norm = nn.LayerNorm(after, eps=LAYER_NORM_EPSILON)
                self.add_module(f"layernorm_{layer}", norm)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layers."""
        for layer in range(self.depth):
            x = getattr(self, f"dense_{layer}")(x).relu()
            if self.layer_norm:
                x = getattr(self, f"layernorm_{layer}")(x)
        return x


class TowerInput(nn.Module):
    """Concat, layer norm, parallel MaskNet: `[..., blocks * width]`."""

    def __init__(self, dim: int, config: Any, statistics: tuple[NumericStatistics, ...]):
        super().__init__()
        dim += len(statistics)
        self.numericnormalizer_0 = NumericNormalizer(statistics)
        self.layernorm_0 = nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON)
        self.parallelmasknet_0 = ParallelMaskNet(dim, config.masknet)

    def forward(self, parts: list[Tensor], numeric: Tensor) -> Tensor:
        """Maps embedded features `[..., d]` each and raw numbers `[..., Fn]`."""
        x = torch.cat([*parts, self.numericnormalizer_0(numeric)], -1)
        return self.parallelmasknet_0(self.layernorm_0(x))


class TowerOutput(nn.Module):
    """MLP, projection, L2 norm: `[..., vectors, d]`."""

    def __init__(self, config: Any, vectors: int):
        super().__init__()
        self.shape, widths = (vectors, config.output_dim), tuple(config.hidden)
        self.mlp_0 = MLP(config.masknet.blocks * config.masknet.width, widths, config.layer_norm)
        self.dense_0 = nn.Linear(widths[-1], vectors * config.output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., D]`."""
        x = self.dense_0(self.mlp_0(x)).unflatten(-1, self.shape)
        return F.normalize(x, dim=-1, eps=1e-6)


class EventEmbedding(nn.Module):
    """An event: the item's embedding, plus those of its action and of its age's bucket."""

    def __init__(self, dim: int, actions: int, age_buckets: int):
        super().__init__()
        self.age_buckets = age_buckets
        self.action = nn.Parameter(0.02 * torch.randn(actions + 1, dim))
        self.age = nn.Parameter(0.02 * torch.randn(age_buckets, dim))

    def forward(self, items: Tensor, action: Tensor, age: Tensor) -> Tensor:
        """Maps `[R, L, D]`, `[R, L]` and `[R, L]` hours."""
        bucket = torch.frexp(age.clamp(min=0.5)).exponent.long().clamp(0, self.age_buckets - 1)
        return items + F.embedding(action, self.action) + F.embedding(bucket, self.age)


class SequencePooling(nn.Module):
    """Weighted pooling plus query cross-attention: `[R, L, D]` to `[R, D]`."""

    def __init__(self, dim: int, length: int, query_dim: int, actions: int, age_buckets: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((length,), 1.0 / length))
        self.query = nn.Linear(query_dim, dim, bias=False)
        self.events = EventEmbedding(dim, actions, age_buckets) if actions else None

    def forward(
        self, items: Tensor, mask: Tensor, query: Tensor, action: Tensor | None, age: Tensor | None
    ) -> Tensor:
        """Pools; an empty sequence gives zeros."""
        events = items
        if self.events is not None:
            events = self.events(items, action, age)
        present = mask.to(events.dtype)
        scores = torch.einsum("rd,rld->rl", self.query(query), events) / events.shape[-1] ** 0.5
        attention = scores.masked_fill(~mask, -1e9).softmax(-1) * present
        return torch.einsum("rl,rld->rd", self.alpha * present + attention, events)


class QueryTower(nn.Module):
    """The request and both histories: `[R, heads, output_dim]`."""

    def __init__(self, config: Any, inputs: Inputs, dim: int):
        super().__init__()
        query_dim = dim * sum(f.name == QUERY or f.kind == "text" for f in inputs.request)
        buckets = config.sequence.age_buckets
        self.pooling_history = SequencePooling(
            dim, inputs.history_length, query_dim, inputs.actions, buckets
        )
        self.pooling_query_history = SequencePooling(
            dim, inputs.query_history_length, query_dim, 0, 0
        )
        width = dim * (len(inputs.request) + 2)
        self.tower_input = TowerInput(width, config.tower, inputs.request_numeric)
        self.tower_output = TowerOutput(config.tower, len(inputs.heads))

    def forward(self, parts: list[Tensor], numeric: Tensor) -> Tensor:
        """Encodes embedded features and pooled histories, and raw numbers."""
        return self.tower_output(self.tower_input(parts, numeric))


class ItemTower(nn.Module):
    """The item alone: `[..., output_dim]`."""

    def __init__(self, config: Any, inputs: Inputs, dim: int):
        super().__init__()
        width = dim * len(inputs.item)
        self.tower_input = TowerInput(width, config.tower, inputs.item_numeric)
        self.tower_output = TowerOutput(config.tower, 1)

    def forward(self, parts: list[Tensor], numeric: Tensor) -> Tensor:
        """Encodes embedded features and raw numbers."""
        return self.tower_output(self.tower_input(parts, numeric))[..., 0, :]


class CrossTerms(nn.Module):
    """What cross features add to the logits: shares, damped, each with a weight per head."""

    scale: Tensor

    def __init__(self, inputs: Inputs, weight: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((len(inputs.cross), len(inputs.heads)), weight))
        self.register_buffer("scale", torch.tensor(inputs.cross_scale))

    def forward(self, cross: Tensor) -> Tensor:
        """Maps `[..., K]` to `[..., H]`."""
        scaled = cross / self.scale
        return (scaled.sign() * scaled.abs().log1p()) @ self.weight
