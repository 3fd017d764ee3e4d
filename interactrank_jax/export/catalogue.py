"""The items of a bundle: those of STATE's catalogue, and further ones that are handed over."""

from collections.abc import Sequence

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.examples.encoder import Encoder
from interactrank_jax.io import files
from interactrank_jax.log.schema import FeatureSpec
from interactrank_jax.log.values import as_values, concat_tables, index_in
from interactrank_jax.ranking.requests import parquet_files
from interactrank_jax.serving.items import RawItems
from interactrank_jax.state.store import Store


def read_items(
    store: Store,
    backend: ibis.BaseBackend,
    features: Sequence[FeatureSpec],
    further: files.PathLike,
    encoder: Encoder,
) -> pa.Table:
    """Returns the raw items in the order of their ids: item_id and the item features.

    Args:
      store: STATE.
      backend: where it is read.
      features: of the log that the model knows.
      further: Parquet file or directory with further items, or ''; one that the catalogue has too
        replaces it.
      encoder: of the run.

    Raises:
      InputError: the further items lack a column, or have another type, or an id twice.
    """
    columns = ["item_id", *(f.name for f in features if f.entity == "item")]
    items = backend.to_pyarrow(store.catalogue(backend).select(columns))
    if further:
        new = concat_tables([pq.read_table(path) for path in parquet_files(further, "--items")])
        raw = RawItems(features, encoder, as_values(items["item_id"]).type)
        new = raw.check(new, f"items ({further})").select(columns)
        replaced = index_in(as_values(items["item_id"]), as_values(new["item_id"])) >= 0
        items = concat_tables([items.filter(pa.array(~replaced)), new])
    return items.take(pc.sort_indices(as_values(items["item_id"])))
