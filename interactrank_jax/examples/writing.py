"""Writes the splits: examples of each bucket as blocks, and the requests as they came."""

import concurrent.futures
import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank_jax.examples import splits
from interactrank_jax.examples.assemble import AssembledBucket, Assembler, action_patterns
from interactrank_jax.examples.blocks import BlockWriter
from interactrank_jax.examples.candidates import Candidates
from interactrank_jax.examples.encoder import CrossStatistics, Encoder, NumericStatistics
from interactrank_jax.examples.fitting import Fitted
from interactrank_jax.examples.format import Split
from interactrank_jax.examples.ordered import OrderedLog
from interactrank_jax.examples.plan import Plan
from interactrank_jax.examples.protocols import LeakingMeans
from interactrank_jax.examples.statistics import CrossSums, all_numeric_statistics
from interactrank_jax.examples.survey import Sameness, few_candidates


@dataclasses.dataclass(frozen=True)
class Written:
    """Statistics collected while the examples were written.

    Attributes:
      sizes: of each split.
      numeric: `[E, Fn]` numeric features of the requests of training, in the order of requests.
      cross: statistics of the cross features in training.
      equal, constant: columns of the cross features, see `Sameness`.
      few: by split, how many requests have few candidates, see `Survey`.
      candidate_columns: which optional columns the log has.
    """

    sizes: dict[str, Split]
    numeric: np.ndarray
    cross: tuple[CrossStatistics, ...]
    equal: list[list[int]]
    constant: list[int]
    few: dict[str, int]
    candidate_columns: tuple[str, ...]


class _OfTraining:
    """What the training split's examples tell, bucket by bucket; of `features` cross features."""

    def __init__(self, features: int):
        self._sums, self._same = CrossSums(features), Sameness(features)
        self._numeric: list[np.ndarray] = []
        self._requests: list[np.ndarray] = []

    def add(self, assembled: AssembledBucket) -> None:
        """Adds the examples of a bucket."""
        cross = assembled.of_candidates["cross"]
        self._sums.add(cross)
        self._same.add(cross)
        self._numeric.append(assembled.of_examples["request_numeric"])
        self._requests.append(assembled.slates.request)

    def written(self) -> dict[str, Any]:
        """Returns what `Written` says of training."""
        numeric = np.zeros((0, 0), np.float32)
        cross: tuple[CrossStatistics, ...] = ()
        if self._numeric:  # else an encoder was given, so that there is nothing to fit
            # Sums of floats depend on their order, which must not be that of the buckets.
            order = np.argsort(np.concatenate(self._requests), kind="stable")
            numeric, cross = np.concatenate(self._numeric)[order], self._sums.statistics()
        same = {"equal": self._same.equal, "constant": self._same.constant}
        return {"numeric": numeric, "cross": cross, **same}


def write_splits(
    assembler: Assembler,
    candidates_of: Iterator[Candidates],
    directory: Path,
    block_size: int,
    progress: Callable[[str], None],
) -> Written:
    """Writes the blocks of all splits.

    Args:
      assembler: makes them.
      candidates_of: the candidates of each bucket, in order.
      directory: of the examples.
      block_size: examples in a block.
      progress: called with the name of each phase as it begins.
    """
    plan, rows = assembler.plan, assembler.ordered.rows
    training = _OfTraining(len(plan.cross.specs))
    sizes, few, columns = {}, dict.fromkeys(rows.requests, 0), {}
    for name in rows.requests:
        progress(f"write {name}")
        examples = candidate_count = 0
        patterns: Counter[str] = Counter()
        of_split = [bucket for bucket in rows.buckets if bucket.split == name]
        with BlockWriter(directory / name) as writer, _InBackground(writer.write) as write:
            for bucket in of_split:
                candidates = next(candidates_of)
                assembled = assembler.bucket(candidates, name)
                slates = assembled.slates
                order = splits.example_order(bucket, len(slates), plan.seed)
                for block in assembler.blocks(assembled, order, block_size):
                    write(block)
                examples += len(order)
                candidate_count += len(candidates.item)
                patterns.update(action_patterns(candidates.actions))
                few[name] += few_candidates(slates.request, slates.length)[0]
                columns = candidates.optional
                if name == "train":
                    training.add(assembled)
        sizes[name] = Split(
            examples=examples,
            requests=len(rows.requests[name]),
            candidates=candidate_count,
            actions=dict(sorted(patterns.items())),
            files=writer.files,
        )
    return Written(sizes, **training.written(), few=few, candidate_columns=tuple(columns))


class _InBackground:
    """Calls a function in another thread, one call after the other; a context manager.

    Compressing a block leaves Python's lock to the making of the next ones. What a call raises is
    raised by a later one, or at the end.
    """

    def __init__(self, function: Callable[[Any], None], most_pending: int = 4):
        self._function, self._most_pending = function, most_pending
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: deque[concurrent.futures.Future] = deque()

    def __call__(self, value: Any) -> None:
        if len(self._pending) == self._most_pending:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._function, value))

    def __enter__(self) -> "_InBackground":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info) -> None:
        try:
            self._pool.shutdown(cancel_futures=kind is not None)
        except BaseException:  # a signal: whoever comes next finds no call at work
            self._pool.shutdown(cancel_futures=True)
            raise
        if kind is None:
            for call in self._pending:
                call.result()


def write_raw_requests(ordered: OrderedLog, leaking: LeakingMeans | None, directory: Path) -> None:
    """Writes the requests of each split as they came, in their order."""
    requests, rows = ordered.requests, ordered.rows
    writers: dict[str, pq.ParquetWriter] = {}
    try:
        for first, table in requests.batches():
            for name, chosen in rows.requests.items():
                low, high = np.searchsorted(chosen, [first, first + len(table)])
                part = table.take(pa.array(chosen[low:high] - first))
                if leaking is not None:
                    part = leaking.with_users(part, requests.user[chosen[low:high]], name)
                if name not in writers:
                    file = directory / f"{name}.parquet"
                    writers[name] = pq.ParquetWriter(file.absolute(), part.schema)
                writers[name].write_table(part)
    finally:
        for writer in writers.values():
            writer.close()


def finish_encoder(
    config: Mapping[str, Any],
    plan: Plan,
    fitted: Fitted,
    written: Written,
    old: Encoder | None,
) -> Encoder:
    """Returns the encoder, with the statistics of the training examples.

    Args:
      config: `config.data` as JSON has it.
      plan: the same, checked.
      fitted: what was fitted before.
      written: statistics collected while the examples were written.
      old: an encoder to extend: a model reads numbers by the statistics that it was trained with.
    """
    names = [spec.name for spec in plan.cross.specs]
    if old is not None:
        statistics: tuple[dict[str, NumericStatistics], dict[str, CrossStatistics]] = (
            old.numeric_statistics,
            old.cross_statistics,
        )
    else:
        numeric = all_numeric_statistics(
            fitted.features, written.numeric, fitted.items.numeric, fitted.item_counts[1:]
        )
        statistics = numeric, dict(zip(names, written.cross, strict=True))
    return Encoder.of_config(
        config,
        fitted.fitter.vocabularies,
        actions=plan.state.actions,
        features=fitted.features,
        cross=tuple(names),
        tables=fitted.tables,
        timeless=plan.timeless,
        numeric_statistics=statistics[0],
        cross_statistics=statistics[1],
        mean_rates=fitted.means.to_json(),
    )
