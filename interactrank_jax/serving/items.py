"""From raw items to their representation, for items that came after the export."""

from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.encode import TextOptions, encode_features
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.ranking import Graphs
from interactrank_jax.serving.tables import (
    as_table,
    check_columns,
    column,
    refuse_nulls,
    refuse_repeated,
)

ITEMS_AT_ONCE = 4096


class ItemEncoder:
    """Encodes items by a bundle."""

    def __init__(self, bundle: Bundle, graphs: Graphs):
        self._bundle, self._graphs = bundle, graphs
        self._features = [feature for feature in bundle.features if feature.entity == "item"]

    def check(self, items: Any) -> pa.Table:
        """Returns raw items as a table, once its columns are what they must be.

        Raises:
          InputError: a column is missing or mistyped, a number is absent, or an id comes twice.
        """
        table, what = as_table(items, "items"), "items"
        vocabularies = self._bundle.encoder.vocabularies
        kinds = {"item_id": "id"} | {feature.name: feature.kind for feature in self._features}
        types = {"item_id": self._bundle.items.ids.type}
        for feature in self._features:
            if feature.kind == "categorical":
                types[feature.name] = vocabularies[feature.name].values.type
        check_columns(table, kinds, types, what)
        numbers = [f.name for f in self._features if f.kind in ("numeric", "embedding")]
        refuse_nulls(table, ("item_id", *numbers), what, "item_id")
        refuse_repeated(column(table, "item_id"), "item_id", what)
        return table

    def store(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Returns items that were checked as the item store has them, `[N, ...]`; no padding."""
        encoder = self._bundle.encoder
        for feature in self._features:
            if feature.kind in ("categorical", "text"):
                kind = pa.large_string()
                if feature.kind == "categorical":
                    kind = encoder.vocabularies[feature.name].values.type
                place = table.column_names.index(feature.name)
                table = table.set_column(place, feature.name, column(table, feature.name, kind))
        encoded = encode_features(
            self._features, table, encoder.vocabularies, TextOptions.of_encoder(encoder)
        )
        ids = column(table, "item_id", self._bundle.items.ids.type)
        arrays = {"id": encoder.vocabularies["item"].rows(ids), "numeric": encoded.numeric}
        return arrays | encoded.columns

    def encode(self, items: Any) -> dict[str, np.ndarray]:
        """Returns the representation of raw items: leaves `item/0`, ..., `[N, ...]`."""
        return self.encode_store(self.store(self.check(items)))

    def encode_store(self, store: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the representation of items as the store has them."""
        count = len(store["id"])
        names = self._bundle["graphs"]["encode_item"]["inputs"]
        parts = []
        for first in range(0, count, ITEMS_AT_ONCE):
            part = {f"store/{name}": a[first : first + ITEMS_AT_ONCE] for name, a in store.items()}
            inputs = {name: values for name, values in part.items() if name in names}
            parts.append(self._graphs.run("encode_item", inputs))
        if not parts:
            return {}
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
