"""What preparation saw of features and requests that `warnings.py` may have to speak of."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from interactrank_jax.examples.fitting import Fitted
    from interactrank_jax.examples.ordered import OrderedLog
    from interactrank_jax.examples.writing import Written

FEW = 2  # candidates: a ranking of so many, or of one, says little
ABSENT = 0.001  # share of training candidates with a value, at or below which a feature is absent
ROWS_AT_ONCE = 65_536


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was seen.

    Attributes:
      equal: cross features that are equal in every training candidate, group by group.
      constant: features with one value in all of training, and 'user_id' or 'item_id' if that is.
      absent: by feature the share of training candidates whose value is not 0, where that is at
        most `ABSENT`; of features of requests the share of training examples.
      few: by split, how many requests have at most `FEW` candidates.
      has_one_query: whether all of training has the same query.
    """

    equal: tuple[tuple[str, ...], ...] = ()
    constant: tuple[str, ...] = ()
    absent: Mapping[str, float] = dataclasses.field(default_factory=dict)
    few: Mapping[str, int] = dataclasses.field(default_factory=dict)
    has_one_query: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Survey":
        """Builds it from what `dataclasses.asdict` gave.

        Raises:
          KeyError, TypeError, ValueError, AttributeError: it is no such thing.
        """
        return cls(
            equal=tuple(tuple(map(str, names)) for names in value["equal"]),
            constant=tuple(map(str, value["constant"])),
            absent={str(name): float(share) for name, share in value["absent"].items()},
            few={str(split): int(count) for split, count in value["few"].items()},
            has_one_query=bool(value["has_one_query"]),
        )


class Sameness:
    """Which columns of a matrix are equal to each other, and which are constant, part by part.

    Every row counts. Where all columns differ, which the first rows tell, it looks at no more.

    Args:
      columns: K.
    """

    def __init__(self, columns: int):
        self._groups = [list(range(columns))] if columns > 1 else []
        self._constant = np.arange(columns)
        self._first: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        """Adds rows `[M, K]`."""
        if self._first is None and len(values):
            self._first = values[0].copy()
        for start in range(0, len(values), ROWS_AT_ONCE):
            if not self._groups and not len(self._constant):
                return
            part = values[start : start + ROWS_AT_ONCE]
            assert self._first is not None
            is_same = (part[:, self._constant] == self._first[self._constant]).all(0)
            self._constant = self._constant[is_same]
            self._groups = [same for group in self._groups for same in _equal(part, group)]

    @property
    def constant(self) -> list[int]:
        """Columns with one value in all rows; none of no rows."""
        return [] if self._first is None else self._constant.tolist()

    @property
    def equal(self) -> list[list[int]]:
        """Groups of columns that are equal in all rows and not constant; none of no rows."""
        constant = set(self._constant.tolist())
        return [group for group in self._groups if group[0] not in constant]


def _equal(values: np.ndarray, columns: Sequence[int]) -> list[list[int]]:
    """Returns the groups, of two columns or more, of those that are equal."""
    groups: list[list[int]] = []
    for column in columns:
        for group in groups:
            if np.array_equal(values[:, group[0]], values[:, column]):
                group.append(column)
                break
        else:
            groups.append([column])
    return [group for group in groups if len(group) > 1]


def few_candidates(request: np.ndarray, candidates: np.ndarray | None = None) -> tuple[int, int]:
    """Returns (requests with at most `FEW` candidates, requests).

    Args:
      request: `[N]` the request of each candidate, or of each run of candidates; in any order.
      candidates: `[N]` of each run; one by default.
    """
    _, rows = np.unique(request, return_inverse=True)
    sizes = np.bincount(rows, candidates)
    return int((sizes <= FEW).sum()), len(sizes)


def survey(
    ordered: "OrderedLog", fitted: "Fitted", written: "Written", cross: Sequence[str]
) -> Survey:
    """Returns what was seen of a log's requests, and of its features in training, if there is any.

    Args:
      ordered: the log.
      fitted: its features, encoded.
      written: what the examples' writing tells.
      cross: names of the cross features.
    """
    if "train" not in written.few:
        return Survey(few=written.few)
    constant = [cross[column] for column in written.constant]
    shares = {name: x.coverage for name, x in zip(cross, written.cross, strict=True)}
    for name, column, weights in _numeric(fitted, written):
        constant += [name] if _is_constant(column) else []
        shares[name] = float(np.average(column != 0, weights=weights))
    train = ordered.rows.requests["train"]
    constant += [name for name, ids in _ids(ordered, fitted, train) if _is_constant(ids)]
    return Survey(
        equal=tuple(tuple(cross[column] for column in group) for group in written.equal),
        constant=tuple(constant),
        absent={name: x for name, x in shares.items() if x <= ABSENT and name not in constant},
        few=written.few,
        has_one_query=_is_constant(ordered.requests.query[train]),
    )


def _numeric(fitted: "Fitted", written: "Written") -> Iterator[tuple[str, np.ndarray, Any]]:
    """Yields each numeric feature: values of training's examples, or of its items with weights."""
    seen = np.flatnonzero(fitted.item_counts[1:])
    of_requests = (written.numeric, None)
    of_items = (fitted.items.numeric[seen], fitted.item_counts[1:][seen])
    for is_item, (values, weights) in ((False, of_requests), (True, of_items)):
        names = [
            feature.name
            for feature in fitted.features
            if feature.kind == "numeric" and (feature.entity == "item") == is_item
        ]
        for name, column in zip(names, values.T, strict=True):
            yield name, column, weights


def _ids(
    ordered: "OrderedLog", fitted: "Fitted", train: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the categorical features and ids of training's requests and items, as encoded."""
    seen = np.flatnonzero(fitted.item_counts[1:])
    for feature in fitted.features:
        if feature.kind == "categorical":
            is_item = feature.entity == "item"
            encoded = fitted.items if is_item else fitted.requests
            yield feature.name, encoded.columns[feature.name][seen if is_item else train]
    yield "user_id", ordered.requests.user[train]
    yield "item_id", seen


def _is_constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())
