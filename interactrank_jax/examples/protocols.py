"""Protocols: how a log is split, and what its features may know of labels.

    clean_time    split by time; every feature is as of its request
    clean_random  impressions are split at random; what is made of labels is made out of fold
    published     as in IntTower's public code (Li et al., CIKM 2022), AND IT LEAKS THE LABEL

Figures of two protocols never stand in one table. `interactrank leaks` passes on the first two and
fails on the third, which is there to be compared with what was published, and for nothing else.

What `published` does: impressions are split at random, validation being cut from the training part;
then the mean label of each user and of each item becomes a feature, computed once over training and
validation together and once over the test rows, each row's own label included. So a user or an item
with a single test row has that row's label for a feature. There are no histories, no cross features
and no ranking of the whole corpus. All this is of one version of that code, the one that we read.
(It also drops, by a join, users without any success in a part; here they stay: of MovieLens-1M's
147,802 test rows they have 128.)
"""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.format import PUBLISHED
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.state.store import CLEAN_TIME

logger = logging.getLogger(__name__)

CLEAN_RANDOM = "clean_random"
PROTOCOLS = (CLEAN_TIME, CLEAN_RANDOM, PUBLISHED)
TEST_SPLIT = "test"


class LeakingMeans:
    """The means of `published`, as if the log had declared them as features.

    Every item comes twice, once as training and validation see it and once as the test does, and so
    does whatever is known of a request. Copies share an id and with it an embedding row: only the
    mean in them differs. A mean over no row at all is 0.

    Args:
      names: the actions whose means become features, `user_mean_ACTION` and `item_mean_ACTION`.
      users, items: how many there are, the padding item left out.
    """

    def __init__(self, names: Sequence[str], users: int, items: int):
        self.names, self.items = tuple(names), items
        logger.warning(
            "protocol 'published': the mean of '%s' over training and over test, each row's own "
            "label included, is a feature. IT LEAKS THE LABEL: compare with published figures "
            "only.",
            "' and '".join(self.names),
        )
        self._users = _Means(users, len(self.names))
        self._items = _Means(items + 1, len(self.names))

    def add(self, user: np.ndarray, item: np.ndarray, labels: np.ndarray, split: str) -> None:
        """Adds rows of a split: `[M]` codes of users, rows of items, and labels `[M, A]`."""
        self._users.add(user, labels, int(split == TEST_SPLIT))
        self._items.add(item, labels, int(split == TEST_SPLIT))

    def of_users(self, split: str) -> np.ndarray:
        """Returns the means of all users, float64 `[U, A]`, as a split sees them."""
        return self._users.result(int(split == TEST_SPLIT))

    @property
    def user_features(self) -> tuple[str, ...]:
        """Names of the features of users."""
        return tuple(f"user_mean_{name}" for name in self.names)

    def schema(self, schema: Schema) -> Schema:
        """Returns a schema that declares the means."""
        features = schema.features
        for name in self.names:
            features += (
                FeatureSpec(f"user_mean_{name}", "user", "numeric"),
                FeatureSpec(f"item_mean_{name}", "item", "numeric"),
            )
        return dataclasses.replace(schema, features=features)

    def both_items(self, items: pa.Table) -> pa.Table:
        """Returns raw items `[I + 1]`, the first null, as both see them: `[2 I + 1]` with means."""
        both = pa.concat_tables([items, items.slice(1)])
        means = np.concatenate([self._items.result(0), self._items.result(1)[1:]])
        for column, name in enumerate(self.names):
            both = both.append_column(f"item_mean_{name}", pa.array(means[:, column]))
        return both

    def with_users(self, requests: pa.Table, user: np.ndarray, split: str) -> pa.Table:
        """Returns raw requests of a split, by `[N]` codes of their users, with the means."""
        means = self.of_users(split)[user]
        for column, name in enumerate(self.names):
            requests = requests.append_column(f"user_mean_{name}", pa.array(means[:, column]))
        return requests


class _Means:
    """Mean labels by group, over training and validation, and over the test."""

    def __init__(self, groups: int, labels: int):
        self._rows = np.zeros((2, groups))
        self._sums = np.zeros((2, groups, labels))

    def add(self, group: np.ndarray, labels: np.ndarray, part: int) -> None:
        groups = self._rows.shape[1]
        self._rows[part] += np.bincount(group, minlength=groups)
        for index, column in enumerate(labels.T):
            self._sums[part, :, index] += np.bincount(group, column, groups)

    def result(self, part: int) -> np.ndarray:
        return self._sums[part] / np.maximum(self._rows[part], 1)[:, None]
