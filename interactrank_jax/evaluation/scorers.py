"""What can be evaluated: a model or a baseline, each scoring slates and the corpus.

A `Scorer` gives scores of slates `[R, C]` and of the corpus `[R, I]`; everything after that is the
same code (`evaluate.py`), so figures of a model and of BM25 can stand in one table.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.evaluation import baselines
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import Batch, pad_batch
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.ranking.corpus import CorpusScorer
from interactrank_jax.ranking.index import encode_items
from interactrank_jax.ranking.score import QueryEncoder
from interactrank_jax.ranking.slates import make_score_step
from interactrank_jax.runs.run import Run
from interactrank_jax.tables.lookup import item_store


class Scorer(Protocol):
    """Anything that ranks.

    Attributes:
      name: how it is called in tables.
      heads: names of its logits, or () where its score is no logit.
      offsets: per head, what the prior correction subtracts.
      utility: weight of each of its outputs in the ranked score.
    """

    name: str
    heads: tuple[str, ...]
    offsets: tuple[float, ...]
    utility: tuple[float, ...]

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, H]` logits, or `[R, C, 1]` scores."""

    def corpus(self, batch: Batch) -> np.ndarray:
        """Returns the ranked score of every store row, `[R, I]`."""


class ModelScorer:
    """A trained or training model; see `Scorer`. Give it parameters with `use` first."""

    def __init__(self, run: Run, examples: Examples, split: str, parallel: DataParallel):
        self.name = run.config.model.name
        self.heads = run.rule.heads
        self.utility = run.rule.utility
        self.offsets = run.prior_offsets(examples)
        self.rule, self.examples, self.split = run.rule, examples, split
        self.batch_size = int(run.config.evaluate.batch_size)
        self._run, self._parallel = run, parallel
        self._step = parallel.map_rows(make_score_step(run.model, parallel.layout))
        self._store = parallel.replicate(item_store(examples.items))
        self._placed: dict[str, Any] = {}
        self._corpus: tuple[QueryEncoder, CorpusScorer] | None = None

    def use(self, placed: dict[str, Any]) -> "ModelScorer":
        """Scores with {'params', 'tables'}, placed, from now on."""
        self._placed, self._corpus = placed, None
        return self

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns logits `[R, C, H]`."""
        count = len(batch["mask"])
        size = math.ceil(count / self._parallel.size) * self._parallel.size
        return self._step(self._placed, pad_batch(batch, size), self._store)[:count]

    def corpus(self, batch: Batch) -> np.ndarray:
        """Returns `[R, I]`, cross features included where the request has them."""
        if self._corpus is None:
            model = self._parallel.unreplicate(self._placed)
            items = encode_items(self._run, model, item_store(self.examples.items))
            self._corpus = (
                QueryEncoder(self._run, model, self.examples),
                CorpusScorer(self._run.model, model["params"], items, self.utility),
            )
        encoder, scorer = self._corpus
        request = np.maximum(batch["request_index"], 0)
        cross = self.examples.sparse_cross(self.split).padded(request, scorer.num_items)
        return np.array(scorer.scores(encoder(batch), *cross))


class BM25Scorer:
    """BM25 of the query's text against the items' texts; see `Scorer`."""

    name = "bm25"
    heads: tuple[str, ...] = ()
    offsets: tuple[float, ...] = ()
    utility = (1.0,)

    def __init__(self, examples: Examples, split: str):
        items, requests = examples.raw_items(), examples.raw_requests(split)
        item_fields = _text_fields(examples, ("item",))
        query_fields = _text_fields(examples, ("user", "request"))
        if not item_fields or not query_fields:
            raise InputError("BM25 needs a text feature of items and one of requests.")
        self._queries = _join_texts(requests, query_fields)
        self._bm25 = baselines.BM25(_join_texts(items, item_fields))

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]`."""
        return np.take_along_axis(self.corpus(batch), batch["item"], 1)[..., None]

    def corpus(self, batch: Batch) -> np.ndarray:
        """Returns `[R, I]`."""
        return self._bm25.scores(
            [self._queries[index] if index >= 0 else "" for index in batch["request_index"]]
        )


class IQPScorer:
    """One cross feature alone: what history knows, without a model; see `Scorer`.

    Attributes:
      feature: the cross feature's name, see `baselines.iqp_column`.
    """

    heads: tuple[str, ...] = ()
    offsets: tuple[float, ...] = ()
    utility = (1.0,)

    def __init__(
        self, examples: Examples, split: str, positive: Sequence[str] = (), feature: str = ""
    ):
        names = examples.metadata.cross
        self._column = baselines.iqp_column(names, positive, feature)
        self.feature = names[self._column]
        self.name = f"iqp:{feature}" if feature else "iqp"
        self._cross = examples.sparse_cross(split)
        self._num_items = examples.num_items

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]`."""
        return batch["cross"][..., self._column, None]

    def corpus(self, batch: Batch) -> np.ndarray:
        """Returns `[R, I]`; most of it zero."""
        items, values = self._cross.padded(np.maximum(batch["request_index"], 0), self._num_items)
        scores = np.zeros((len(items), self._num_items + 1), np.float32)
        np.put_along_axis(scores, items, values[..., self._column], 1)
        return scores[:, : self._num_items]


BASELINES = ("bm25", "iqp")


def baseline(name: str, rule: LabelRule, examples: Examples, split: str) -> Any:
    """Returns the scorer 'bm25', 'iqp' or 'iqp:FEATURE'.

    Raises:
      InputError: there is no such baseline or feature, or no text or history to rank by.
    """
    kind, colon, feature = name.partition(":")
    if kind not in BASELINES:
        raise InputError(f"--baseline={name}." + did_you_mean(kind, BASELINES))
    if kind == "iqp":
        return IQPScorer(examples, split, rule.positive, feature)
    if colon:
        raise InputError(f"--baseline={name}: '{kind}' takes no feature. Give --baseline={kind}.")
    return BM25Scorer(examples, split)


def _text_fields(examples: Examples, entities: tuple[str, ...]) -> list[str]:
    return [feature.name for feature in examples.metadata.select(entities, "text")]


def _join_texts(table, fields: list[str]) -> list[str]:
    columns = [table[field].to_pylist() for field in fields]
    return [" ".join(text or "" for text in texts) for texts in zip(*columns, strict=True)]
