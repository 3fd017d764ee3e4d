"""The peer: the same InteractRank in eager PyTorch, layer by layer and loss term by loss term.

Written as one would write it in PyTorch: `embedding` and `embedding_bag` on whole tables, autograd,
one optimizer for dense gradients and, where asked, `SparseAdam` for sparse ones. Parameters bear
the names of the flax model, so that its weights can be copied over; a test holds both models to the
same logits, loss and gradient norm.
"""

import time
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.benchmarks.workload import Batch, Workload
from interactrank_jax.examples.encoder import NumericStatistics
from interactrank_jax.examples.format import PADDING
from interactrank_jax.losses import MAX_LOG_SCALE
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.losses.loss_config import head_weights
from interactrank_jax.models.inputs import ITEM, QUERY, USER, Inputs
from interactrank_jax.models.layers import LAYER_NORM_EPSILON

Tensors = dict[str, Tensor]


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


class Tower(nn.Module):
    """Concat, layer norm, parallel MaskNet, MLP, projection, L2 norm: `[..., heads, d]`."""

    def __init__(self, dim: int, config: Any, statistics: tuple, heads: int):
        super().__init__()
        dim += len(statistics)
        self.heads, self.output_dim = heads, config.output_dim
        self.numericnormalizer_0 = NumericNormalizer(statistics)
        self.layernorm_0 = nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON)
        self.parallelmasknet_0 = ParallelMaskNet(dim, config.masknet)
        widths = tuple(config.hidden)
        self.mlp_0 = MLP(config.masknet.blocks * config.masknet.width, widths, config.layer_norm)
        self.dense_0 = nn.Linear(widths[-1], heads * config.output_dim)

    def forward(self, parts: list[Tensor], numeric: Tensor) -> Tensor:
        """Encodes embedded features `[..., d]` each and raw numbers `[..., Fn]`."""
        x = self.layernorm_0(torch.cat([*parts, self.numericnormalizer_0(numeric)], -1))
        x = self.dense_0(self.mlp_0(self.parallelmasknet_0(x)))
        return F.normalize(x.unflatten(-1, (self.heads, self.output_dim)), dim=-1, eps=1e-6)


class SequencePooling(nn.Module):
    """Weighted pooling plus query cross-attention: `[R, L, D]` to `[R, D]`."""

    def __init__(self, dim: int, length: int, query_dim: int, actions: int, age_buckets: int):
        super().__init__()
        self.age_buckets = age_buckets
        self.alpha = nn.Parameter(torch.full((length,), 1.0 / length))
        self.query = nn.Linear(query_dim, dim, bias=False)
        if actions:
            self.action = nn.Parameter(0.02 * torch.randn(actions + 1, dim))
            self.age = nn.Parameter(0.02 * torch.randn(age_buckets, dim))

    def forward(
        self, events: Tensor, mask: Tensor, query: Tensor, action: Tensor | None, age: Tensor | None
    ) -> Tensor:
        """Pools; an empty sequence gives zeros."""
        if action is not None and age is not None:
            bucket = torch.frexp(age.clamp(min=0.5)).exponent.long().clamp(0, self.age_buckets - 1)
            events = events + F.embedding(action, self.action) + F.embedding(bucket, self.age)
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
        self.history = SequencePooling(
            dim, inputs.history_length, query_dim, inputs.actions, buckets
        )
        self.query_history = SequencePooling(dim, inputs.query_history_length, query_dim, 0, 0)
        width = dim * (len(inputs.request) + 2)
        self.tower = Tower(width, config.tower, inputs.request_numeric, len(inputs.heads))


class ItemTower(nn.Module):
    """The item alone: `[..., 1, output_dim]`."""

    def __init__(self, config: Any, inputs: Inputs, dim: int):
        super().__init__()
        self.tower = Tower(dim * len(inputs.item), config.tower, inputs.item_numeric, 1)


class InteractRank(nn.Module):
    """The model, its tables and its loss; see `interactrank_jax.models.interactrank`.

    Batches are those of `convert`: `[R, C]` slates, or `[R, 1]` for one row per impression.
    """

    cross_scale: Tensor
    head_weights: Tensor

    def __init__(self, workload: Workload, *, sparse: bool):
        super().__init__()
        config, metadata = workload.config, workload.metadata
        self.rule = LabelRule.from_config(config.label, metadata.actions)
        self.inputs = Inputs.from_metadata(metadata, self.rule.heads, config.model)
        self.loss_config, self.sparse = config.train.loss, sparse
        dim, heads = config.model.embedding_dim, len(self.rule.heads)
        self.query_tower = QueryTower(config.model, self.inputs, dim)
        self.item_tower = ItemTower(config.model, self.inputs, dim)
        dot = float(np.log(np.expm1(config.model.dot_weight_init)))
        self.dot_weight = nn.Parameter(torch.full((heads,), dot))
        self.bias = nn.Parameter(torch.zeros(heads))
        self.log_inverse_temperature = nn.Parameter(torch.tensor(float(np.log(1 / 0.07))))
        weight = config.model.cross.weight_init
        self.cross_weight = nn.Parameter(torch.full((len(metadata.cross), heads), weight))
        self.register_buffer("cross_scale", torch.tensor(self.inputs.cross_scale))
        weights = head_weights(self.loss_config, self.rule)
        self.register_buffer("head_weights", torch.tensor(weights))
        self.candidates = float(metadata.splits["train"].candidates)
        scale = config.model.embedding_scale
        self.tables = nn.ParameterDict()
        for name, rows in metadata.tables.items():
            table = torch.empty(rows, dim).normal_(0, scale)
            table[PADDING] = 0
            self.tables[name] = nn.Parameter(table)
        place = device()
        self.to(place)
        self.store = {name: _tensor(value, place) for name, value in workload.store.items()}

    def load(self, params: Any, tables: Any) -> None:
        """Copies the weights of the flax model over."""
        own = dict(self.named_parameters())
        values = {f"tables.{name}": np.asarray(value) for name, value in tables.items()}
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            *scope, name = [str(entry.key).lower() for entry in path]
            value = np.asarray(leaf)
            if name == "kernel":
                name, value = "weight", value.T
            values[".".join([*scope, "weight" if name == "scale" else name])] = value
        if values.keys() != own.keys():
            raise ValueError(f"other parameters: {sorted(values.keys() ^ own.keys())}")
        with torch.no_grad():
            for name, value in values.items():
                own[name].copy_(torch.from_numpy(np.array(value)))

    def convert(self, batch: Batch) -> Tensors:
        """Returns a batch as tensors, with labels and weights, which are then not timed."""
        place = self.bias.device
        tensors = {name: _tensor(value, place) for name, value in batch.items()}
        actions = batch["actions"]
        tensors["labels"] = _tensor(self.rule.labels(actions).astype(np.float32), place)
        tensors["weights"] = _tensor(self.rule.example_weights(actions), place)
        tensors["acted"] = _tensor(self.rule.acted(actions), place)
        tensors["engaged"] = _tensor(self.rule.engaged(actions) & batch["mask"], place)
        return tensors

    def encode(self, batch: Tensors) -> tuple[Tensor, Tensor]:
        """Returns query vectors `[R, H, d]` and item vectors `[R, C, d]`."""
        embedded = {}
        for feature in self.inputs.request:
            column = {USER: "user", QUERY: "query"}.get(feature.name, f"request/{feature.name}")
            embedded[feature.name] = self._lookup(feature.table, batch[column], feature.kind)
        query = torch.cat(
            [embedded[f.name] for f in self.inputs.request if f.name == QUERY or f.kind == "text"],
            -1,
        )
        pooled = []
        for role, action, age in (
            ("history", batch["history_action"], batch["history_age"]),
            ("query_history", None, None),
        ):
            rows = batch[f"{role}_item"]
            events = self._lookup("item", self.store["id"][rows], "categorical")
            module = getattr(self.query_tower, role)
            pooled.append(module(events, rows != PADDING, query, action, age))
        parts = [embedded[name] for name in sorted(embedded)]
        users = self.query_tower.tower([*parts, *pooled], batch["request_numeric"])

        item_rows = batch["item"]
        embedded = {}
        for feature in self.inputs.item:
            ids = self.store["id" if feature.name == ITEM else feature.name][item_rows]
            embedded[feature.name] = self._lookup(feature.table, ids, feature.kind)
        parts = [embedded[name] for name in sorted(embedded)]
        items = self.item_tower.tower(parts, self.store["numeric"][item_rows])[..., 0, :]
        return users, items

    def score(self, users: Tensor, items: Tensor, cross: Tensor) -> Tensor:
        """Returns logits `[R, C, H]`."""
        dot = torch.einsum("rhd,rcd->rch", users, items)
        scaled = cross / self.cross_scale
        terms = (scaled.sign() * scaled.abs().log1p()) @ self.cross_weight
        return dot * F.softplus(self.dot_weight) + self.bias + terms

    def forward(self, batch: Tensors) -> Tensor:
        """Returns logits `[R, C, H]`."""
        return self.score(*self.encode(batch), batch["cross"])

    def loss(self, batch: Tensors) -> tuple[Tensor, Tensors]:
        """Returns the training loss and its terms, named as ours."""
        users, items = self.encode(batch)
        logits = self.score(users, items, batch["cross"])
        kept = torch.rand(batch["mask"].shape, device=logits.device)
        where = batch["acted"] | (kept < self.loss_config.impression_sampling)
        weights = batch["weights"] * (where & batch["mask"])
        pointwise = F.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="none")
        shares = (pointwise * weights[..., None]).sum((0, 1)) / weights.sum().clamp(min=1e-6)
        terms = {f"loss/{name}": share for name, share in zip(self.rule.heads, shares, strict=True)}
        terms["loss/softmax"] = self._in_batch_softmax(users, items, batch)
        total = shares @ self.head_weights
        total = total + self.loss_config.softmax_weight * terms["loss/softmax"]
        return total, terms

    def _in_batch_softmax(self, users: Tensor, items: Tensor, batch: Tensors) -> Tensor:
        flat, item_rows = items.flatten(0, 1), batch["item"].flatten()
        inverse_temperature = self.log_inverse_temperature.clamp(max=MAX_LOG_SCALE).exp()
        logits = (users[:, 0] @ flat.T) * inverse_temperature
        distinct = _first_occurrence(item_rows) & (item_rows != PADDING)
        chosen = batch["item"].masked_fill(~batch["engaged"], -1)
        positive = (chosen[:, :, None] == item_rows).any(1) & distinct
        count = self.store["count"][item_rows].clamp(min=1).to(logits.dtype)
        draws = (item_rows != PADDING).sum()
        log_q = (-torch.expm1(draws * torch.log1p(-count / self.candidates))).log()
        logits = logits - log_q
        rest = logits.masked_fill(positive | ~distinct, -1e30).logsumexp(1, keepdim=True)
        loss = F.softplus(torch.where(positive, rest - logits, 0.0))
        return (loss * positive).sum() / positive.sum().clamp(min=1)

    def _lookup(self, table: str, ids: Tensor, kind: str) -> Tensor:
        weight = self.tables[table]
        if kind != "text":
            return F.embedding(ids, weight, padding_idx=PADDING, sparse=self.sparse)
        bags = F.embedding_bag(
            ids.reshape(-1, ids.shape[-1]),
            weight,
            mode="mean",
            padding_idx=PADDING,
            sparse=self.sparse,
        )
        return bags.reshape(*ids.shape[:-1], -1)


class TorchTrainer:
    """Eager training: Adam for all, or SparseAdam for the tables and Adam for the rest."""

    def __init__(self, workload: Workload, *, sparse: bool):
        torch.manual_seed(workload.config.train.seed)
        self.model = InteractRank(workload, sparse=sparse)
        tables = list(self.model.tables.values())
        self.dense = [
            value for name, value in self.model.named_parameters() if not name.startswith("tables.")
        ]
        optimizer = workload.config.train.optimizer
        rate, self.clip_norm = optimizer.learning_rate, optimizer.clip_norm
        groups: list[dict[str, Any]] = [
            {"params": self.dense, "weight_decay": optimizer.weight_decay}
        ]
        if not sparse:
            groups.append({"params": tables, "weight_decay": 0.0})
        # The fused kernel is PyTorch's fastest Adam, on a CPU too.
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=rate, fused=True)
        ]
        if sparse:
            self.optimizers.append(torch.optim.SparseAdam(tables, lr=rate))

    def step(self, batch: Tensors) -> Tensor:
        """Takes one step; returns the norm of the dense parameters' gradient."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss, _ = self.model.loss(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.dense, self.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        return norm

    def run_steps(self, batches: list[Batch]) -> float:
        """Takes one step per batch; returns seconds, making tensors of the batches left out."""
        tensors = [self.model.convert(batch) for batch in batches]
        _synchronize()
        start = time.perf_counter()
        for batch in tensors:
            self.step(batch)
        _synchronize()
        return time.perf_counter() - start


def device() -> str:
    """Returns 'cuda' where there is a GPU that PyTorch can use, else 'cpu'."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_threads(trainer: TorchTrainer, batches: list[Batch]) -> int:
    """Gives PyTorch one thread or two, whichever is faster on this machine now; returns which."""
    seconds = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        trainer.run_steps(batches[:1])
        seconds[threads] = min(trainer.run_steps(batches[1:3]) for _ in range(2))
    best = min(seconds, key=lambda threads: seconds[threads])
    torch.set_num_threads(best)
    return best


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _first_occurrence(item_rows: Tensor) -> Tensor:
    """Marks one place per distinct item, `[N]` bool."""
    _, group = torch.unique(item_rows, return_inverse=True)
    place = torch.arange(len(item_rows), device=item_rows.device)
    first = torch.full_like(place, len(item_rows)).scatter_reduce(0, group, place, "amin")
    return first[group] == place


def _tensor(value: np.ndarray, place: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value)).to(place)
