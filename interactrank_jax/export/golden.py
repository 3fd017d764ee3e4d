"""Makes the golden requests of a bundle, and ranks them in a fresh process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.examples.format import REQUEST_ENTITIES
from interactrank_jax.io import interrupts
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.values import words
from interactrank_jax.serving.bundle import Bundle
from interactrank_jax.serving.golden import FOLDER
from interactrank_jax.state.days import SECONDS_PER_DAY, day_number

REQUESTS, CANDIDATES, EVENTS = 50, 20, 100
_CHECK = """
import json, sys
from interactrank_jax.{module} import {name}
from interactrank_jax.serving.golden import verify_golden
print(json.dumps(verify_golden({name}(sys.argv[1]).ranking)))
"""


def write_raw(bundle: Bundle, items: pa.Table) -> None:
    """Writes raw requests, candidates and events, drawn from what the encoder knows and beyond.

    A tenth of all ids are unseen ones.

    Args:
      bundle: to write them into.
      items: raw, for the words of texts.
    """
    rng = np.random.default_rng(0)
    directory = bundle.path / FOLDER
    directory.mkdir(exist_ok=True)
    draw = _Draw(bundle, items, rng)
    start = 0 if bundle["as_of"] is None else day_number(bundle["as_of"]) * SECONDS_PER_DAY
    requests: dict[str, Any] = {
        "request_id": [f"golden-{number}" for number in range(REQUESTS)],
        "user_id": draw.seen("user", REQUESTS),
        "query_id": draw.seen("query", REQUESTS),
    }
    if not bundle["timeless"]:
        requests["timestamp"] = start + rng.integers(0, SECONDS_PER_DAY, REQUESTS)
    for feature in bundle.features:
        if feature.entity in REQUEST_ENTITIES:
            requests[feature.name] = draw.feature(feature.name, feature.kind, REQUESTS)
    pq.write_table(pa.table(requests), directory / "requests.parquet")
    candidates = {
        "request_id": np.repeat(requests["request_id"], CANDIDATES),
        "item_id": draw.items(REQUESTS * CANDIDATES),
    }
    pq.write_table(pa.table(candidates), directory / "candidates.parquet")
    if bundle["timeless"]:
        return
    happened = start + rng.integers(0, SECONDS_PER_DAY, EVENTS)
    events = {
        "event_id": pa.array(np.arange(EVENTS)).cast(pa.string()),
        "user_id": draw.from_column(requests["user_id"], EVENTS),
        "item_id": draw.items(EVENTS),
        "action": rng.choice(bundle["actions"], EVENTS).tolist(),
        "event_time": happened,
        "arrival_time": happened + rng.integers(0, 100, EVENTS),
    }
    pq.write_table(pa.table(events), directory / "events.parquet")


class _Draw:
    """Draws raw values."""

    def __init__(self, bundle: Bundle, items: pa.Table, rng: np.random.Generator):
        self._bundle, self._rng = bundle, rng
        texts = [items[f.name] for f in items.schema if pa.types.is_large_string(f.type)]
        some = [text or "" for column in texts for text in column[:200].to_pylist()]
        self._words = sorted({word for text in some for word in words(text)})[:500] or ["word"]

    def seen(self, vocabulary: str, count: int) -> pa.Array:
        """Draws from a vocabulary, with a tenth that is not in it."""
        return self._mixed(self._bundle.encoder.vocabularies[vocabulary].values, count)

    def items(self, count: int) -> pa.Array:
        """Draws items of the bundle; none is unknown, so that scores have a row for each."""
        ids = self._bundle.items.ids
        return ids.take(pa.array(self._rng.integers(0, len(ids), count)))

    def from_column(self, values: pa.Array, count: int) -> pa.Array:
        """Draws from values."""
        return values.take(pa.array(self._rng.integers(0, len(values), count)))

    def feature(self, name: str, kind: str, count: int) -> Any:
        """Draws values of a feature of requests."""
        encoder = self._bundle.encoder
        if kind == "categorical":
            return self.seen(name, count)
        if kind == "numeric":
            statistics = encoder.numeric_statistics[name]
            return self._rng.normal(statistics.mean, statistics.std, count)
        if kind == "embedding":
            width = next(f.width for f in encoder.features if f.name == name)
            return self._rng.normal(size=(count, width)).tolist()
        lengths = self._rng.integers(0, 5, count)
        return [" ".join(self._rng.choice(self._words, size)) for size in lengths]

    def _mixed(self, values: pa.Array, count: int) -> pa.Array:
        unseen: list[Any] = [f"unseen-{number}" for number in range(count)]
        if pa.types.is_integer(values.type):
            unseen = [2**62 + number for number in range(count)]
        if not len(values):
            return pa.array(unseen, values.type)
        drawn = self.from_column(values, count).to_pylist()
        is_unseen = self._rng.random(count) < 0.1
        chosen = [u if flag else d for u, d, flag in zip(unseen, drawn, is_unseen, strict=True)]
        return pa.array(chosen, values.type)


def largest_difference(bundle: Path, module: str, name: str) -> float:
    """Ranks the golden requests in a fresh process; returns the largest difference of a score.

    Args:
      bundle: the directory.
      module, name: of the class that opens it, `Ranker` or `Reader`.

    Raises:
      InputError: it does not open, or gives other features or scores.
    """
    code = _CHECK.format(module=module, name=name)
    result = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=False
    )
    interrupts.check()  # the signal that ended us ended the other process too
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
        reason = reason.removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")
        raise InputError(
            f"golden requests ranked by {name} in a process of its own: "
            f"{reason.replace(str(bundle), 'the bundle')}"
        )
    return float(json.loads(result.stdout.splitlines()[-1]))
