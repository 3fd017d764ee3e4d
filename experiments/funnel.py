"""A search funnel on a simulated world: retrieval, a pre-ranker's cut, a full ranker, a slate.

    retrieval     best items by BM25, by popularity and by two-tower vectors, together: a pool
    pre-ranker    the arm under test keeps the best of the pool
    full ranker   boosted trees over all features and the scores of all models, the same for all
                  arms, order what is left; the best ten are the slate
    users         act by the world's truth

Items are numbered as in the world. A pool has its items in ascending order, and `NO_ITEM` after.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank_jax.evaluation.baselines import BM25
from interactrank_jax.log.simulator.searches import expected_fulfilment, fulfilling
from interactrank_jax.log.simulator.simulate import World
from interactrank_jax.log.simulator.tables import Names, Requests
from interactrank_jax.log.simulator.world import DAY, START
from interactrank_jax.ranking.ranker import Ranker

REQUESTS_AT_ONCE = 250
# What the three sources of retrieval bring at most, and the part of the corpus that is.
MOST, SHARES = (1_500, 500, 1_500), (4, 10, 4)
# Chosen on other searches than those of any test, in the first medium world.
TREES = {
    "max_iter": 200,
    "learning_rate": 0.05,
    "min_samples_leaf": 100,
    "l2_regularization": 1.0,
}
LAST = np.iinfo(np.int64).max  # a rank that no cut reaches
RANDOM, BEST = 10, 5  # candidates of a search of the bucket: random ones, and each arm's best


@dataclasses.dataclass(frozen=True)
class Searches:
    """Searches with what was retrieved for them.

    Attributes:
      world: whose users search.
      names: of its items.
      requests: `[R]`.
      table: the same as a log has them.
      pool: `[R, P]` items, ascending; `no_item` where a pool is shorter.
      lexical: `[R, P]` BM25 of the pool.
      appeal: `[R, P]` the truth; minus infinity where there is no item.
    """

    world: World
    names: Names
    requests: Requests
    table: pa.Table
    pool: np.ndarray
    lexical: np.ndarray
    appeal: np.ndarray

    @property
    def no_item(self) -> int:
        """What stands for no item."""
        return len(self.world.items.created)

    def parts(self) -> Iterator[slice]:
        """Yields some searches at a time."""
        for first in range(0, len(self.pool), REQUESTS_AT_ONCE):
            yield slice(first, first + REQUESTS_AT_ONCE)

    def candidates(self, part: slice) -> pa.Table:
        """Returns the pools of some searches as candidates of a Ranker."""
        pool = self.pool[part]
        row, column = np.nonzero(pool < self.no_item)
        ids = self.table["request_id"].slice(part.start, len(pool))
        return pa.table(
            {"request_id": ids.take(row), "item_id": self.names.item.take(pool[row, column])}
        )

    def items_of(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Returns the items of ids of a log."""
        return items_of(self.names, ids)

    def expected_fulfilment(self, slates: np.ndarray) -> np.ndarray:
        """Returns the probability `[R]` that a slate, positions in pools `[R, C]`, fulfils."""
        appeal = np.take_along_axis(self.appeal, slates, 1)
        return expected_fulfilment(self.world.config, appeal)

    def positions(self, first: int, row: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Returns where items `[M]` lie in the pools of the searches `first + row`."""
        pool, span = self.pool[first : first + int(row.max(initial=-1)) + 1], self.no_item + 1
        keys = (np.arange(len(pool))[:, None] * span + pool).ravel()
        return np.searchsorted(keys, row * span + item) - row * pool.shape[1]


def items_of(names: Names, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns the items of ids of a log."""
    return pc.index_in(ids, names.item.cast(ids.type)).to_numpy(zero_copy_only=False)


def popularity(log: Path, names: Names, day: int) -> np.ndarray:
    """Returns how often each item was clicked `[I]` by events that arrived before a day."""
    events = pq.read_table(log / "events", columns=["item_id", "action", "arrival_time"])
    is_past = pc.less(events["arrival_time"], START + day * DAY)
    clicks = events.filter(pc.and_(pc.equal(events["action"], "click"), is_past))
    item = items_of(names, clicks["item_id"])
    return np.bincount(item, minlength=len(names.item)).astype(np.float32)


def retrieve(
    world: World,
    names: Names,
    requests: Requests,
    two_tower: Ranker,
    clicks: np.ndarray,
) -> Searches:
    """Retrieves candidates: the best by BM25, the most clicked and the nearest, all that exist.

    Args:
      world: its items and users.
      names: of its items.
      requests: `[R]`.
      two_tower: a Ranker whose vectors are searched.
      clicks: `[I]` popularity.
    """
    by_text, by_clicks, by_vector = (
        min(most, len(clicks) // share) for most, share in zip(MOST, SHARES, strict=True)
    )
    titles, texts = world.items.titles, world.queries.texts
    bm25, table = BM25(titles), names.requests(requests, np.ones((len(requests.id), 1), bool))
    popular = np.argsort(-clicks, kind="stable")[:by_clicks]
    no_item = len(titles)
    pools, lexical = [], []
    for first in range(0, len(requests.id), REQUESTS_AT_ONCE):
        part = slice(first, first + REQUESTS_AT_ONCE)
        scores = bm25.scores([texts[query] for query in requests.query[part]])
        near = two_tower.rank(table.slice(first, len(scores)), k=by_vector)
        near_items = items_of(names, near["item_id"])
        starts = np.searchsorted(near["request_id"].to_numpy(), requests.id[part])
        nearest = np.split(near_items, starts[1:])
        matches = np.argsort(-scores, axis=1, kind="stable")[:, :by_text]
        for number, time in enumerate(requests.time[part]):
            matched = matches[number][scores[number, matches[number]] > 0]
            items = np.unique(np.concatenate([matched, popular, nearest[number]]))
            items = items[~world.items.absent(items[None], np.array([time]))[0]]
            pools.append(items)
            lexical.append(scores[number, items])
    width = max(len(pool) for pool in pools)
    pool = np.full((len(pools), width), no_item)
    scores = np.zeros(pool.shape, np.float32)
    for number, items in enumerate(pools):
        pool[number, : len(items)] = items
        scores[number, : len(items)] = lexical[number]
    appeal = np.full(pool.shape, -np.inf, np.float32)
    for first in range(0, len(pool), REQUESTS_AT_ONCE):
        part = slice(first, first + REQUESTS_AT_ONCE)
        of_part = (requests.query[part], requests.user[part], requests.time[part])
        total = world.appeal(*of_part, np.minimum(pool[part], no_item - 1)).total
        appeal[part] = np.where(pool[part] < no_item, total, -np.inf)
    return Searches(world, names, requests, table, pool, scores, appeal)


def ranks_by_score(searches: Searches, scores: np.ndarray) -> np.ndarray:
    """Returns the ranks `[R, P]` of pools by scores `[R, P]`, from 0; `LAST` without an item."""
    scores = np.where(searches.pool < searches.no_item, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], 1)
    return np.where(searches.pool < searches.no_item, ranks, LAST)


def ranks_by_model(searches: Searches, ranker: Ranker) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ranks `[R, P]` of pools by a Ranker, from 0, and the scores.

    The rank is `LAST` where there is no item, or one that the Ranker does not know.
    """
    width = searches.pool.shape[1]
    ranks = np.full(searches.pool.shape, LAST)
    scores = np.zeros(searches.pool.shape, np.float32)
    for part in searches.parts():
        table = searches.table.slice(part.start, REQUESTS_AT_ONCE)
        ranked = ranker.rank(table, searches.candidates(part), k=width)
        row = ranked["request_id"].to_numpy() - int(searches.requests.id[part.start])
        positions = searches.positions(part.start, row, searches.items_of(ranked["item_id"]))
        ranks[part.start + row, positions] = ranked["rank"].to_numpy() - 1
        scores[part.start + row, positions] = ranked["score"].to_numpy()
    return ranks, scores


def cross_features(searches: Searches, ranker: Ranker) -> np.ndarray:
    """Returns the cross features `[R, P, K]` of pools, as a Ranker serves them."""
    bundle = ranker.bundle
    item_of_row = np.append(searches.no_item, searches.items_of(bundle.items.ids))
    values = np.zeros((*searches.pool.shape, len(bundle.cross.names)), np.float32)
    for part in searches.parts():
        table = searches.table.slice(part.start, REQUESTS_AT_ONCE)
        candidates = searches.candidates(part)
        logged = ranker.rank_fully(table, candidates, k=1, with_features=True).candidates
        assert logged is not None
        row, item = logged["request"], item_of_row[logged["row"]]
        values[part.start + row, searches.positions(part.start, row, item)] = logged["cross"]
    return values


def features(
    searches: Searches, ranker: Ranker, scores: np.ndarray, clicks: np.ndarray
) -> np.ndarray:
    """Returns what a full ranker knows of pools, `[R, P, F]`: cross features and all beside.

    Args:
      searches: with their pools.
      ranker: that serves cross features.
      scores: `[R, P, M]` of the models.
      clicks: `[I]` popularity.
    """
    items = searches.world.items
    of_items = np.stack([clicks, items.price, items.review_score], 1).astype(np.float32)
    of_items = of_items[np.minimum(searches.pool, searches.no_item - 1)]
    parts = [cross_features(searches, ranker), scores, searches.lexical[..., None], of_items]
    return np.concatenate(parts, -1)


class FullRanker:
    """Boosted trees over all features, fitted on a bucket of searches, the same for all arms.

    Users of the bucket see random candidates of their pools and the best of every arm, so that the
    trees know what each of them brings. They act on each by the truth, on the day of the test: a
    stronger ranker than a service has.

    Args:
      searches: of the bucket: other ones than those of the test.
      features: `[R, P, F]` of its pools.
      ranks: `[R, P]` of every arm.
      seed: of the draws.
    """

    def __init__(
        self, searches: Searches, features: np.ndarray, ranks: Iterable[np.ndarray], seed: int
    ):
        from sklearn.ensemble import HistGradientBoostingClassifier

        rng = np.random.default_rng(seed)
        sizes = (searches.pool < searches.no_item).sum(1, keepdims=True)
        columns = [(rng.random((len(sizes), RANDOM)) * sizes).astype(np.int64)]
        for of_arm in ranks:
            best = np.argsort(of_arm, axis=1, kind="stable")[:, :BEST]
            columns.append(np.minimum(best, sizes - 1))
        column = np.concatenate(columns, 1)
        appeal = np.take_along_axis(searches.appeal, column, 1)
        label = rng.random(appeal.shape) < fulfilling(searches.world.config, appeal)
        rows = features[np.arange(len(features))[:, None], column]
        self._trees = HistGradientBoostingClassifier(**TREES, random_state=seed)
        self._trees.fit(rows.reshape(-1, rows.shape[-1]), label.ravel())

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns log-odds `[R, P]` by features `[R, P, F]`."""
        flat = self._trees.decision_function(features.reshape(-1, features.shape[-1]))
        return flat.reshape(features.shape[:2]).astype(np.float32)


def slates(ranks: np.ndarray, scores: np.ndarray, cut: int, length: int) -> np.ndarray:
    """Returns the slates `[R, length]` as positions in pools: the best by score of what is kept.

    Where a cut keeps fewer, positions of no item, if there are any, or of others follow.

    Args:
      ranks: `[R, P]` of a pre-ranker.
      scores: `[R, P]` of the full ranker.
      cut: how many of the pool are kept.
      length: of a slate.
    """
    kept = np.where(ranks < cut, scores, -np.inf)
    top = np.argpartition(-kept, length - 1, axis=1)[:, :length]
    order = np.argsort(-np.take_along_axis(kept, top, 1), axis=1, kind="stable")
    return np.take_along_axis(top, order, 1)


def survival(ranks: np.ndarray, wanted: np.ndarray, cut: int) -> float:
    """Returns the share of wanted items, `[R, W]` positions in pools, that a cut keeps.

    Positions of no item do not count.
    """
    of_wanted = np.take_along_axis(ranks, wanted, 1)
    return float((of_wanted < cut).sum() / max((of_wanted < LAST).sum(), 1))
