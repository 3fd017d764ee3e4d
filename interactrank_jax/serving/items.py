"""From raw items to their representation, for items that came after the export."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.encoder import Encoder
from interactrank_jax.log.schema import FeatureSpec
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.features import RawFeatures
from interactrank_jax.serving.graphs import Graphs, empty_leaves, padded_rows
from interactrank_jax.serving.tables import as_table, column, refuse_nulls, refuse_repeated

ITEMS_AT_ONCE = 4096


class RawItems:
    """Raw items: item_id and the item features of the log.

    Args:
      features: of the log.
      encoder: of the model.
      id_type: `int64` or `large_string`, of the ids.
    """

    def __init__(self, features: Sequence[FeatureSpec], encoder: Encoder, id_type: pa.DataType):
        of_items = [feature for feature in features if feature.entity == "item"]
        self._features = RawFeatures(of_items, encoder)
        self._vocabulary, self._id_type = encoder.vocabularies["item"], id_type

    def check(self, items: Any, what: str = "items") -> pa.Table:
        """Returns raw items as a table, once its columns are what they must be.

        Categories and texts may be null: nothing is known of them then.

        Args:
          items: a table, see `as_table`.
          what: they are, for messages.

        Raises:
          InputError: a column is missing or mistyped, a number is absent, or an id comes twice.
        """
        table = as_table(items, what)
        self._features.check(table, {"item_id": "id"}, {"item_id": self._id_type}, what, "item_id")
        refuse_nulls(table, ("item_id",), what, "item_id")
        refuse_repeated(column(table, "item_id"), "item_id", what)
        return table

    def ids(self, table: pa.Table) -> pa.Array:
        """Returns the ids of items that were checked."""
        return column(table, "item_id", self._id_type)

    def store(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Returns items that were checked as the item store has them, `[N, ...]`; no padding."""
        encoded = self._features.encode(table)
        arrays = {"id": self._vocabulary.rows(self.ids(table)), "numeric": encoded.numeric}
        arrays |= encoded.columns
        return {
            name: array.astype(np.float32 if array.dtype.kind == "f" else np.int32, copy=False)
            for name, array in arrays.items()
        }


class ItemEncoder:
    """Encodes items by a bundle.

    Attributes:
      raw: the items as they come.
    """

    def __init__(self, bundle: Bundle, graphs: Graphs):
        self._bundle, self._graphs = bundle, graphs
        self.raw = RawItems(bundle.features, bundle.encoder, bundle.items.type)

    def encode(self, items: Any) -> dict[str, np.ndarray]:
        """Returns the representation of raw items: leaves `item/0`, ..., `[N, ...]`.

        Raises:
          InputError: see `RawItems.check`.
        """
        return self.encode_store(self.raw.store(self.raw.check(items)))

    def encode_store(self, store: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the representation of items as the store has them."""
        inputs = self._bundle["graphs"]["encode_item"]["inputs"]
        count, parts = len(store["id"]), []
        size = min(self._graphs.padded(count), ITEMS_AT_ONCE)
        for first in range(0, count, size):
            # The last tile starts earlier rather than being shorter: one shape, one compilation.
            start = max(min(first, count - size), 0)
            part = {
                f"store/{name}": padded_rows(values[start : start + size], size)
                for name, values in store.items()
                if f"store/{name}" in inputs
            }
            leaves = self._graphs.run("encode_item", part)
            end = min(size, count - start)
            parts.append({name: leaf[first - start : end] for name, leaf in leaves.items()})
        if not parts:
            leaves = empty_leaves(self._bundle, "index")
            return {name.replace("index/", "item/"): leaf for name, leaf in leaves.items()}
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
