"""What can be evaluated: anything that scores slates, and perhaps the corpus.

Everything after the scores is the same code, so that figures of a model, of BM25 and of scores made
elsewhere can stand in one table.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np

from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.examples.format import PADDING, Examples
from interactrank_jax.examples.input import Batch, pad_batch, train_columns
from interactrank_jax.io import interrupts
from interactrank_jax.ranking.corpus import CorpusScorer
from interactrank_jax.ranking.slates import make_encoding_step, make_score_step
from interactrank_jax.runs.run import Run
from interactrank_jax.serving.probabilities import Calibration
from interactrank_jax.tables.lookup import item_store


class Scorer(Protocol):
    """Anything that ranks.

    Attributes:
      name: how it is called in tables.
      heads: names of its logits, or () where its score is no logit.
      calibration: what turns its logits into probabilities.
      utility: weight of each of its outputs in the ranked score.
      has_corpus: whether it scores more than slates; `corpus` is not called where it does not.
    """

    name: str
    heads: tuple[str, ...]
    calibration: Calibration
    utility: tuple[float, ...]
    has_corpus: bool

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, H]` logits, or `[R, C, 1]` scores."""

    def corpus(self, batch: Batch, at_once: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields ranked scores of every store row, of `at_once` requests of the batch at a time.

        Yields:
          (first row of the batch, scores `[r, I]`, which the caller may change); a batch's rows in
          order, padding perhaps left out.
        """


class ModelScorer:
    """A trained or training model; see `Scorer`. Give it parameters with `use` first.

    `prior` is the calibration of a model of which nothing was fitted.

    One step does it all, for compiling a second one would take longer than most evaluations: it
    scores slates, and what it makes of their requests and items on the way scores the corpus.
    """

    def __init__(
        self,
        run: Run,
        examples: Examples,
        split: str,
        parallel: DataParallel,
        has_corpus: bool = False,
    ):
        """Prepares the step, which is compiled when it is first used.

        Args:
          run: whose model.
          examples, split: what is scored.
          parallel: on which devices.
          has_corpus: whether the corpus is scored too.
        """
        self.name = run.config.model.name
        self.heads = run.rule.heads
        self.utility = run.rule.utility
        self.prior = self.calibration = run.prior_correction(examples)
        self.has_corpus = has_corpus
        self.rule, self.examples, self.split = run.rule, examples, split
        self.batch_size = int(run.config.evaluate.batch_size)
        self._model, self._parallel = run.model, parallel
        make_step = make_encoding_step if has_corpus else make_score_step
        self._step = parallel.map_rows(make_step(run.model, parallel.layout))
        self._store = parallel.replicate(item_store(examples.items))
        # It is compiled for the columns that it is given: always the same ones.
        self._columns = train_columns(examples)
        self._placed: dict[str, Any] = {}
        self._corpus: CorpusScorer | None = None

    def use(self, placed: dict[str, Any], calibration: Calibration | None = None) -> "ModelScorer":
        """Scores with {'params', 'tables'}, placed, from now on.

        Args:
          placed: the model.
          calibration: of that model; the prior correction alone by default.
        """
        self._placed, self._corpus = placed, None
        self.calibration = self.prior if calibration is None else calibration
        return self

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns logits `[R, C, H]`."""
        return self._run(batch)[0] if self.has_corpus else self._run(batch)

    def _run(self, batch: Batch) -> Any:
        """Returns what the step makes of a batch."""
        count = len(batch["mask"])
        size = math.ceil(count / self._parallel.size) * self._parallel.size
        columns = {name: batch[name] for name in self._columns}
        output = self._step(self._placed, pad_batch(columns, size), self._store)
        return jax.tree.map(lambda leaf: leaf[:count], output)

    def corpus(self, batch: Batch, at_once: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields `[r, I]`, cross features included where the request has them; see `Scorer`."""
        if self._corpus is None:
            params = self._parallel.unreplicate(self._placed["params"])
            items = self._encode_items(batch)
            self._corpus = CorpusScorer(self._model, params, items, self.utility)
        scorer, (_, query, _) = self._corpus, self._run(batch)
        cross = self.examples.sparse_cross(self.split)
        count = int((batch["request_index"] >= 0).sum())
        for start in range(0, count, at_once):
            # The last rows are scored with some before them: one shape, one compilation.
            first = max(0, min(start, len(batch["mask"]) - at_once))
            rows = slice(first, first + at_once)
            request = np.maximum(batch["request_index"][rows], 0)
            padded = cross.padded(request, scorer.num_items)
            scores = scorer.scores(jax.tree.map(lambda leaf, rows=rows: leaf[rows], query), *padded)
            yield start, scores[start - first :]

    def _encode_items(self, batch: Batch) -> Any:
        """Returns the representation of every store row `[I, ...]`, in slates of some requests."""
        shape, count = batch["item"].shape, self.examples.num_items
        parts = []
        for start in range(0, count, batch["item"].size):
            interrupts.check()
            rows = np.arange(start, start + batch["item"].size, dtype=batch["item"].dtype)
            slates = np.where(rows < count, rows, PADDING).reshape(shape)
            encoded = self._run({**batch, "item": slates})[2]
            parts.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), encoded))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)
