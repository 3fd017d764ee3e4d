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

from experiments.benchmarks.torch_layers import CrossTerms, ItemTower, QueryTower
from experiments.benchmarks.workload import Batch, Workload
from interactrank_jax.examples.format import PADDING
from interactrank_jax.losses import MAX_LOG_SCALE
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.losses.loss_config import head_weights
from interactrank_jax.models.inputs import ITEM, QUERY, USER, Inputs

Tensors = dict[str, Tensor]


class InteractRank(nn.Module):
    """The model, its tables and its loss; see `interactrank_jax.models.interactrank`.

    Batches are those of `convert`: `[R, C]` slates, or `[R, 1]` for one row per impression.
    """

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
        self.cross_terms = CrossTerms(self.inputs, config.model.cross.weight_init)
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
            module = getattr(self.query_tower, f"pooling_{role}")
            pooled.append(module(events, rows != PADDING, query, action, age))
        parts = [embedded[name] for name in sorted(embedded)]
        users = self.query_tower([*parts, *pooled], batch["request_numeric"])

        item_rows = batch["item"]
        embedded = {}
        for feature in self.inputs.item:
            ids = self.store["id" if feature.name == ITEM else feature.name][item_rows]
            embedded[feature.name] = self._lookup(feature.table, ids, feature.kind)
        parts = [embedded[name] for name in sorted(embedded)]
        items = self.item_tower(parts, self.store["numeric"][item_rows])
        return users, items

    def score(self, users: Tensor, items: Tensor, cross: Tensor) -> Tensor:
        """Returns logits `[R, C, H]`."""
        dot = torch.einsum("rhd,rcd->rch", users, items)
        return dot * F.softplus(self.dot_weight) + self.bias + self.cross_terms(cross)

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
