"""Batch scoring: requests and an index in, the best items of each request out, as Parquet."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.examples.format import NO_GROUP, Examples
from interactrank_jax.examples.input import evaluation_batches, request_batches
from interactrank_jax.io import files, interrupts, outputs
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.ranking.corpus import CorpusScorer, row_logits
from interactrank_jax.ranking.index import Index
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.lookup import embed_requests, item_store

CANDIDATES = ("slate", "corpus")


class QueryEncoder:
    """Encodes the requests of a batch: `[R]` rows in, a query representation out."""

    def __init__(self, run: Run, model: dict[str, Any], examples: Examples):
        self._model = jax.device_put(model)
        self._store = jax.device_put(item_store(examples.items))

        @jax.jit
        def encode(model, store, batch):
            request = embed_requests(model["tables"], batch, store, run.inputs)
            return run.model.apply({"params": model["params"]}, request, method="encode_query")

        self._encode = encode

    def __call__(self, batch: dict[str, np.ndarray]):
        """Returns the representation, a pytree with leading axis `[R]`, on device."""
        return self._encode(self._model, self._store, batch)


# request, store row, rank, score, logits of each head
Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class BatchScorer:
    """Scores the requests of one split with an index.

    Attributes:
      k: items kept per request.
      batch_size: requests at a time.
    """

    def __init__(
        self,
        run: Run,
        model: dict[str, Any],
        index: Index,
        examples: Examples,
        split: str,
        k: int,
        batch_size: int,
    ):
        self._run, self._model, self._index = run, model, index
        self._examples, self._split = examples, split
        self._encode = QueryEncoder(run, model, examples)
        self.k, self.batch_size = k, batch_size

    def slate(self) -> Iterator[Part]:
        """Yields the logged candidates, in one part."""
        run = self._run
        utility = np.asarray(run.rule.utility, np.float32)
        items_on_device = jax.device_put(self._index.items)

        parts = []
        for batch in evaluation_batches(self._examples, self._split, self.batch_size):
            interrupts.check()
            logits = row_logits(
                run.model,
                self._model["params"],
                self._encode(batch),
                items_on_device,
                batch["item"],
                batch["cross"],
            )
            mask = batch["mask"]
            request = np.broadcast_to(batch["request_index"][:, None], mask.shape)
            parts.append((request[mask], batch["item"][mask], np.asarray(logits)[mask]))
        request, item, logits = (np.concatenate(column) for column in zip(*parts, strict=True))
        value = logits @ utility
        # Candidates of one request may come from several examples.
        order = np.lexsort((item, -value, request))
        request, item, value, logits = (a[order] for a in (request, item, value, logits))
        starts = np.flatnonzero(np.r_[True, request[1:] != request[:-1]])
        rank = np.arange(len(request)) - np.repeat(starts, np.diff(np.r_[starts, len(request)])) + 1
        kept = rank <= self.k
        yield request[kept], item[kept], rank[kept], value[kept], logits[kept]

    def corpus(self) -> Iterator[Part]:
        """Yields the top k of the whole corpus, a part per batch of requests."""
        run = self._run
        scorer = CorpusScorer(run.model, self._model["params"], self._index.items, run.rule.utility)
        cross = self._examples.sparse_cross(self._split)
        if missing := int((cross.group == NO_GROUP).sum()):
            raise InputError(
                f"{self._examples.path}: {missing:,} of {len(cross.group):,} requests of split "
                f"'{self._split}' have no cross features beyond their slate, so that they cannot "
                f"be scored with the corpus. Prepare with --config.data.cross.corpus_requests=0."
            )
        for batch in request_batches(self._examples, self._split, self.batch_size):
            interrupts.check()
            request = batch["request_index"]
            real = request >= 0
            padded = cross.padded(np.where(real, request, 0), scorer.num_items)
            query = self._encode(batch)
            value, item = scorer.top_k(query, *padded, self.k)
            logits = scorer.logits(query, item, *padded)
            rank = np.broadcast_to(np.arange(1, item.shape[1] + 1), item.shape)
            request = np.broadcast_to(request[:, None], item.shape)
            yield (
                request[real].reshape(-1),
                item[real].reshape(-1),
                rank[real].reshape(-1),
                value[real].reshape(-1),
                logits[real].reshape(-1, logits.shape[-1]),
            )


def score(
    workdir: files.PathLike,
    index_path: files.PathLike,
    examples_path: files.PathLike,
    out: files.PathLike,
    *,
    split: str = "test",
    k: int = 100,
    candidates: str = "slate",
    batch_size: int = 64,
) -> dict[str, int]:
    """Writes OUT/scores.parquet: request_id, item_id, rank (from 1), score, probability_HEAD.

    Ids are as in the log. There is one column of probabilities per head, calibrated as in
    evaluation.

    Args:
      workdir, index_path, examples_path: a run, its index, the examples with the requests.
      out: a new directory.
      split: whose requests.
      k: items kept per request.
      candidates: 'slate' scores the candidates that the log has, 'corpus' every item of the index.
      batch_size: requests at a time.

    Returns:
      How many requests and rows were written.

    Raises:
      InputError: an index of another model or of other examples, examples of another encoder, an
        unknown split or candidates.
    """
    if candidates not in CANDIDATES:
        raise InputError(f"--candidates={candidates}." + did_you_mean(candidates, CANDIDATES))
    if k < 1:
        raise InputError(f"--k={k}. Expected at least 1 item per request.")
    outputs.output_directory(out, workdir, examples_path, index_path)
    run, examples = Run.open(workdir), Examples(examples_path)
    examples = run.check_examples(examples)
    examples.split(split)
    model, step = run.restore_model()
    calibration = run.calibration(step)
    index = Index(index_path, run, model, examples)
    scorer = BatchScorer(run, model, index, examples, split, k, batch_size)
    request_ids = examples.raw_requests(split)["request_id"]

    def tables(parts: Iterable[Part]) -> Iterator[pa.Table]:
        for request, item, rank, value, logits in parts:
            yield pa.table(
                {
                    "request_id": request_ids.take(pa.array(request)),
                    "item_id": index.ids.take(pa.array(item)),
                    "rank": pa.array(rank, pa.int32()),
                    "score": pa.array(value, pa.float32()),
                    **calibration.columns(logits),
                }
            )

    parts = scorer.slate() if candidates == "slate" else scorer.corpus()
    with interrupts.deferred(), outputs.new_directory(out) as directory:
        summary = _write_tables(tables(parts), directory / "scores.parquet")
        files.write_json(
            directory / "metadata.json",
            {**summary, "split": split, "k": k, "candidates": candidates, "index": index.metadata},
        )
    return summary


def _write_tables(tables: Iterable[pa.Table], file: Path) -> dict[str, int]:
    """Writes tables to one file; returns how many requests and rows they have."""
    writer, requests, rows = None, 0, 0
    for table in tables:
        if writer is None:
            writer = pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
        requests += pc.count_distinct(table["request_id"]).as_py()
        rows += len(table)
    if writer is not None:
        writer.close()
    return {"requests": requests, "rows": rows}
