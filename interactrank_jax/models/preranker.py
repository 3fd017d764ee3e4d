"""The interface every model has. Written against it: training, evaluation, index, scoring, export.

Shapes: R requests, C candidates of a request, I items, K cross features, H heads.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import FrozenConfigDict

from interactrank_jax.losses import Total
from interactrank_jax.models.inputs import Inputs, ItemInput, RequestInput

Array = jax.Array


class Training(NamedTuple):
    """What a model says of a batch in training.

    Attributes:
      logits: `[R, C, H]`.
      losses: further terms by name, those of `auxiliary_losses`.
      diagnostics: figures for the log by name, those of `diagnostic_names`: loss / weight is shown.
    """

    logits: Array
    losses: dict[str, Total]
    diagnostics: dict[str, Total]


class PreRanker(nn.Module):
    """A model whose item side never sees a query, so that it can be computed ahead.

    Subclasses give `encode_query`, `encode_item`, `score` and, where a cheaper form than
    broadcasting exists, `score_all` and `rank_all`. Representations are pytrees of arrays.

    A model that trains otherwise than it serves overrides `train_score` too. It may then return
    other representations where `train` is set: `train_score` and `similarity` take those.

    Attributes:
      config: the `model` part of the config.
      inputs: what there is to look at.
    """

    config: FrozenConfigDict
    inputs: Inputs

    uses_cross: ClassVar[bool] = True  # whether `score` looks at the cross features
    is_decoupled: ClassVar[bool] = True  # whether items are encoded ahead, so that it can serve

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Any:
        """Returns the query representation: a pytree with leading axis `[R]`."""
        raise NotImplementedError

    def encode_item(self, items: ItemInput, *, train: bool = False) -> Any:
        """Returns the item representation: a pytree with the leading axes of `items`."""
        raise NotImplementedError

    def score(self, query: Any, items: Any, cross: Array) -> Array:
        """Returns logits `[R, C, H]` of query `[R]`, items `[R, C]`, cross `[R, C, K]`."""
        raise NotImplementedError

    def score_all(self, query: Any, items: Any) -> Array:
        """Returns logits `[R, I, H]` of query `[R]` with every item `[I]`, all cross terms zero.

        Equal to `score` on broadcast inputs with cross = 0.
        """
        requests = jax.tree.leaves(query)[0].shape[0]
        count = jax.tree.leaves(items)[0].shape[0]
        broadcast = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[None], (requests, *leaf.shape)), items
        )
        return self.score(query, broadcast, jnp.zeros((requests, count, len(self.inputs.cross))))

    def score_one(self, query: Any, items: Any) -> Array:
        """Returns logits `[I, H]` of one request `[1]` with items `[I]`, all cross terms zero.

        Equal to `score_all`, of which it is the form without a loop over requests.
        """
        return PreRanker.score_all(self, query, items)[0]

    def rank_all(self, query: Any, items: Any, utility: Sequence[float]) -> Array:
        """Returns the one ranked score `[R, I]`: `score_all` weighted by `utility` `[H]`."""
        return self.score_all(query, items) @ jnp.asarray(utility, jnp.float32)

    def offset(self, request: RequestInput) -> Array | None:
        """Returns what all candidates of a request have in common `[R, H]`; None: nothing."""
        del request
        return None

    def cross_parts(self, cross: Array) -> Array | None:
        """Returns what each cross feature adds to the logits, `[..., K, H]`.

        None of a model whose cross features are not addends beside the rest, or that has none.
        """
        del cross
        return None

    def similarity(self, query: Any, items: Any) -> Array:
        """Returns `[R, N]` logits of requests and items alone, for the sampled softmax.

        By default the first head of `score_all`.
        """
        return self.score_all(query, items)[..., 0]

    def train_score(
        self, query: Any, items: Any, cross: Array, *, engaged: Array, mask: Array, progress: Array
    ) -> Training:
        """Returns the logits of a training batch with whatever else the model trains on.

        By default `score` alone.

        Args:
          query, items, cross: as `score` takes them, encoded with `train` set.
          engaged, mask: `[R, C]` candidates engaged with, and those that exist.
          progress: share of training done, from 0 to 1.
        """
        del engaged, mask, progress
        return Training(self.score(query, items, cross), {}, {})

    def auxiliary_losses(self) -> dict[str, float]:
        """Returns the weight of each loss term that `train_score` adds, by name."""
        return {}

    def diagnostic_names(self) -> tuple[str, ...]:
        """Returns the names of the figures that `train_score` reports."""
        return ()

    def row_width(self, table: str) -> int:
        """Returns the width of an embedding table's rows."""
        del table
        return int(self.config.embedding_dim)

    def number_limit(self) -> int | None:
        """Returns what every integer of an item's representation lies below; None: unknown.

        An index is held against it: scoring may take such integers for rows without looking.
        """
        return None

    def bias_path(self) -> tuple[str, ...]:
        """Returns where among the parameters the constant `[H]` of the logits is."""
        return ("bias",)

    def constrain(self, params: Any) -> Any:
        """Returns the parameters within their bounds; called after each update."""
        return params

    def __call__(
        self, request: RequestInput, items: ItemInput, cross: Array, *, train: bool = False
    ) -> Array:
        """Returns logits `[R, C, H]`; touches every parameter, so `init` goes through it."""
        query = self.encode_query(request, train=train)
        encoded = self.encode_item(items, train=train)
        return self.score(query, encoded, cross)
