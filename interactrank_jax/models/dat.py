"""DAT (Yu et al., DLP-KDD 2021): two towers, each told by memory what the other makes of its pairs.

An id has, beside its embedding, an augmented vector: input of its own tower, and trained to mimic
the other tower's output on positives. So a user's tower sees what the items look like that the user
engaged with, and an item's tower who engages with it, and both can still be computed ahead.

The paper's category alignment loss, which makes the item vectors of rare categories spread like
those of the largest, is left out: what a category is differs from log to log.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from interactrank_jax.examples.encoder import Feature
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import Total
from interactrank_jax.models import flops
from interactrank_jax.models.inputs import ITEM, ItemInput, RequestInput, SequenceInput
from interactrank_jax.models.preranker import Training
from interactrank_jax.models.registry import register
from interactrank_jax.models.two_tower import TwoTower

Array = jax.Array


class Augmented(NamedTuple):
    """A side in training.

    Attributes:
      encoded: that of the two-tower model.
      augmented: `[R, d]` or `[..., d]`; None where the config excludes the side's id.
    """

    encoded: Any
    augmented: Array | None


@register("dat", flops=flops.two_tower)
class DAT(TwoTower):
    """The two-tower model with augmented vectors; at inference its representations and its score.

    A row of an augmented table holds the id's embedding and then its augmented vector, as wide as a
    tower's output. On the item side the id is the item's, on the other `config.augment.request`,
    the user's or the query's. A side whose id the config excludes has no augmented vector. In
    histories an item is its embedding alone.
    """

    def setup(self):
        """Checks that there is an id to keep a vector for."""
        super().setup()
        if not self._augmented_tables():
            raise InputError(
                f"DAT keeps a vector for each '{self.config.augment.request}' and each '{ITEM}', "
                f"and config.model.exclude names both: take one of them out, or train 'two_tower'."
            )

    def _augmented_tables(self) -> set[str]:
        ids = (self.config.augment.request, ITEM)
        features = (*self.inputs.request, *self.inputs.item)
        return {feature.table for feature in features if feature.name in ids}

    def row_width(self, table: str) -> int:
        """Returns the width of a table's rows: that of an embedding, and of an augmented vector."""
        width = super().row_width(table)
        return width + self.config.tower.output_dim * (table in self._augmented_tables())

    # --- Encoding ---

    def encode_query(self, request: RequestInput, *, train: bool = False) -> Any:
        """Returns the two-tower model's query; in training `Augmented`."""
        name = self.config.augment.request
        features, augmented = self._split(request.features, self.inputs.request, name)
        changed: dict[str, Any] = {"features": features}
        changed |= {role: self._events(getattr(request, role)) for role in self.inputs.histories}
        request = dataclasses.replace(request, **changed)
        query = super().encode_query(request, train=train)
        return Augmented(query, augmented) if train else query

    def encode_item(self, items: ItemInput, *, train: bool = False) -> Any:
        """Returns one unit vector per item, `[..., d]`; in training as `Augmented`."""
        features, augmented = self._split(items.features, self.inputs.item, ITEM)
        vectors = super().encode_item(dataclasses.replace(items, features=features), train=train)
        return Augmented(vectors, augmented) if train else vectors

    def _split(
        self, features: Mapping[str, Array], specs: Sequence[Feature], name: str
    ) -> tuple[dict[str, Array], Array | None]:
        """Returns a tower's inputs, the augmented vector among them, and that vector."""
        width, tables = self.config.embedding_dim, self._augmented_tables()
        inputs = {
            spec.name: features[spec.name][..., :width]
            if spec.table in tables
            else features[spec.name]
            for spec in specs
        }
        if name not in inputs:
            return inputs, None
        augmented = features[name][..., width:]
        return {**inputs, f"{name}/augmented": augmented}, augmented

    def _events(self, sequence: SequenceInput) -> SequenceInput:
        """Returns a history without the augmented vectors of its items."""
        parts, start = [], 0
        for feature in self.inputs.item:
            if feature.name in self.inputs.sequence:
                parts.append(sequence.items[..., start : start + self.config.embedding_dim])
                start += self.row_width(feature.table)
        return dataclasses.replace(sequence, items=jnp.concatenate(parts, -1))

    # --- Scoring and training ---

    def similarity(self, query: Any, items: Any) -> Array:
        """Returns `[R, N]`, that of the two-tower model."""
        if isinstance(query, Augmented):
            query, items = query.encoded, items.encoded
        return super().similarity(query, items)

    def train_score(
        self,
        query: Augmented,
        items: Augmented,
        cross: Array,
        *,
        engaged: Array,
        mask: Array,
        progress: Array,
    ) -> Training:
        """Returns the logits and the mimic loss.

        mimic = the mean over positives of |a_u - sg(v)|^2 + |a_v - sg(u)|^2, with a the augmented
        vectors, sg a stopped gradient, v the item's vector and u the request's of the first head.
        """
        del mask, progress
        u, v = query.encoded.vectors[:, :1], items.encoded
        distance = jnp.zeros(engaged.shape)
        if query.augmented is not None:
            distance += _squared_distance(query.augmented[:, None], v)
        if items.augmented is not None:
            distance += _squared_distance(items.augmented, u)
        weight = engaged.astype(jnp.float32)
        mimic = Total((distance * weight).sum(), weight.sum())
        return Training(self.score(query.encoded, v, cross), {"mimic": mimic}, {})

    def auxiliary_losses(self) -> dict[str, float]:
        """Returns the weight of the mimic loss."""
        weight = float(self.config.mimic_weight)
        return {"mimic": weight} if weight else {}


def _squared_distance(augmented: Array, target: Array) -> Array:
    return ((augmented - jax.lax.stop_gradient(target)) ** 2).sum(-1)
