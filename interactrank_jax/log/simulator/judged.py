"""A world whose queries, products and relevance are real; only people and what they do are not.

The Home Depot Product Search Relevance data (Kaggle, 2016): `train.csv` with the columns `id`,
`product_uid`, `product_title`, `search_term` and `relevance`, 1 (irrelevant) to 3 (a perfect
match), the mean of at least three raters. About six products are judged for each of 11,795 queries.
The owner forbids redistribution: neither the data nor a log made of it may be passed on.

Real are queries, titles, and which products a query is shown: its judged ones, and no others. The
relevance part of an item's appeal is its judgment, on the scale of the simulator's (`world.py`);
a pair that nobody judged, which no log shows, counts as irrelevant. Simulated, as in every log of
the simulator, are users and their tastes, quality and idiosyncratic appeal, clicks, and how often
each query is asked (Zipf, in random order): none of this is in the data. Tastes are for the words
of titles: each word is a random direction, a title the sum of its words weighted by inverse
document frequency.
"""

import collections
import csv
import dataclasses
from pathlib import Path

import numpy as np

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.adapters.raw_files import Folder
from interactrank_jax.log.adapters.raw_values import shown
from interactrank_jax.log.simulator.draws import hash_normal, stream
from interactrank_jax.log.simulator.presets import SimulatorConfig
from interactrank_jax.log.simulator.world import (
    OLDEST,
    START,
    Appeal,
    Items,
    Queries,
    World,
    unit,
)
from interactrank_jax.log.values import group_ids, words

FILE = "train.csv"
LOWEST, HIGHEST = 1.0, 3.0
COLUMNS = ("product_uid", "product_title", "search_term", "relevance")
_EXPECTED = (
    f"Expected the directory of the Home Depot product-search judgments, with {FILE}, plain or "
    f"packed as .xz, .gz, .bz2 or .zip."
)


@dataclasses.dataclass(frozen=True)
class Judgments:
    """N judged pairs of Q queries and I products, in the order of queries, then of products.

    Attributes:
      query, item: `[N]`.
      relevance: `[N]` float32, 1 to 3; the mean where a pair was judged more than once.
      queries: `[Q]` texts; those that differ in capitals and outer spaces alone are one.
      item_ids: `[I]` as the owner numbers them.
      titles: `[I]`.
    """

    query: np.ndarray
    item: np.ndarray
    relevance: np.ndarray
    queries: list[str]
    item_ids: list[str]
    titles: list[str]

    @property
    def digest(self) -> str:
        """A hash of all of them, which does not depend on how the file is packed."""
        pairs = [array.tolist() for array in (self.query, self.item, self.relevance)]
        return files.digest([*pairs, self.queries, self.item_ids, self.titles])

    @classmethod
    def read(cls, source: files.PathLike) -> "Judgments":
        """Reads the owner's file.

        Args:
          source: its directory, or a zip archive with it.

        Raises:
          InputError: no such file, a missing column, or a relevance that is none; by file, column
            and row.
        """
        folder = Folder(Path(source), _EXPECTED)
        if FILE not in folder.names:
            raise folder.nothing()
        where = folder.where(FILE)
        # Kaggle's file is Latin-1; text of it is hardly ever valid UTF-8.
        header, *rows = csv.reader(folder.lines(FILE, "utf-8", "latin-1"))
        for name in COLUMNS:
            if name not in header:
                raise InputError(f"{where} has no column '{name}'." + did_you_mean(name, header))
        if not rows:
            raise InputError(f"{where} has no rows.")
        wrong = [k for k, row in enumerate(rows) if len(row) != len(header)]
        if wrong:
            raise InputError(
                f"{where}: {len(wrong):,} of {len(rows):,} rows have not the {len(header)} columns "
                f"of the header, for example row {wrong[0] + 2}: was the file truncated?"
            )
        columns = {name: [row[header.index(name)] for row in rows] for name in COLUMNS}
        return cls._of_columns(columns, where)

    @classmethod
    def _of_columns(cls, columns: dict[str, list[str]], where: str) -> "Judgments":
        relevance = np.array(list(map(_relevance, columns["relevance"])), np.float64)
        wrong = np.flatnonzero(np.isnan(relevance))
        if len(wrong):
            raise InputError(
                f"{where}: column 'relevance' is no number from 1 to 3 in {len(wrong):,} of "
                f"{len(relevance):,} rows, for example {shown(columns['relevance'][wrong[0]])} in "
                f"row {wrong[0] + 2}: download the file again."
            )
        queries: dict[str, int] = {}
        products: dict[str, int] = {}
        titles: list[str] = []
        query = [
            queries.setdefault(text.strip().lower(), len(queries))
            for text in columns["search_term"]
        ]
        item = []
        for uid, title in zip(columns["product_uid"], columns["product_title"], strict=True):
            item.append(products.setdefault(uid, len(products)))
            if len(products) > len(titles):
                titles.append(title.strip())
        pairs = np.array(query), np.array(item)
        group, first = group_ids(pairs)
        mean = np.bincount(group, relevance) / np.bincount(group)
        return cls(
            query=pairs[0][first],
            item=pairs[1][first],
            relevance=mean.astype(np.float32),
            queries=list(queries),
            item_ids=list(products),
            titles=titles,
        )


def _relevance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return np.nan
    return value if LOWEST <= value <= HIGHEST else np.nan


class JudgedWorld(World):
    """The queries and products of judgments, and simulated users.

    Args:
      config: its numbers of items and queries give way to those of the judgments.
      seed: of all that is simulated.
      judgments: the data.
    """

    item_features = ("title",)

    def __init__(self, config: SimulatorConfig, seed: int, judgments: Judgments):
        queries, items = len(judgments.queries), len(judgments.titles)
        self.judgments = judgments
        super().__init__(dataclasses.replace(config, queries=queries, items=items), seed)
        self.item_ids = judgments.item_ids
        self._keys = judgments.query.astype(np.int64) * items + judgments.item

    def _populate(self, seed: int) -> None:
        vocabulary: dict[str, int] = {}
        texts = [*self.judgments.titles, *self.judgments.queries]
        ids = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(t)] for t in texts]
        ids = [list(dict.fromkeys(row)) for row in ids]
        topics = _directions(ids, len(self.judgments.titles), self.config.topics, seed)
        count = self.config.items
        self.category_names = []
        self.items = Items(
            topics=topics[:count],
            quality=stream(seed, "items").standard_normal(count, dtype=np.float32),
            created=np.full(count, START - OLDEST),  # unknown: none of them is new
            category=np.zeros(count, np.int64),
            price=np.zeros(count, np.float32),
            review_score=np.zeros(count, np.float32),
            words=ids[:count],
            titles=self.judgments.titles,
            gone=None,
        )
        rng = stream(seed, "queries")
        ranks = 1 + rng.permutation(self.config.queries)
        self.queries = Queries(
            topics=topics[count:],
            popularity=np.cumsum(ranks**-self.config.query_exponent),
            words=ids[count:],
            texts=self.judgments.queries,
        )

    def pools(self, seed: int, since: float, until: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the judged items of each query; the lexical score is the share of its words.

        As `retrieval.candidate_pools`, but that no other items fill up: a query with few judged
        items has short slates.
        """
        query, item = self.judgments.query, self.judgments.item
        counts = np.bincount(query, minlength=self.config.queries)
        column = np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
        width = max(int(counts.max()), self.config.slate + 1)
        pool = np.zeros((self.config.queries, width), np.int32)
        lexical = np.full(pool.shape, -np.inf, np.float32)
        pool[query, column] = item
        of_queries, of_items = (list(map(set, each.words)) for each in (self.queries, self.items))
        lexical[query, column] = [
            len(of_queries[q] & of_items[i]) / max(len(of_queries[q]), 1)
            for q, i in zip(query.tolist(), item.tolist(), strict=True)
        ]
        return pool, lexical

    def appeal(
        self, query: np.ndarray, user: np.ndarray, time: np.ndarray, item: np.ndarray
    ) -> Appeal:
        """Returns the appeal of items `[R, C]` to requests, its relevance by the judgments."""
        keys = query.astype(np.int64)[:, None] * self.config.items + item
        row = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        judged = np.where(self._keys[row] == keys, self.judgments.relevance[row], LOWEST)
        share = (judged - LOWEST) / (HIGHEST - LOWEST)
        relevance = np.float32(self.config.relevance) * (share - 0.5)
        simulated = super().appeal(query, user, time, item)
        return dataclasses.replace(simulated, relevance=relevance.astype(np.float32))


def open_judged_world(log: files.PathLike) -> JudgedWorld:
    """Returns the world of a log that `simulate` made with judgments, as of LOG/truth/config.json.

    Raises:
      InputError: that file is none of such a log, or the judgments are gone or others by now.
    """
    file = Path(log) / "truth" / "config.json"
    origin = files.read_json(file)
    try:
        source, digest = origin["judgments"], origin["judgments_digest"]
        config, seed = SimulatorConfig(**origin["config"]), origin["seed"]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{file} is not that of a log of judgments ({error}). Simulate the log again with "
            f"--judgments."
        ) from error
    judgments = Judgments.read(source)
    if judgments.digest != digest:
        raise InputError(
            f"{source} holds other judgments than {log} was made of (hash {judgments.digest}, "
            f"expected {digest}). Put those back, or simulate the log again."
        )
    return JudgedWorld(config, seed, judgments)


def _directions(ids: list[list[int]], titles: int, width: int, seed: int) -> np.ndarray:
    """Returns unit vectors `[len(ids), width]` of texts, given the ids of their words.

    Words weigh by their inverse document frequency among the first `titles` texts.
    """
    frequency = collections.Counter(word for row in ids[:titles] for word in row)
    lengths = [len(row) for row in ids]
    word = np.array([w for row in ids for w in row], np.int64)
    weight = np.log1p(titles / (1.0 + np.array([frequency[w] for w in word.tolist()])))
    hash_seed = int(stream(seed, "directions").integers(2**63))
    vectors = weight[:, None] * hash_normal(hash_seed, word[:, None], np.arange(width))
    # A text without a word is a small constant direction, not a division by zero.
    sums = np.full((len(ids), width), 1e-6)
    np.add.at(sums, np.repeat(np.arange(len(ids)), lengths), vectors)
    return unit(sums)
