"""Raw features of requests or of items: checked as they come, and encoded as training encoded."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interactrank_jax.examples.encode import Encoded, TextOptions, encode_features
from interactrank_jax.examples.encoder import Encoder
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.schema import FeatureSpec
from interactrank_jax.serving.tables import check_columns, column, refuse_nulls


class RawFeatures:
    """The raw features of requests, or of items.

    Args:
      features: their columns.
      encoder: of the model.
    """

    def __init__(self, features: Sequence[FeatureSpec], encoder: Encoder):
        self._features, self._encoder = features, encoder
        self._text = TextOptions.of_encoder(encoder)
        self._widths = {feature.name: feature.width for feature in encoder.features}

    def check(
        self,
        table: pa.Table,
        kinds: dict[str, str],
        types: dict[str, pa.DataType],
        what: str,
        key: str,
    ) -> None:
        """Refuses a table whose columns are not what they must be.

        Args:
          table: the table.
          kinds: of its columns that are no features, see `check_columns`.
          types: of some of them.
          what: the table is, for messages.
          key: its column of ids, for messages.

        Raises:
          InputError: a column is missing or mistyped, a number is absent or not finite, or an
            embedding has another width.
        """
        kinds = kinds | {feature.name: feature.kind for feature in self._features}
        types = types | {
            feature.name: self._encoder.vocabularies[feature.name].values.type
            for feature in self._features
            if feature.kind == "categorical"
        }
        check_columns(table, kinds, types, what)
        numbers = [f.name for f in self._features if f.kind in ("numeric", "embedding")]
        refuse_nulls(table, numbers, what, key)
        for feature in self._features:
            if feature.kind == "embedding" and len(table):
                self._check_embedding(table, feature.name, what, key)

    def _check_embedding(self, table: pa.Table, name: str, what: str, key: str) -> None:
        width = self._widths[name]
        lists = pa.concat_arrays(table[name].chunks)
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        is_wrong = lengths != width
        if not is_wrong.any():
            is_wrong = ~np.isfinite(values.reshape(-1, width)).all(1)
        if is_wrong.any():
            row = int(np.argmax(is_wrong))
            raise InputError(
                f"{what}: column '{name}' has other than {width} finite numbers in "
                f"{int(is_wrong.sum()):,} of {len(table):,} rows, for example {key} "
                f"{table[key][row].as_py()!r}. Expected lists of {width} numbers, as the model "
                f"was trained with."
            )

    def encode(self, table: pa.Table) -> Encoded:
        """Returns the features of a table that was checked as arrays."""
        encoder = self._encoder
        for feature in self._features:
            if feature.kind in ("categorical", "text"):
                kind = pa.large_string()
                if feature.kind == "categorical":
                    kind = encoder.vocabularies[feature.name].values.type
                position = table.column_names.index(feature.name)
                values = column(table, feature.name, kind)
                table = table.set_column(position, feature.name, values)
        # The width of no lists at all is not to be read from them.
        absent = [f for f in self._features if f.kind == "embedding" and not len(table)]
        present = [feature for feature in self._features if feature not in absent]
        encoded = encode_features(present, table, encoder.vocabularies, self._text)
        columns = encoded.columns | {
            feature.name: np.zeros((0, self._widths[feature.name]), np.float32)
            for feature in absent
        }
        ordered = {f.name: columns[f.name] for f in self._features if f.name in columns}
        return Encoded(ordered, encoded.numeric)
