"""Two preparations of one log, compared feature by feature: what moved between them is a leak."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from interactrank_jax.examples.format import REQUEST_ENTITIES, Examples
from interactrank_jax.examples.plan import SPLITS

_LABELS = ("actions",)

# From a split, the columns of a block and the position of its first example in the split to those
# that must not move, bool `[N]`.
Visible = Callable[[str, dict[str, np.ndarray], int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Leak:
    """A feature that knows what it must not.

    Attributes:
      feature: name of the column, or of the cross or numeric feature in it.
      split: where; 'items' for what the item store holds.
      check: what was done to the log.
      finding: what happened, with an example.
    """

    feature: str
    split: str
    check: str
    finding: str


def compare(
    name: str, before: Examples, after: Examples, visible: Visible, skip: Sequence[str] = ()
) -> list[Leak]:
    """Returns the features that differ in examples that must not move.

    Args:
      name: of the check.
      before, after: the examples, of the same sizes.
      visible: which of them must not move.
      skip: features that are not compared.
    """
    numeric = [f.name for f in before.metadata.select(REQUEST_ENTITIES, "numeric")]
    parts = {
        "cross": list(before.metadata.cross),
        "cross_count": [f"count of {cross}" for cross in before.metadata.cross],
        "cross_total": [f"total of {cross}" for cross in before.metadata.cross],
        "request_numeric": numeric,
    }
    found: dict[tuple[str, str], list[Any]] = {}
    for split in SPLITS:
        first = 0
        ids = before.raw_requests(split)["request_id"]
        for was, now in zip(before.blocks(split), after.blocks(split), strict=True):
            rows = visible(split, was, first)
            first += len(rows)
            for column in sorted(set(was) - set(_LABELS)):
                moved = (was[column] != now[column]) & _along(rows, was[column])
                if not moved.any():
                    continue
                for k, feature in enumerate(parts.get(column, [column])):
                    of_feature = moved[..., k] if column in parts else moved
                    examples = np.flatnonzero(of_feature.reshape(len(rows), -1).any(axis=1))
                    if feature in skip or not len(examples):
                        continue
                    if (feature, split) not in found:
                        row = tuple(np.argwhere(of_feature)[0])
                        where = (*row, k) if column in parts else row
                        request = ids[int(was["request_index"][row[0]])].as_py()
                        example = (request, was[column][where], now[column][where])
                        found[feature, split] = [0, example]
                    found[feature, split][0] += len(examples)
    return [
        Leak(
            feature,
            split,
            name,
            f"moved in {count:,} examples, such as request {request!r}: {was} became {now}",
        )
        for (feature, split), (count, (request, was, now)) in found.items()
    ]


def _along(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), *[1] * (values.ndim - 1))


def compare_items(name: str, before: Examples, after: Examples) -> list[Leak]:
    """Returns the features in which an item of the store differs: no label may be in any.

    Args:
      name: of the check.
      before, after: the examples.
    """
    numeric = [feature.name for feature in before.metadata.select(("item",), "numeric")]
    leaks = []
    for column, was in before.items.items():
        moved = (was != after.items[column]).reshape(len(was), -1)
        whole = [(f"{column} of items", moved.any(axis=1))]
        for feature, rows in zip(numeric, moved.T, strict=True) if column == "numeric" else whole:
            if rows.any():
                example = before.item_ids[np.argmax(rows)]
                finding = f"moved in {rows.sum():,} items, such as {example!r}"
                leaks.append(Leak(feature, "items", name, finding))
    return leaks


def compare_sparse(
    name: str, before: Examples, after: Examples, split: str, requests: np.ndarray
) -> list[Leak]:
    """Returns a leak if the ragged cross features of some requests differ.

    Args:
      name: of the check.
      before, after: the examples.
      split: an evaluation split.
      requests: `[R]` the request_index of each to compare.
    """
    was, now = before.sparse_cross(split), after.sparse_cross(split)
    ids = before.raw_requests(split)["request_id"]
    moved = []
    seen: set[int] = set()
    for request in requests:
        groups = was.group[request], now.group[request]
        if groups[0] in seen:
            continue
        seen.add(int(groups[0]))
        a, b = (
            slice(sparse.indptr[group], sparse.indptr[group + 1])
            for sparse, group in zip((was, now), groups, strict=True)
        )
        same = np.array_equal(was.item[a], now.item[b])
        if not same or not np.array_equal(was.value[a], now.value[b]):
            moved.append(ids[int(request)].as_py())
    if not moved:
        return []
    finding = f"moved for {len(moved):,} queries and days, such as request {moved[0]!r}"
    return [Leak("ragged cross features", split, name, finding)]
