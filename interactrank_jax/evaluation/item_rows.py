"""Rows of the item store by the ids of the log."""

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.format import Examples
from interactrank_jax.log.values import as_values, index_in


def rows_of_items(examples: Examples, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns the first store row `[N]` of each item id, -1 of one that is none of the log's."""
    rows = index_in(as_values(ids), as_values(examples.raw_items()["item_id"]).slice(1))
    return np.where(rows >= 0, rows + 1, -1)


def first_rows(examples: Examples) -> np.ndarray:
    """Returns for each store row the first one of its item, `[I]`; 0 of padding.

    They differ under the protocol that gives an item another row in the test split.
    """
    return np.maximum(rows_of_items(examples, examples.raw_items()["item_id"]), 0)
