"""Slices of a split: figures of its requests, or of its candidates, of one kind at a time.

A slice of requests (query_popularity, user, user_history, features of users and requests) has whole
requests. A slice of items (item_age, features of items) has candidates: each request is then ranked
among its candidates of that slice alone, and a request with none there does not count.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank_jax import metrics
from interactrank_jax.evaluation.corpus_ranks import CorpusRanks
from interactrank_jax.evaluation.figures import measured
from interactrank_jax.evaluation.rows import Rows
from interactrank_jax.examples.format import REQUEST_ENTITIES, Examples
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.values import as_values, index_in

DECILES = 10
MOST_CATEGORIES = 20  # a feature's most frequent ones have slices of their own
NOT_GIVEN, OTHERS = "(none)", "(others)"
SECONDS_PER_DAY = 86_400
_AGES = (1, 7, 30, 90, 365)  # days


@dataclasses.dataclass(frozen=True)
class Slicing:
    """A way to cut a split.

    Attributes:
      name: as `--by` has it.
      labels: of the slices.
      codes: from the rows `[n]` to the slice of each, a place in `labels`.
    """

    name: str
    labels: tuple[str, ...]
    codes: Callable[[Rows], np.ndarray]


def slicings(by: Sequence[str], examples: Examples, split: str) -> list[Slicing]:
    """Returns the ways to cut a split that `--by` names.

    Raises:
      InputError: one is unknown or named twice, or the examples do not hold what it needs.
    """
    features = {
        feature.name: feature.entity
        for feature in examples.metadata.select((*REQUEST_ENTITIES, "item"), "categorical")
    }
    result = []
    for name in by:
        if by.count(name) > 1:
            raise InputError(f"--by names '{name}' twice. Name it once.")
        if name in _MAKERS:
            result.append(_MAKERS[name](examples, split))
        elif name not in features:
            raise InputError(f"--by={name}." + did_you_mean(name, [*_MAKERS, *features]))
        elif features[name] == "item":
            codes, labels = _categories(examples.raw_items()[name])
            result.append(_of_items(name, labels, codes))
        else:
            codes, labels = _categories(examples.raw_requests(split)[name])
            result.append(_of_requests(name, labels, codes))
    return result


def slice_figures(
    slicing: Slicing,
    rows: Rows,
    engaged: np.ndarray,
    logits: np.ndarray | None,
    ranks: CorpusRanks | None,
    replicates: int,
) -> list[dict[str, Any]]:
    """Returns the figures of each slice that has rows, in the order of its labels.

    Returns:
      `slice` (its label), `requests`, `candidates`, `engaged`, and `metrics` and `intervals` as of
      all rows. Recall is over the slice's engaged items, ranked among all items.
    """
    codes, result = slicing.codes(rows), []
    for code, label in enumerate(slicing.labels):
        kept = codes == code
        if not kept.any():
            continue
        prepared, requests = metrics.statistics(
            rows.request[kept],
            rows.score[kept],
            engaged[kept],
            None if logits is None else logits[kept],
        )
        figures = measured(prepared, requests, replicates)
        if ranks is not None:
            figures |= ranks.figures(replicates, kept)
        result.append(
            {
                "slice": label,
                "requests": requests,
                "candidates": int(kept.sum()),
                "engaged": int(engaged[kept].sum()),
                "metrics": {name: value for name, (value, _, _) in figures.items()},
                "intervals": {name: bounds for name, (_, *bounds) in figures.items()},
            }
        )
    return result


def _of_requests(name: str, labels: Sequence[str], codes: np.ndarray) -> Slicing:
    return Slicing(name, tuple(labels), lambda rows: codes[rows.request])


def _of_items(name: str, labels: Sequence[str], codes: np.ndarray) -> Slicing:
    return Slicing(name, tuple(labels), lambda rows: codes[rows.item])


def _categories(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Returns codes `[N]` of a column and their labels, the most frequent first."""
    encoded = as_values(column).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    counts = np.bincount(codes[codes >= 0], minlength=len(encoded.dictionary))
    order = np.argsort(-counts, kind="stable")
    labels = [str(value) for value in encoded.dictionary.take(pa.array(order)).to_pylist()]
    place = np.empty(len(order) + 1, np.int64)
    place[order] = np.arange(len(order))
    if len(labels) > MOST_CATEGORIES:
        labels = [*labels[:MOST_CATEGORIES], OTHERS]
        place = np.minimum(place, MOST_CATEGORIES)
    place[-1] = len(labels)  # of code -1
    return place[codes], [*labels, NOT_GIVEN]


def _query_popularity(examples: Examples, split: str) -> Slicing:
    """Cuts by how many requests of the training split had the query, into tenths of the requests.

    Queries that it did not have are a slice of their own.
    """
    trained = as_values(_column(examples, "train", "query_id")).value_counts()
    asked = as_values(_column(examples, split, "query_id"))
    place = index_in(asked, trained.field("values"))
    counts = np.append(trained.field("counts").to_numpy(), 0)[place]
    seen = np.sort(counts[counts > 0])
    last = len(seen) * np.arange(1, DECILES + 1) // DECILES - 1
    # The highest count of each slice, 0 first: requests of one count share a slice.
    edges = np.unique(np.append(seen[last] if len(seen) else seen, 0))
    lowest = [0, *edges[:-1] + 1]
    labels = [
        f"{low:,}" if low == high else f"{low:,} to {high:,}"
        for low, high in zip(lowest, edges, strict=True)
    ]
    return _of_requests("query_popularity", labels, np.searchsorted(edges, counts))


def _item_age(examples: Examples, split: str) -> Slicing:
    """Cuts by the days between an item's created_at and the request."""
    items = examples.raw_items()
    if examples.metadata.timeless or "created_at" not in items.column_names:
        lacks = "time" if examples.metadata.timeless else "column 'created_at' of items"
        raise InputError(
            f"--by=item_age: {examples.path} has no {lacks}. Expected examples, made by this "
            f"release, of a log with both."
        )
    created = items["created_at"].cast(pa.float64()).fill_null(float("nan")).to_numpy()
    seconds = _column(examples, split, "timestamp").to_numpy()
    labels = ["before it was created", f"less than {_AGES[0]} day"]
    labels += [f"{low} to {high} days" for low, high in itertools.pairwise(_AGES)]
    labels += [f"{_AGES[-1]} days and more", NOT_GIVEN]

    def codes(rows: Rows) -> np.ndarray:
        days = (seconds[rows.request] - created[rows.item]) / SECONDS_PER_DAY
        code = np.searchsorted((0, *_AGES), days, side="right")
        return np.where(np.isnan(days), len(labels) - 1, code)

    return Slicing("item_age", tuple(labels), codes)


def _user(examples: Examples, split: str) -> Slicing:
    """Cuts by whether the encoder's vocabulary has the user: seen often enough in training."""
    known = 1 + examples.encoder.out_of_vocabulary
    codes = _of_examples(examples, split, "user", lambda rows: rows >= known)
    return _of_requests("user", ("new", "known"), codes)


def _user_history(examples: Examples, split: str) -> Slicing:
    """Cuts by whether the user did anything before the request."""
    codes = _of_examples(examples, split, "history_item", lambda rows: (rows > 0).any(1))
    return _of_requests("user_history", ("without", "with"), codes)


def _of_examples(
    examples: Examples, split: str, column: str, test: Callable[[np.ndarray], Any]
) -> np.ndarray:
    """Returns `[requests]` 0 or 1: whether a test holds for a column of each request's example."""
    codes = np.zeros(examples.split(split).requests, np.int64)
    for block in examples.blocks(split, ("request_index", column)):
        codes[block["request_index"]] = test(block[column])
    return codes


def _column(examples: Examples, split: str, name: str) -> pa.ChunkedArray:
    table = examples.raw_requests(split)
    if name not in table.column_names:
        raise InputError(f"{examples.path}: the requests have no column '{name}'.")
    return table[name]


_MAKERS: dict[str, Callable[[Examples, str], Slicing]] = {
    "query_popularity": _query_popularity,
    "item_age": _item_age,
    "user": _user,
    "user_history": _user_history,
}
