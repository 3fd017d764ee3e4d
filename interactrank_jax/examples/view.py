"""Examples as an older encoder reads them: yesterday's model on today's log.

A vocabulary that was extended has rows that the model's table lacks. An id there gets the hashed
row that the older vocabulary gives its value, as any unseen id does. All else is as it lies on
disk: rows that both encoders have, tokens (which are hashed) and numbers.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from interactrank_jax.examples import checks
from interactrank_jax.examples.encoder import Encoder
from interactrank_jax.examples.format import REQUEST_ENTITIES, Examples, SparseCross


class ExamplesView(Examples):
    """Examples, read by an encoder that theirs extends; for all but training."""

    def __init__(self, source: Examples, encoder: Encoder):
        """Makes the view.

        Args:
          source: the examples.
          encoder: the older one; `source.encoder` extends it.

        Raises:
          InputError: a vocabulary is absent or damaged.
        """
        self.path = source.path
        self.metadata = dataclasses.replace(source.metadata, encoder=encoder)
        self._source = source
        self._rows = source.encoder.rows_in(encoder)
        of_requests = encoder.select(REQUEST_ENTITIES, "categorical")
        self._request_tables = {"user": "user", "query": "query"} | {
            f"request/{feature.name}": feature.table for feature in of_requests
        }
        self._item_tables = {"id": "item"} | {
            feature.name: feature.table for feature in encoder.select(("item",), "categorical")
        }

    def file(self, name: str) -> Path:
        """See `Examples.file`."""
        return self._source.file(name)

    def blocks(
        self, split: str, names: Sequence[str] | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """See `Examples.blocks`."""
        for block in self._source.blocks(split, names):
            yield self._reread(block, self._request_tables)

    def block_check(self, split: str) -> checks.BlockCheck:
        """See `Examples.block_check`; blocks hold the rows of the longer tables."""
        return self._source.block_check(split)

    @functools.cached_property
    def items(self) -> dict[str, np.ndarray]:
        """See `Examples.items`."""
        return self._reread(self._source.items, self._item_tables)

    def sparse_cross(self, split: str) -> SparseCross:
        """See `Examples.sparse_cross`; its items are rows of the store, which stay."""
        return self._source.sparse_cross(split)

    def has_corpus(self, split: str) -> bool:
        """See `Examples.has_corpus`."""
        return self._source.has_corpus(split)

    def _reread(
        self, columns: Mapping[str, np.ndarray], tables: Mapping[str, str]
    ) -> dict[str, np.ndarray]:
        result = dict(columns)
        for name, table in tables.items():
            if name in result and table in self._rows:
                result[name] = self._rows[table].take(result[name])
        return result
