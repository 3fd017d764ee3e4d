"""Examples made directly, without a log: small, quick, and with whatever a test wants planted."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ml_collections import ConfigDict

from interactrank_jax.config import configuration, models
from interactrank_jax.examples import encoder as encoder_module
from interactrank_jax.examples.blocks import BlockWriter
from interactrank_jax.examples.encoder import (
    CrossStatistics,
    Encoder,
    Feature,
    Fingerprint,
    NumericStatistics,
)
from interactrank_jax.examples.format import (
    Metadata,
    Split,
    write_metadata,
)
from interactrank_jax.examples.vocabulary import Vocabulary

ACTIONS = ("click", "save")
CROSS = ("share:click:30", "share:click:365")
FEATURES = (
    Feature("country", "user", "categorical", "country"),
    Feature("age", "user", "numeric"),
    Feature("query_text", "request", "text", "text", 4),
    Feature("mood", "request", "embedding", "", 3),
    Feature("category", "item", "categorical", "category"),
    Feature("price", "item", "numeric"),
    Feature("title", "item", "text", "text", 6),
)
TABLES = {"user": 60, "query": 40, "item": 90, "country": 6, "category": 8, "text": 50}
HASHED = 2  # out-of-vocabulary rows of each table of ids
BLOCK_SIZE = 16
ITEMS, SLATE, HISTORY, QUERY_HISTORY = 81, 5, 7, 3


def tiny_config(model: str, **model_fields) -> ConfigDict:
    """A config that fits these examples and trains in seconds."""
    config = models.build(model, "search")
    config.data.block_size = BLOCK_SIZE
    config.label.update(
        {
            "heads": ("engaged", "save"),
            "utility": (1.0, 0.25),
            "positive": ACTIONS,
            "negative": (),
            "weights": (("save", 7.0), ("click", 2.0)),
        }
    )
    config.train.loss.head_weights = (20.0, 7.0)
    config.model.embedding_dim = 8
    config.model.sequence.features = ("item_id", "category")
    config.model.tower.hidden = (16,)
    config.model.tower.output_dim = 8
    # One block: to compile four would take longer than all the rest of the model.
    config.model.tower.masknet.update(
        {"width": 8, "blocks": min(config.model.tower.masknet.blocks, 1)}
    )
    config.train.update({"batch_size": 16, "max_steps": 8, "eval_every": 4, "log_every": 2})
    config.train.checkpoint_every = 4
    config.evaluate.update({"batch_size": 32, "bootstrap": 20})
    config.model.update(model_fields)
    return config


def without_blocks(config: ConfigDict) -> None:
    """Leaves out of the towers what takes long to compile and looks at one example at a time."""
    config.model.sequence.update({"history": "mean", "query_history": "mean"})
    config.model.tower.masknet.blocks = 0


def write_examples(
    path: Path, seed: int = 0, requests: int = 150, block_size: int = BLOCK_SIZE
) -> Path:
    """Writes examples whose clicks follow a user-item and a cross-feature signal."""
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(TABLES["user"], 4))
    appeal = rng.normal(size=(ITEMS, 4))
    splits = {}
    for split, count in (("train", requests), ("validation", 45), ("test", 45)):
        columns, sparse = _split_columns(rng, count, taste, appeal, first=split == "train")
        with BlockWriter(path / split, blocks_per_file=3) as writer:
            for start in range(0, count, block_size):
                writer.write({k: v[start : start + block_size] for k, v in columns.items()})
        if split != "train":
            (path / "cross" / split).mkdir(parents=True)
            for name, value in sparse.items():
                np.save(path / "cross" / split / f"{name}.npy", value)
        (path / "raw").mkdir(exist_ok=True)
        raw = {
            "request_id": [f"{split}-{index}" for index in range(count)],
            "query_text": [f"word{index % 7}" for index in range(count)],
        }
        pq.write_table(pa.table(raw), path / "raw" / f"{split}.parquet")
        actions = columns["actions"][columns["mask"]]
        patterns, counts = np.unique(actions, axis=0, return_counts=True)
        splits[split] = Split(
            examples=count,
            requests=count,
            candidates=len(actions),
            actions={
                "".join(map(str, pattern)): int(n)
                for pattern, n in zip(patterns, counts, strict=True)
            },
            files=writer.files,
        )
    _write_items(rng, path)
    encoder = make_encoder(prefix=f"{seed}-" if seed else "")
    encoder.save(path / encoder_module.DIRECTORY)
    metadata = Metadata(
        encoder=encoder,
        slate=SLATE,
        candidate_columns=(),
        splits=splits,
        log_statistics={},
        config=configuration.to_json(models.interactrank().data) | {"block_size": block_size},
        digest=f"synthetic-{seed}",
    )
    write_metadata(path, metadata)
    return path


def make_encoder(tables: dict[str, int] = TABLES, prefix: str = "") -> Encoder:
    """Returns the encoder of these examples; its ids are 'user-1', ..., with `prefix` before it."""
    vocabularies = {
        name: Vocabulary(
            pa.array(
                [f"{prefix}{name}-{row}" for row in range(1, rows - HASHED)], pa.large_string()
            ),
            HASHED,
        )
        for name, rows in tables.items()
        if name != "text"
    }
    numeric = NumericStatistics(0.0, 9.0, 4.5, 2.6, 1.5, 0.6)
    return Encoder(
        actions=ACTIONS,
        features=FEATURES,
        cross=CROSS,
        tables=dict(tables),
        out_of_vocabulary=HASHED,
        history_length=HISTORY,
        query_history_length=QUERY_HISTORY,
        timeless=False,
        numeric_statistics={"age": numeric, "price": numeric},
        cross_statistics={name: CrossStatistics(0.5, 0.3) for name in CROSS},
        meaning=encoder_module.meaning(configuration.to_json(models.interactrank().data)),
        fingerprints={name: Fingerprint.of(v.values) for name, v in vocabularies.items()},
        vocabularies=vocabularies,
    )


def _split_columns(rng, count, taste, appeal, first):
    shape = (count, SLATE)
    item = rng.integers(1, ITEMS, shape)
    for row in item:  # an item is at most once in a slate
        row[:] = rng.choice(np.arange(1, ITEMS), SLATE, replace=False)
    mask = rng.random(shape) < 0.9
    mask[:, 0] = True
    user = rng.integers(1, TABLES["user"], count)
    cross = np.where(rng.random((*shape, 2)) < 0.5, rng.random((*shape, 2)), 0) * mask[..., None]
    logit = np.einsum("rd,rcd->rc", taste[user], appeal[item]) + 4 * cross[..., 0] - 1.5
    click = (rng.random(shape) < 1 / (1 + np.exp(-logit))) & mask
    save = click & (rng.random(shape) < 0.4)
    length = rng.integers(0, HISTORY + 1, count)
    present = np.arange(HISTORY) < length[:, None]
    columns = {
        "request_index": np.arange(count),
        "user": user,
        "query": rng.integers(1, TABLES["query"], count),
        "request/country": rng.integers(1, TABLES["country"], count),
        "request/query_text": rng.integers(0, TABLES["text"], (count, 4)),
        "request/mood": rng.normal(size=(count, 3)),
        "request_numeric": rng.uniform(0, 9, (count, 1)),
        "history_item": rng.integers(1, ITEMS, (count, HISTORY)) * present,
        "history_action": rng.integers(1, 3, (count, HISTORY)) * present,
        "history_age": rng.exponential(50, (count, HISTORY)) * present,
        "query_history_item": rng.integers(0, ITEMS, (count, QUERY_HISTORY)),
        "item": item * mask,
        "mask": mask,
        "position": np.broadcast_to(np.arange(SLATE), shape),
        "actions": np.stack([click, save], -1).astype(np.uint8),
        "cross": cross,
    }
    columns = {
        key: value.astype(
            np.float32
            if value.dtype.kind == "f"
            else value.dtype
            if value.dtype in (bool, np.uint8)
            else np.int32
        )
        for key, value in columns.items()
    }
    return columns, None if first else _sparse(rng, columns)


def _sparse(rng, columns):
    """Cross features beyond the slate: those of the slate, and two more items per request."""
    items, values, lengths = [], [], []
    for row in range(len(columns["item"])):
        entries = {
            int(item): value
            for item, value in zip(columns["item"][row], columns["cross"][row], strict=True)
            if item and value.any()
        }
        for item in rng.choice(np.arange(1, ITEMS), 2, replace=False):
            if item not in columns["item"][row]:
                entries[int(item)] = rng.random(2).astype(np.float32)
        order = sorted(entries)
        items += order
        values += [entries[item] for item in order]
        lengths.append(len(order))
    return {
        "group": np.arange(len(lengths), dtype=np.int32),
        "indptr": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "item": np.array(items, np.int32),
        "value": np.array(values, np.float32).reshape(-1, 2),
    }


def _write_items(rng, path):
    (path / "items").mkdir()
    store = {
        "id": np.concatenate([[0], rng.integers(1, TABLES["item"], ITEMS - 1)]),
        "count": np.concatenate([[0], rng.integers(1, 30, ITEMS - 1)]),
        "numeric": rng.uniform(0, 9, (ITEMS, 1)),
        "category": np.concatenate([[0], rng.integers(1, TABLES["category"], ITEMS - 1)]),
        "title": rng.integers(0, TABLES["text"], (ITEMS, 6)),
    }
    store["title"][0] = 0
    for name, value in store.items():
        kind = np.float32 if value.dtype.kind == "f" else np.int32
        np.save(path / "items" / f"{name}.npy", value.astype(kind))
    ids = [None] + [f"item-{row}" for row in range(1, ITEMS)]
    pq.write_table(pa.table({"item_id": ids}), path / "items" / "ids.parquet")
    titles = [None] + [f"word{row % 11} word{row % 7}" for row in range(1, ITEMS)]
    pq.write_table(pa.table({"item_id": ids, "title": titles}), path / "raw" / "items.parquet")
