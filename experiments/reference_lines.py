"""Reference lines: logistic regressions that a neural model has to beat to be worth its cost.

    mean_lr      over the logits of two smoothed means: how often the user did it so far with what
                 they were shown, and how often it was done with the item
    one_hot_lr   over one-hot users and items: a bias for each

The means are features of the examples, so they are as of the request or out of fold, as those of
the models are; and they leak where the protocol does (`published`). Needs scikit-learn.
"""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from interactrank_jax import metrics
from interactrank_jax.examples.format import REQUEST_ENTITIES, Examples
from interactrank_jax.examples.protocols import PUBLISHED
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.losses.labels import LabelRule

WINDOW_DAYS = 730
PENALTIES = (0.3, 1.0, 3.0)  # inverse strengths of the penalty, chosen among on validation
_FARTHEST = 0.02  # of a mean from 0 and from 1, so that its logit is finite


@dataclasses.dataclass(frozen=True)
class Line:
    """A reference line on the test split.

    Attributes:
      request_index, item, engaged: `[n]`, in the order of evaluation.
      score: `[n]` logits.
      parameters: number of coefficients.
      trials: how many were compared on validation.
      chosen: the best of them.
    """

    request_index: np.ndarray
    item: np.ndarray
    engaged: np.ndarray
    score: np.ndarray
    parameters: int
    trials: int
    chosen: dict[str, Any]


def add_means(data: ConfigDict, action: str) -> ConfigDict:
    """Returns a copy of `config.data` whose examples have the two means of an action."""
    data = data.copy_and_resolve_references()
    if action not in data.history.rates:
        data.history.rates = (*data.history.rates, action)
    if data.protocol != PUBLISHED and _item_rate(action) not in data.cross.features:
        data.cross.features = (*data.cross.features, _item_rate(action))
    data.cross.corpus = False  # every item has a rate, so that each request would list them all
    return data


def mean_lr(examples: Examples, rule: LabelRule, action: str) -> Line:
    """Logistic regression over two smoothed means; see `add_means`.

    Raises:
      InputError: the examples do not have them.
    """
    from sklearn.linear_model import LogisticRegression

    read = _published_means if examples.metadata.protocol == PUBLISHED else _means
    train, test = (_Rows(examples, split, rule) for split in ("train", "test"))
    model = LogisticRegression(C=np.inf).fit(_logit(read(train, action)), train.engaged)
    return test.line(model.decision_function(_logit(read(test, action))), parameters=3)


def _means(rows: "_Rows", action: str) -> np.ndarray:
    """Returns the means of each row's user and item, `[n, 2]`."""
    metadata = rows.examples.metadata
    numeric = [feature.name for feature in metadata.select(REQUEST_ENTITIES, "numeric")]
    user = rows["request_numeric"][:, _place(f"user_rate_{action}", numeric)]
    item = rows["cross"][:, _place(_item_rate(action), metadata.cross)]
    # Both are differences from the mean over training.
    patterns = metadata.splits["train"].actions
    column = _place(action, metadata.actions)
    happened = sum(count for pattern, count in patterns.items() if pattern[column] == "1")
    return np.stack([user, item], axis=1) + happened / sum(patterns.values())


def _published_means(rows: "_Rows", action: str) -> np.ndarray:
    """Returns what `_means` does of the protocol that leaks."""
    metadata = rows.examples.metadata
    of_requests, of_items = (
        [feature.name for feature in metadata.select(entities, "numeric")]
        for entities in (REQUEST_ENTITIES, ("item",))
    )
    user = rows["request_numeric"][:, _place(f"user_mean_{action}", of_requests)]
    item = rows.examples.items["numeric"][rows["item"], _place(f"item_mean_{action}", of_items)]
    return np.stack([user, item], axis=1)


def one_hot_lr(examples: Examples, rule: LabelRule) -> Line:
    """Logistic regression of one-hot users and items, the penalty chosen on validation.

    A user or an item that training lacks counts nothing: the penalty leaves its coefficient at 0.
    """
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    splits = ("train", "validation", "test")
    of_requests = [examples.raw_requests(split)["user_id"].to_numpy() for split in splits]
    first = np.cumsum([0, *map(len, of_requests)])  # request of each split
    user = np.unique(np.concatenate(of_requests), return_inverse=True)[1]
    items = np.append([""], examples.item_ids[1:].astype(str))  # the first row is padding
    item = np.unique(items, return_inverse=True)[1] + user.max() + 1
    rows = {split: _Rows(examples, split, rule) for split in splits}
    columns = {
        split: np.stack([user[start + own["request_index"]], item[own["item"]]], axis=1)
        for start, (split, own) in zip(first, rows.items(), strict=False)
    }
    width = int(item.max()) + 1
    known = len(np.unique(columns["train"]))

    def one_hot(split: str) -> Any:
        place = columns[split]
        ends = np.arange(0, place.size + 1, 2)
        return sparse.csr_matrix((np.ones(place.size), place.ravel(), ends), (len(place), width))

    features = {split: one_hot(split) for split in splits}
    best: tuple[float, float, Any] | None = None
    for penalty in PENALTIES:
        # With the library's tolerance the AUC on the simulated log (medium) hangs on the CPU: .6508
        # on one, .6514 on another.
        model = LogisticRegression(C=penalty, tol=1e-6, max_iter=2000)
        model.fit(features["train"], rows["train"].engaged)
        score = model.decision_function(features["validation"])
        auc = metrics.roc_auc(score, rows["validation"].engaged)
        if best is None or auc > best[0]:
            best = auc, penalty, model
    assert best is not None
    _, penalty, model = best
    score = model.decision_function(features["test"])
    return rows["test"].line(score, known + 1, trials=len(PENALTIES), chosen={"C": penalty})


class _Rows:
    """Every candidate of a split, flat, in the order of evaluation: columns by their names."""

    def __init__(self, examples: Examples, split: str, rule: LabelRule):
        self.examples = examples
        names = ("request_index", "item", "actions", "request_numeric", "cross")
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for block in examples.blocks(split, (*names, "mask")):
            mask = block["mask"]
            for name in names:
                values = block[name]
                if name.startswith("request"):  # per example: the same for all its candidates
                    values = np.repeat(values[:, None], mask.shape[1], axis=1)
                parts[name].append(values[mask])
        self._columns = {name: np.concatenate(part) for name, part in parts.items()}
        self.engaged = rule.engaged(self["actions"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def line(
        self,
        score: np.ndarray,
        parameters: int,
        trials: int = 1,
        chosen: dict[str, Any] | None = None,
    ) -> Line:
        place = self["request_index"], self["item"], self.engaged
        return Line(*place, score, parameters, trials, chosen or {})


def _item_rate(action: str) -> str:
    return f"item_rate:{action}:{WINDOW_DAYS}"


def _logit(mean: np.ndarray) -> np.ndarray:
    mean = np.clip(mean, _FARTHEST, 1 - _FARTHEST)
    return np.log(mean / (1 - mean))


def _place(name: str, names: Any) -> int:
    if name not in names:
        raise InputError(f"the examples have no '{name}'." + did_you_mean(name, names))
    return list(names).index(name)
