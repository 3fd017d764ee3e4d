"""The workload of the speed benchmarks: a search log's examples, and our step on them.

Columns, tables and sizes are those that `prepare` gives for the simulated search log, made with
numpy, so that nothing has to be prepared, and neither grain nor duckdb is needed. Ids follow a Zipf
law with exponent 1, and their rows are scattered over the table: no vocabulary is sorted by use.

Only the item table grows (`item_rows`); users, queries and text keep their size, so that 10 million
rows of 32 floats (1.3 GB, and as much again for each moment of Adam) fit beside their peers.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from interactrank_jax.config import configuration, models
from interactrank_jax.examples.encoder import (
    CrossStatistics,
    Encoder,
    Feature,
    NumericStatistics,
)
from interactrank_jax.examples.format import Examples, Metadata, Split
from interactrank_jax.training.state import TrainState
from interactrank_jax.training.trainer import Trainer

Batch = dict[str, np.ndarray]

ACTIONS = ("click", "long_click", "short_click", "save")
# Share of candidates with each pattern of actions, as the simulator's log has them.
PATTERNS = {
    "0000": 0.838,
    "1000": 0.053,
    "1100": 0.073,
    "1010": 0.006,
    "0001": 0.011,
    "1101": 0.019,
}
FEATURES = (
    Feature("country", "user", "categorical", "country"),
    Feature("gender", "user", "categorical", "gender"),
    Feature("tenure_days", "user", "numeric"),
    Feature("query_text", "request", "text", "text", 24),
    Feature("device", "request", "categorical", "device"),
    Feature("hour", "request", "categorical", "hour"),
    Feature("title", "item", "text", "text", 24),
    Feature("category", "item", "categorical", "category"),
    Feature("price", "item", "numeric"),
    Feature("review_score", "item", "numeric"),
)
TABLES = {
    "user": 10_000,
    "query": 10_000,
    "country": 25,
    "gender": 20,
    "device": 20,
    "hour": 41,
    "category": 41,
    "text": 20_001,
}
NUMERIC = {
    "tenure_days": NumericStatistics(6.0, 2039.0, 1023.0, 453.0, 6.79, 0.59),
    "price": NumericStatistics(0.4, 923.0, 33.0, 43.0, 3.0, 0.97),
    "review_score": NumericStatistics(1.0, 5.0, 3.6, 0.73, 1.26, 0.22),
}
CROSS_COVERAGE, CROSS_RMS = 0.4, 0.1
HISTORY_SHARE, QUERY_HISTORY_SHARE, QUERY_TEXT_SHARE = 0.5, 0.7, 0.75
TOTAL_STEPS = 100_000  # of the learning rate's schedule
_SCATTER = 2_654_435_761  # Knuth's multiplicative hash; a prime


class Workload(Examples):
    """Examples that were never written, and a config: what a trainer of any framework starts from.

    Attributes:
      config: a whole config.
      metadata: of the examples.
      store: the item store, one item per table row; `items` is the same.
    """

    def __init__(self, config: ConfigDict, metadata: Metadata, store: dict[str, np.ndarray]):
        self.path = Path("benchmark")
        self.config, self.metadata = config, metadata
        self.store = self.items = store


def make_workload(
    item_rows: int,
    seed: int = 0,
    *,
    row_optimizer: str = "adagrad",
    parallel: str = "pmap",
    dtype: str = "float32",
    small: bool = False,
    model: str = "interactrank",
) -> Workload:
    """Returns a model, full InteractRank by default, on the search data with such an item table.

    Args:
      item_rows: rows of the item table and of the item store.
      seed: of the store.
      row_optimizer: 'adagrad' or 'adam', of the tables.
      parallel: 'pmap' or 'shard_map'.
      dtype: 'float32' or 'bfloat16', of the towers' arithmetic.
      small: with at most one MaskNet block, which compiles quickly.
      model: the name of its config.
    """
    config = models.build(model, "search")
    config.train.seed = seed
    config.train.affine.fit = False  # there are no rows to fit: examples are never written
    config.train.tables.name = row_optimizer
    config.train.parallel = parallel
    config.model.dtype = dtype
    if small:
        config.model.tower.masknet.blocks = min(config.model.tower.masknet.blocks, 1)
    if row_optimizer == "adam":
        config.train.tables.learning_rate = float(config.train.optimizer.learning_rate)
    impressions = 50 * item_rows
    metadata = Metadata(
        encoder=Encoder.of_config(
            configuration.to_json(config.data),
            {},
            actions=ACTIONS,
            features=FEATURES,
            cross=tuple(config.data.cross.features),
            tables=TABLES | {"item": item_rows},
            timeless=False,
            numeric_statistics=NUMERIC,
            cross_statistics={
                name: CrossStatistics(CROSS_COVERAGE, CROSS_RMS)
                for name in config.data.cross.features
            },
        ),
        slate=int(config.data.slate),
        candidate_columns=(),
        splits=dict.fromkeys(
            ("train", "validation"),
            Split(
                examples=impressions // 10,
                requests=impressions // 10,
                candidates=impressions,
                actions={key: int(share * impressions) for key, share in PATTERNS.items()},
                files=[],
            ),
        ),
        log_statistics={},
        config=configuration.to_json(config.data),
        digest="",
    )
    return Workload(config, metadata, _store(item_rows, impressions, seed))


def zipf(rng: np.random.Generator, rows: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draws ids `1..rows-1`, the r-th most frequent with probability in proportion to 1 / r."""
    rank = np.exp(rng.random(shape) * np.log(rows)).astype(np.int64)
    return _scatter(np.minimum(rank, rows - 1), rows)


def _scatter(rank: np.ndarray, rows: int) -> np.ndarray:
    return (rank * _SCATTER % (rows - 1) + 1).astype(np.int32)


def _store(rows: int, impressions: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, 0])
    count = np.zeros(rows, np.int32)
    rank = np.arange(1, rows)
    count[_scatter(rank, rows)] = np.maximum(impressions / np.log(rows) / rank, 1)
    store = {
        "id": np.arange(rows, dtype=np.int32),
        "count": count,
        "numeric": np.stack(
            [_uniform(rng, "price", rows), _uniform(rng, "review_score", rows)], -1
        ),
        "title": rng.integers(1, TABLES["text"], (rows, 24), dtype=np.int32),
        "category": rng.integers(1, TABLES["category"], rows, dtype=np.int32),
    }
    for value in store.values():
        value[0] = 0
    return store


def make_batch(workload: Workload, requests: int, seed: int) -> Batch:
    """Returns one training batch of `requests` requests with full slates, a function of `seed`."""
    rng = np.random.default_rng([seed, 1])
    metadata = workload.metadata
    items, slate = metadata.tables["item"], metadata.slate
    item = zipf(rng, items, (requests, slate))
    while (again := _repeated(item)).any():  # an item is in a slate once
        item[again] = zipf(rng, items, (int(again.sum()),))
    patterns = np.array([[int(bit) for bit in key] for key in PATTERNS], np.uint8)
    shares = np.array(list(PATTERNS.values()))
    drawn = rng.choice(len(patterns), (requests, slate), p=shares / shares.sum())
    history = _present(rng, requests, metadata.history_length, HISTORY_SHARE)
    query_history = _present(rng, requests, metadata.query_history_length, QUERY_HISTORY_SHARE)
    cross_shape = (requests, slate, len(metadata.cross))
    covered = rng.random(cross_shape) < CROSS_COVERAGE
    return {
        "user": zipf(rng, TABLES["user"], (requests,)),
        "query": zipf(rng, TABLES["query"], (requests,)),
        **{
            f"request/{name}": rng.integers(1, TABLES[name], requests, dtype=np.int32)
            for name in ("country", "gender", "device", "hour")
        },
        "request/query_text": zipf(rng, TABLES["text"], (requests, 24))
        * _present(rng, requests, 24, QUERY_TEXT_SHARE),
        "request_numeric": _uniform(rng, "tenure_days", requests)[:, None],
        "history_item": zipf(rng, items, history.shape) * history,
        "history_action": rng.integers(1, len(ACTIONS) + 1, history.shape, dtype=np.int32)
        * history,
        "history_age": (rng.exponential(500, history.shape) * history).astype(np.float32),
        "query_history_item": zipf(rng, items, query_history.shape) * query_history,
        "item": item,
        "mask": np.ones((requests, slate), bool),
        "actions": patterns[drawn],
        "cross": (rng.exponential(CROSS_RMS, cross_shape) * covered).astype(np.float32),
    }


def one_row_per_impression(batch: Batch) -> Batch:
    """Repeats each request for each of its candidates: `[R * C]` slates of one."""
    slate = batch["mask"].shape[1]
    per_candidate = ("item", "mask", "actions", "cross")
    return {
        name: value.reshape(-1, 1, *value.shape[2:])
        if name in per_candidate
        else np.repeat(value, slate, 0)
        for name, value in batch.items()
    }


def _repeated(item: np.ndarray) -> np.ndarray:
    order = np.argsort(item, axis=1, kind="stable")
    ordered = np.take_along_axis(item, order, 1)
    again = np.zeros(item.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    return again


def _present(rng: np.random.Generator, requests: int, length: int, share: float) -> np.ndarray:
    """Returns `[requests, length]` zeros after a random number of ones, `share` on average."""
    mean = share * length
    count = np.clip(np.rint(rng.normal(mean, length / 4, requests)), 0, length)
    return (np.arange(length) < count[:, None]).astype(np.int32)


def _uniform(rng: np.random.Generator, name: str, count: int) -> np.ndarray:
    statistics = NUMERIC[name]
    return rng.uniform(statistics.minimum, statistics.maximum, count).astype(np.float32)


class BenchmarkTrainer(Trainer):
    """The training step on one device, compiled and fed as `train` does it."""

    def __init__(self, workload: Workload):
        config = workload.config.copy_and_resolve_references()
        config.train.max_steps = TOTAL_STEPS
        super().__init__(config, workload, devices=jax.local_devices()[:1])

    def snapshot(self) -> TrainState:
        """Returns a copy of the state, unreplicated, in host memory."""
        return jax.tree.map(np.array, jax.device_get(self.parallel.unreplicate(self.placed)))

    def compile(self, batch: Batch) -> Any:
        """Compiles the step for such batches; returns it (`jax.stages.Compiled`) to look into."""
        donating = jax.jit(self.step, donate_argnums=0)
        compiled = donating.lower(self.placed, self.parallel.shard(batch), self.store).compile()
        self.step = compiled
        return compiled

    def run_steps(self, batches: list[Batch]) -> float:
        """Takes one step per batch; returns seconds, placing the batches on the device left out."""
        placed = [self.parallel.shard(batch) for batch in batches]
        jax.block_until_ready((self.placed, placed))
        start = time.perf_counter()
        for batch in placed:
            self.advance(batch)
        jax.block_until_ready(self.placed)
        return time.perf_counter() - start
