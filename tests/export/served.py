"""Bundles without a model, of any log: what they serve is held against what `prepare` made."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict

from interactrank_jax.examples.format import Examples
from interactrank_jax.export import replay
from interactrank_jax.export.catalogue import read_items
from interactrank_jax.export.export import write_record
from interactrank_jax.export.features import write_features
from interactrank_jax.log.read import open_log
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.lists import candidate_lists
from interactrank_jax.serving.ranking import Ranked
from interactrank_jax.serving.requests import FreshEventReader, RequestEncoder
from interactrank_jax.state import engines
from interactrank_jax.state.store import open_without_log


def write_bundle(examples: Examples, state: Path, number: int, directory: Path) -> Bundle:
    """Writes and opens a bundle that knows everything but a model."""
    store, schema = open_without_log(state)
    directory.mkdir(parents=True)
    encoder = examples.encoder
    with engines.connect("duckdb", directory / "scratch") as backend:
        raw = read_items(store, backend, schema.features, "", encoder)
        knowledge = write_features(
            *(store, backend, number, encoder, examples.metadata.config),
            *(schema.features, raw, directory),
        )
    absent: dict[str, Any] = {"model": "", "heads": [], "utility": [], "calibration": {}}
    absent |= {"graphs": {}, "versions": {}, "parity": {}, "vectors": ""}
    absent["protocol"] = examples.metadata.protocol_in_words
    write_record(directory, {**knowledge.record, **absent})
    return Bundle.open(directory)


def differences(
    bundle: Bundle, examples: Examples, log: Path, number: int | None, split: str, scratch: Path
) -> dict[str, replay.Difference]:
    """Returns how what is served for the requests of a day compares with the examples.

    Args:
      bundle: of the day.
      examples: of the log.
      log: where events of the day are read.
      number: of the day; None where there are no days: all requests of the split.
      split: whose requests.
      scratch: for an engine.
    """
    rebuilt = list(replay.rebuilt_examples(examples, split))
    requests = examples.raw_requests(split)
    fresh = None
    if number is not None:
        day = requests["timestamp"].to_numpy() // 86_400
        requests = requests.filter(pa.array(day == number))
        data = ConfigDict(examples.metadata.config)
        events = replay.arrived_events(open_log(log), data, number, scratch)
        fresh, _ = FreshEventReader(bundle).read(events)
    asked = set(requests["request_id"].to_pylist())
    rebuilt = [example for example in rebuilt if example.request in asked]
    encoded = RequestEncoder(bundle).encode(RequestEncoder(bundle).check(requests), fresh)
    listed = pa.table(
        {
            "request_id": pa.array([e.request for e in rebuilt for _ in e.items]).cast(
                encoded.ids.type
            ),
            "item_id": pa.array([item for e in rebuilt for item in e.items]),
        }
    )
    lists = candidate_lists(bundle, requests, listed)
    assert lists is not None
    assert not len(lists.unknown)
    request = np.repeat(np.arange(len(requests)), np.diff(lists.start))
    groups = {keys: group[request] for keys, group in encoded.groups.items()}
    cross = bundle.cross.values(groups, lists.row[:, None])[:, 0]
    candidates = {"request": request, "row": lists.row, "cross": cross}
    empty = pa.table({})
    ranked = Ranked(empty, empty, 0, encoded, candidates)
    return replay.compare(bundle, ranked, rebuilt, examples.metadata.cross)
