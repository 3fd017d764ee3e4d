"""Input: Grain over blocks for training, every row exactly once for evaluation."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import grain
import numpy as np

from interactrank_jax.examples.blocks import decode_block
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError

Batch = dict[str, np.ndarray]

# Columns of every example that training reads; request features are added by `train_columns`.
_CORE = (
    "user",
    "query",
    "request_numeric",
    "history_item",
    "history_action",
    "history_age",
    "query_history_item",
    "item",
    "mask",
    "actions",
    "cross",
)
EVALUATION_COLUMNS = ("request_index", "item", "mask", "actions", "cross")


def train_columns(examples: Examples) -> tuple[str, ...]:
    """Returns the columns a training step needs."""
    features = examples.metadata.select(("user", "request"))
    return _CORE + tuple(
        f"request/{feature.name}" for feature in features if feature.kind != "numeric"
    )


def train_iterator(
    examples: Examples,
    batch_size: int,
    seed: int,
    *,
    names: Sequence[str] | None = None,
    shard: int = 0,
    num_shards: int = 1,
    window: int = 8,
    threads: int = 2,
) -> grain.DatasetIterator:
    """Returns an endless iterator of training batches; its state is exact at every position.

    Blocks are shuffled each epoch; the examples of `window` blocks are permuted together (the rows
    lie permuted on disk already). Reading blocks, not examples, is what makes it fast.

    Args:
      examples: prepared examples.
      batch_size: requests per batch, R: arrays are `[R, ...]`.
      seed: of the order.
      names: columns, `train_columns` by default.
      shard, num_shards: this process's share of the blocks.
      window: blocks permuted together.
      threads: reading threads.

    Raises:
      InputError: fewer blocks than shards; a file is absent or damaged (also while iterating).
    """
    source = _BlockSource(
        examples.block_files("train"),
        names or train_columns(examples),
        examples.block_check("train"),
    )
    if len(source) < num_shards:
        raise InputError(
            f"{examples.path}/train has {len(source)} blocks for {num_shards} processes. Prepare "
            f"with a smaller config.data.block_size."
        )
    dataset = grain.MapDataset.source(source)[shard::num_shards]
    window = min(window, len(dataset))
    dataset = (
        dataset.seed(seed)
        .shuffle()
        .repeat(1 << 30)  # for ever; without a number, batches of one block overflow Grain's count
        .batch(window, batch_fn=_concatenate)
        .random_map(_permute)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1))
    )
    return iter(
        grain.experimental.RebatchIterDataset(dataset, batch_size=batch_size, drop_remainder=True)
    )


class _BlockSource:
    """The blocks of some files for Grain, decoded and checked; what is damaged is named."""

    def __init__(self, paths: Sequence[Path], names: Sequence[str], check: Callable[[Batch], None]):
        for path in paths:
            if not path.is_file():
                raise InputError(f"{path} does not exist: prepare the examples again.")
        self._directory, self._names, self._check = paths[0].parent, names, check
        with self._errors():
            self._records = grain.sources.ArrayRecordDataSource([str(path) for path in paths])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Batch:
        with self._errors():
            columns = decode_block(self._records[index], self._names)
            self._check(columns)
            return columns

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(f"{self._directory}: {error}") from error
        except (RuntimeError, ValueError, IndexError) as error:
            raise InputError(
                f"{self._directory}: a block is damaged ({error}): prepare the examples again."
            ) from error


def evaluation_batches(
    examples: Examples,
    split: str,
    batch_size: int,
    *,
    names: Sequence[str] | None = None,
    shard: int = 0,
    num_shards: int = 1,
) -> Iterator[Batch]:
    """Yields every example of this shard exactly once, in order.

    The last batches are padded to `batch_size`: padding has an all-false mask and request_index
    -1. All shards yield the same number of batches.
    """
    _check_batch_size(batch_size)
    if names is None:
        names = tuple(dict.fromkeys((*train_columns(examples), *EVALUATION_COLUMNS)))
    total = evaluation_steps(examples, split, batch_size, num_shards)
    blocks = (
        block if index % num_shards == shard else _empty_like(block)
        for index, block in enumerate(examples.blocks(split, names))
    )
    batch: Batch | None = None
    for batch in _rebatched(blocks, batch_size):
        if len(batch["mask"]) == batch_size:
            total -= 1
            yield batch
    if batch is None:
        raise InputError(f"{examples.path}: split '{split}' has no blocks. Prepare again.")
    for _ in range(total):
        yield pad_batch(batch, batch_size)
        batch = _empty_like(batch)


def request_batches(
    examples: Examples, split: str, batch_size: int, wanted: np.ndarray | None = None
) -> Iterator[Batch]:
    """Yields every request exactly once, padded as by `evaluation_batches`.

    A request whose candidates fill several examples is taken from the first of them; candidate
    columns are that example's and stand for nothing more.

    Args:
      examples, split: whose requests.
      batch_size: requests at a time.
      wanted: `[requests]` bool: those to yield, by request_index; None for all.
    """
    _check_batch_size(batch_size)
    names = (*train_columns(examples), "request_index")
    blocks = examples.blocks(split, names)
    seen = np.zeros(examples.split(split).requests, bool) if wanted is None else ~wanted
    for batch in _rebatched(_first_rows(blocks, seen), batch_size):
        if len(batch["mask"]):
            yield pad_batch(batch, batch_size)


def _first_rows(blocks: Iterable[Batch], seen: np.ndarray) -> Iterator[Batch]:
    """Yields of each block the rows that are the first of a request not yet `seen`, perhaps none.

    `seen` is changed.
    """
    for block in blocks:
        request, first = np.unique(block["request_index"], return_index=True)
        first = np.sort(first[~seen[request]])
        seen[request] = True
        yield {key: value[first] for key, value in block.items()}


def _rebatched(blocks: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Yields the rows of blocks in batches of `size`, and at the end what is left, perhaps no row.

    Grain's RebatchIterDataset takes neither a generator nor blocks without rows.
    """
    pending: list[Batch] = []
    count = 0
    for block in blocks:
        pending.append(block)
        count += len(block["mask"])
        if count < size:
            continue
        merged = _concatenate(pending)
        whole = count - count % size
        for start in range(0, whole, size):
            yield {key: value[start : start + size] for key, value in merged.items()}
        pending, count = [{key: value[whole:] for key, value in merged.items()}], count - whole
    if pending:
        yield _concatenate(pending)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"a batch of {batch_size} requests. Expected at least 1.")


def evaluation_steps(examples: Examples, split: str, batch_size: int, num_shards: int) -> int:
    """Returns the number of batches each shard yields."""
    count = examples.split(split).examples
    blocks = sum(number for _, number in examples.split(split).files)
    block_size = int(examples.metadata.config["block_size"])
    largest = min(count, math.ceil(blocks / num_shards) * block_size)
    return max(1, math.ceil(largest / batch_size))


def pad_batch(batch: Batch, size: int) -> Batch:
    """Pads `[n, ...]` arrays with zero rows to `[size, ...]`; request_index is padded with -1."""
    missing = size - len(batch["mask"])
    if not missing:
        return batch
    padded = {
        key: np.concatenate([value, np.zeros((missing, *value.shape[1:]), value.dtype)])
        for key, value in batch.items()
    }
    if "request_index" in padded:
        padded["request_index"][size - missing :] = -1
    return padded


def _empty_like(batch: Batch) -> Batch:
    return {key: value[:0] for key, value in batch.items()}


def _concatenate(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return dict(batches[0])
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def _permute(batch: Batch, rng: np.random.Generator) -> Batch:
    order = rng.permutation(len(batch["mask"]))
    return {key: value[order] for key, value in batch.items()}
