"""Writes what turns raw requests and candidates into features: a bundle without its model."""

import contextlib
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import numpy as np
import pyarrow as pa

from interactrank_jax.examples.encoder import DIRECTORY as ENCODER
from interactrank_jax.examples.encoder import Encoder
from interactrank_jax.export.past import PastExport
from interactrank_jax.io import interrupts
from interactrank_jax.io.files import ArrayWriter
from interactrank_jax.log.schema import FeatureSpec
from interactrank_jax.log.values import as_values
from interactrank_jax.serving.items import RawItems
from interactrank_jax.serving.keys import KeyIndex, open_array
from interactrank_jax.state.days import date
from interactrank_jax.state.store import Store

ROWS_AT_ONCE = 1 << 17


class Knowledge(NamedTuple):
    """What a bundle knows without its model.

    Attributes:
      record: fields of `bundle.json`.
      store: the item store, padding included.
    """

    record: dict[str, Any]
    store: dict[str, np.ndarray]


def write_features(
    store: Store,
    backend: ibis.BaseBackend,
    number: int,
    encoder: Encoder,
    data: Mapping[str, Any],
    features: tuple[FeatureSpec, ...],
    raw: pa.Table,
    directory: Path,
) -> Knowledge:
    """Writes all that turns raw requests and candidates into features.

    Args:
      store: STATE.
      backend: where it is read.
      number: day that the bundle is for; 0 where there are no days.
      encoder: of the run.
      data: `config.data` as JSON has it.
      features: of the log that the encoder knows, in its order.
      raw: the items, in the order of their ids.
      directory: of the bundle.
    """
    arrays = _write_items(encoder, raw, features, directory)
    scratch = directory / "scratch" / "past"
    scratch.mkdir(parents=True)
    actions = store.description.actions
    history_actions = [actions.index(name) for name in data["history"]["actions"]]
    rates = [actions.index(name) for name in data["history"]["rates"]]
    past = PastExport(
        store, backend, number, encoder, as_values(raw["item_id"]), directory, scratch
    )
    history = past.write(history_actions, rates)
    shutil.rmtree(scratch)
    encoder.save(directory / ENCODER, with_vocabularies=False)
    for name, vocabulary in encoder.vocabularies.items():
        KeyIndex.build(vocabulary.values).save(directory / ENCODER / "vocabulary" / name)
    record = {
        **history,
        "encoder": encoder.digest,
        "timeless": encoder.timeless,
        "as_of": None if encoder.timeless else date(number),
        "lag_days": store.recipe.lag_days,
        "delay_s": None if encoder.timeless else data["history"]["delay_s"],
        "actions": list(actions),
        "history_actions": history_actions,
        "rates": rates,
        "features": [dataclasses.asdict(feature) for feature in features],
        "has_fresh": store.recipe.has_fresh,
        "items": len(raw) + 1,
        "has_delta": False,
    }
    return Knowledge(record, arrays)


def _write_items(
    encoder: Encoder, raw: pa.Table, features: tuple[FeatureSpec, ...], directory: Path
) -> dict[str, np.ndarray]:
    """Writes ids and arrays of the items; returns the arrays, padding included, mapped."""
    ids = as_values(raw["item_id"])
    items, folder = RawItems(features, encoder, ids.type), directory / "items"
    KeyIndex.build(ids).save(folder / "ids")
    shapes: dict[str, tuple[int, ...]] = {}
    with contextlib.ExitStack() as stack:
        writers: dict[str, ArrayWriter] = {}
        for first in range(0, max(len(raw), 1), ROWS_AT_ONCE):
            interrupts.check()
            for name, values in items.store(raw.slice(first, ROWS_AT_ONCE)).items():
                if name not in writers:
                    shapes[name] = (1 + len(raw), *values.shape[1:])
                    writer = ArrayWriter(folder / f"{name}.npy", shapes[name], values.dtype)
                    writers[name] = stack.enter_context(writer)
                    writer.write(np.zeros((1, *values.shape[1:]), values.dtype))
                writers[name].write(values)
    return {
        name: open_array(folder / f"{name}.npy", shape, "iuf") for name, shape in shapes.items()
    }
