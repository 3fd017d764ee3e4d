"""What baselines rank by: BM25 on the text, or which cross feature alone.

`baseline_scorers.py` makes scorers of them, which go through the same evaluation as a model.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from interactrank_jax.io.errors import InputError, did_you_mean

# Words of one character too: 'size 8' and 'vitamin c' are searched for.
_TOKENIZATION: dict[str, Any] = {
    "lower": True,
    "token_pattern": r"(?u)\b\w+\b",
    "stopwords": [],
    "show_progress": False,
}


class BM25:
    """Okapi BM25 in Lucene's variant (k1 = 1.5, b = 0.75), through the bm25s library.

    Words are lower-cased runs of letters and digits; no stemming, no stop words. Deterministic.
    """

    def __init__(self, item_texts: Sequence[str | None]):
        """Indexes the corpus.

        Args:
          item_texts: [I] text of each item, None or '' for an item without any. Column i of the
            scores is item i: hand in the item store's order, and no score loses its item.

        Raises:
          InputError: bm25s is not installed, or there is no item.
        """
        try:
            import bm25s
        except ImportError as error:
            raise InputError(
                "BM25 needs the package bm25s, which is not installed. Install it with "
                "`pip install interactrank-jax[data]`."
            ) from error
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
        if not len(item_texts):
            raise InputError("item_texts is empty. Expected the text of each item of the corpus.")
        self._items = len(item_texts)
        self._tokenize = bm25s.tokenize
        corpus = self._tokenize([text or "" for text in item_texts], **_TOKENIZATION)
        self._vocabulary: dict[str, int] = corpus.vocab
        self._index = bm25s.BM25()
        if self._vocabulary:
            self._index.index(corpus, show_progress=False)

    def scores(self, query_texts: Sequence[str | None]) -> np.ndarray:
        """Scores the whole corpus for each query; tile the queries to bound memory.

        For the candidates of a slate, index the result: scores[row, item].

        Args:
          query_texts: [R]. Words that no item has are ignored; without any other word all scores
            are 0.

        Returns:
          [R, I] float32, at least 0.
        """
        texts = [text or "" for text in query_texts]
        words = self._tokenize(texts, return_ids=False, **_TOKENIZATION)
        scores = np.zeros((len(query_texts), self._items), np.float32)
        for row, query in enumerate(words):
            known = [self._vocabulary[word] for word in query if word in self._vocabulary]
            if known:
                scores[row] = self._index.get_scores_from_ids(known)
        return scores


def iqp_column(names: Sequence[str], positive: Sequence[str] = (), name: str = "") -> int:
    """Returns the column of the cross feature that the IQP baseline ranks by.

    By default that of the first action in `positive` that has an unsegmented share, over its
    longest window; else of any share, else of any rate, else the first feature.

    Args:
      names: [K] names of the cross features, 'kind:action:window_days[:segment]'.
      positive: actions that count as engagement, `config.label.positive`.
      name: the one to use instead.

    Raises:
      InputError: there is no such feature, or none at all.
    """
    if not names:
        raise InputError(
            "--baseline=iqp ranks by a cross feature, and these examples have none: prepare with "
            "config.data.cross.features, or take --baseline=bm25."
        )
    if name:
        if name not in names:
            raise InputError(f"no cross feature '{name}'.{did_you_mean(name, names)}")
        return list(names).index(name)

    def preference(column: int) -> tuple[float, ...]:
        kind, action, days, *segment = names[column].split(":")
        kinds, actions = ("share", "rate"), list(positive)
        kind_rank = kinds.index(kind) if kind in kinds else len(kinds)
        if kind_rank == len(kinds):
            return kind_rank, column
        action_rank = actions.index(action) if action in actions else len(actions)
        is_wanted = action in actions and not segment
        return kind_rank, not is_wanted, action_rank, bool(segment), -int(days), column

    return min(range(len(names)), key=preference)


POPULARITY_KINDS = ("item_share", "item_rate")


def popularity_column(names: Sequence[str], positive: Sequence[str], name: str = "") -> int | None:
    """Returns the column of the cross feature that says how popular an item is.

    By default the item_share of the first action in `positive` that has an unsegmented one, over
    its longest window: within a request it orders items by their engagements.

    Args:
      names: [K] names of the cross features, 'kind:action:window_days[:segment]'.
      positive: actions that count as engagement, `config.label.positive`.
      name: the one to use instead, an item_share or an item_rate.

    Returns:
      None where there is no such feature.

    Raises:
      InputError: the feature that is named is not there, or is none of items.
    """
    of_items = [other for other in names if other.split(":")[0] in POPULARITY_KINDS]
    if name:
        if name not in of_items:
            raise InputError(
                f"no cross feature '{name}' of kind {' or '.join(POPULARITY_KINDS)}."
                + (did_you_mean(name, of_items) if of_items else " These examples have none.")
            )
        return list(names).index(name)
    choices = []
    for column, other in enumerate(names):
        kind, action, days, *segment = other.split(":")
        if kind == "item_share" and action in positive and not segment:
            choices.append((list(positive).index(action), -int(days), column))
    return min(choices)[-1] if choices else None
