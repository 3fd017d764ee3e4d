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
from interactrank_jax.examples.frames import Impressions, Requests
from interactrank_jax.log.schema import FeatureSpec, Log

logger = logging.getLogger(__name__)

CLEAN_TIME, CLEAN_RANDOM = "clean_time", "clean_random"
PROTOCOLS = (CLEAN_TIME, CLEAN_RANDOM, PUBLISHED)
TEST = 2  # index of the test split


def publish(
    means: Sequence[int],
    split: np.ndarray,
    log: Log,
    items: pa.Table,
    requests: Requests,
    impressions: Impressions,
) -> tuple[Log, pa.Table, Requests, Impressions]:
    """Adds the leaking means of `published` as if the log had declared them.

    Every item and every request comes twice, once as training and validation see it and once as the
    test does; the impressions of the test refer to the second copy. Copies share an id and with it
    an embedding row: only the mean in them differs.

    Args:
      means: indices of the actions whose means become features, `user_mean_ACTION` and
        `item_mean_ACTION`.
      split: `[M]` of each impression.
      log: the log.
      items: `[I]` raw rows of the item store, the first null.
      requests: `[R]`.
      impressions: `[M]`.

    Returns:
      log (its schema has the new features), items `[2 I - 1]`, requests `[2 R]` and impressions
      `[M]`. A mean over no row at all is 0.
    """
    names = [log.schema.actions[action] for action in means]
    logger.warning(
        "protocol 'published': the mean of '%s' over training and over test, each row's own label "
        "included, is a feature. IT LEAKS THE LABEL: compare with published figures only.",
        "' and '".join(names),
    )
    is_test = split == TEST
    real, users = len(items) - 1, len(requests.users)
    item = impressions.item + real * is_test
    user = requests.user[impressions.request] + users * is_test
    labels = impressions.actions[:, list(means)]
    of_item = _means(item, labels, 2 * real + 1)
    of_user = _means(user, labels, 2 * users)[
        np.concatenate([requests.user, requests.user + users])
    ]
    items = pa.concat_tables([items, items.slice(1)])
    table = pa.concat_tables([requests.table, requests.table])
    features = log.schema.features
    for column, name in enumerate(names):
        user_mean, item_mean = f"user_mean_{name}", f"item_mean_{name}"
        items = items.append_column(item_mean, pa.array(of_item[:, column]))
        table = table.append_column(user_mean, pa.array(of_user[:, column]))
        features += (
            FeatureSpec(user_mean, "user", "numeric"),
            FeatureSpec(item_mean, "item", "numeric"),
        )
    doubled = dataclasses.replace(
        requests,
        table=table,
        user=np.tile(requests.user, 2),
        query=np.tile(requests.query, 2),
        timestamp=np.tile(requests.timestamp, 2),
    )
    return (
        dataclasses.replace(log, schema=dataclasses.replace(log.schema, features=features)),
        items,
        doubled,
        dataclasses.replace(
            impressions,
            item=item.astype(impressions.item.dtype),
            request=impressions.request + len(requests.user) * is_test,
        ),
    )


def _means(group: np.ndarray, labels: np.ndarray, groups: int) -> np.ndarray:
    """Returns the mean of labels `[M, A]` over each group, `[groups, A]`; 0 where it is empty."""
    rows = np.maximum(np.bincount(group, minlength=groups), 1)
    sums = [np.bincount(group, column, groups) for column in labels.T]
    return np.stack(sums, axis=1) / rows[:, None]
