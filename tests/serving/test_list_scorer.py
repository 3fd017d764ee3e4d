"""Candidate lists have the same scores by every way, and those are the model's."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.serving import list_scorer
from interactrank_jax.serving import pairs as serving_pairs
from interactrank_jax.serving.graphs import Graphs
from interactrank_jax.serving.list_scorer import ListScorer, Ways, positions
from interactrank_jax.serving.pairs import PairScorer
from interactrank_jax.serving.past import SHIFT, CrossFeatures, CrossTable
from interactrank_jax.serving.reader import Reader
from interactrank_jax.serving.requests import EncodedRequests
from interactrank_jax.serving.top_k import top_k
from tests.log.handmade_log import make_tables
from tests.marks import some_quick
from tests.serving.making import (
    ITEMS,
    assert_scores,
    candidates,
    events,
    make_config,
    make_run,
    requests,
)

WIDTH, CROSS = 4, 2
WEIGHTS = np.array([3.0, -2.0], np.float32)
ROWS, TILES = "rows", "tiles"


def force(monkeypatch, way: str, size: int = 7) -> None:
    """Makes every list long, and one way the cheaper one; pieces and tiles of `size`."""
    monkeypatch.setattr(list_scorer, "SHORT", 0)
    monkeypatch.setattr(list_scorer, "PIECE", size)
    monkeypatch.setattr(list_scorer, "MOST_ITEMS", size)
    monkeypatch.setattr(list_scorer, "CALL", 0.0)
    monkeypatch.setattr(list_scorer, "GATHER", 1.0 if way == TILES else 0.0)
    monkeypatch.setattr(list_scorer, "READ", 0.0)


class NumpyGraphs(Graphs):
    """A dot product and a linear cross term, as graphs; counts how often each is called."""

    def __init__(self, vectors: np.ndarray):
        self._vectors = vectors
        self.calls: dict[str, int] = {}

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls[name] = self.calls.get(name, 0) + 1
        query = inputs["query/0"]
        if name == "score_rows":
            return {"score": self._vectors[inputs["row"]] @ query[0]}
        if name == "score_all":
            return {"score": query @ inputs["item/0"].T}
        assert name == "score"
        score = np.einsum("rcd,rd->rc", self._vectors[inputs["row"]], query)
        score = score + inputs["cross"] @ WEIGHTS
        return {"score": score, "logits": score[..., None]}

    def padded(self, length: int) -> int:
        return 8 * -(-length // 8)


@dataclasses.dataclass
class SmallBundle:
    """What scoring a list reads of a bundle."""

    arrays: dict[str, np.ndarray]
    cross: CrossFeatures

    def __getitem__(self, name: str) -> Any:
        inputs: dict[str, Any] = {"query/0": {}, "index/0": {}, "row": {}, "cross": {}}
        return {
            "items": len(self.arrays["index/0"]),
            "heads": ["engaged"],
            "graphs": {"score": {"inputs": inputs}, "query_vector": {}},
        }[name]


class Lists:
    """Random lists over a random corpus, all of small whole numbers: every sum is exact."""

    def __init__(self, seed: int, lengths: list[int], items: int):
        rng = np.random.default_rng(seed)
        count = len(lengths)
        self.vectors = rng.integers(-2, 3, (items + 1, WIDTH)).astype(np.float32)
        self.query = {"query/0": rng.integers(-2, 3, (count, WIDTH)).astype(np.float32)}
        lists = [np.sort(rng.choice(items, length, replace=False)) + 1 for length in lengths]
        self.row = np.concatenate([np.zeros(0, np.int64), *lists])
        self.start = np.append(0, np.cumsum(lengths)).astype(np.int64)
        # Of a third of all pairs something is known, of every second request nothing.
        self.dense = np.zeros((count, items + 1, CROSS), np.float32)
        known = rng.random((count, items + 1)) < 1 / 3
        known[:, 0], known[::2] = False, False
        self.dense[known] = rng.integers(-1, 2, (known.sum(), CROSS))
        request, row = np.nonzero(known)
        names = tuple(f"feature {number}" for number in range(CROSS))
        table = CrossTable(("query",), names, None, request << SHIFT | row, self.dense[known])
        cross = CrossFeatures({name: [("query",)] for name in names}, {("query",): table}, None)
        groups = {("query",): np.repeat(np.arange(count)[:, None], 2, 1)}
        self.encoded = EncodedRequests(pa.array(np.arange(count)), {}, groups)
        self.bundle = SmallBundle({"index/0": self.vectors}, cross)
        self.graphs = NumpyGraphs(self.vectors)
        bundle: Any = self.bundle
        self.scorer = ListScorer(bundle, self.graphs, PairScorer(bundle, self.graphs))

    def scores(self) -> np.ndarray:
        ways = self.scorer.ways(self.start)
        return self.scorer.scores(self.encoded, self.query, self.start, self.row, ways)

    def expected(self) -> np.ndarray:
        request = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
        every = self.query["query/0"].astype(float) @ self.vectors.T.astype(float)
        every = every + self.dense.astype(float) @ WEIGHTS
        return every[request, self.row]


LENGTHS = {
    "one candidate": [1],
    "empty lists": [0, 0],
    "among empty ones": [0, 5, 0, 1],
    "the whole corpus": [60, 60, 60],
    "of all lengths": [0, 1, 7, 8, 9, 33, 60, 2],
}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("way", [ROWS, TILES, ""])
def test_scores_are_those_of_float64(lengths, way, monkeypatch):
    if way:
        force(monkeypatch, way)
    for seed in range(5):
        lists = Lists(seed, LENGTHS[lengths], items=60)
        score, expected = lists.scores(), lists.expected()
        np.testing.assert_array_equal(score, expected)
        for first, end in itertools.pairwise(lists.start):
            row = lists.row[first:end]
            order = np.lexsort((row, -expected[first:end]))[:10]
            assert top_k(score[first:end], row, 10).tolist() == order.tolist()


@pytest.mark.parametrize(("way", "graph"), [(ROWS, "score_rows"), (TILES, "score_all")])
def test_both_ways_are_gone(way, graph, monkeypatch):
    """Else the test above would compare one way with itself."""
    force(monkeypatch, way)
    lists = Lists(0, [20, 60, 1], items=60)
    lists.scores()
    assert set(lists.graphs.calls) == {graph, "score"}


@pytest.mark.parametrize("seed", range(8))
def test_random_sizes_agree(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    items = int(rng.integers(1, 90))
    lengths = rng.integers(0, items + 1, rng.integers(1, 12)).tolist()
    for way, size in itertools.product([ROWS, TILES], [1, int(rng.integers(2, 100))]):
        force(monkeypatch, way, size)
        lists = Lists(seed, lengths, items)
        np.testing.assert_array_equal(lists.scores(), lists.expected())


class TestTheCheapestWay:
    """A million items; lists as long as stated."""

    def choose(self, *counts: int, items: int = 1_000_000, is_dot: bool = True) -> Ways:
        return Ways.choose(np.array(counts), items, is_dot)

    def test_short_lists_go_together(self):
        assert self.choose(*[100] * 1000).are_short
        assert self.choose().are_short
        assert self.choose(0).are_short

    def test_a_long_list_that_covers_little_is_gathered(self):
        ways = self.choose(10, 20_000, 30)
        assert ways.by_rows.tolist() == [1]
        assert not len(ways.by_tiles)

    def test_many_lists_that_cover_a_tenth_are_picked_from_tiles(self):
        ways = self.choose(*[100_000] * 64, 3_000)
        assert ways.by_tiles.tolist() == list(range(64))
        assert ways.by_rows.tolist() == [64]

    def test_one_such_list_does_not_pay_for_reading_all_items(self):
        assert self.choose(100_000).by_rows.tolist() == [0]

    def test_the_whole_corpus_is_read_in_its_order(self):
        assert self.choose(1_000_000).by_tiles.tolist() == [0]

    def test_a_network_for_each_pair_is_run_for_candidates_only(self):
        assert not len(self.choose(*[100_000] * 64, is_dot=False).by_tiles)


@pytest.mark.parametrize("seed", range(4))
def test_positions_of_some_among_others(seed):
    rng = np.random.default_rng(seed)
    for a, b in itertools.product([0, 1, 5, 40], repeat=2):
        row, items = (np.sort(rng.choice(50, size, replace=False)) for size in (a, b))
        assert positions(row, items).tolist() == np.flatnonzero(np.isin(row, items)).tolist()


# --- Bundles ---


# A bundle of InteractFIT is a training and an export of its own.
@pytest.fixture(
    scope="module", params=some_quick(["interactrank", "interactfit"], ["interactrank"])
)
def bundle(request, tmp_path_factory):
    if request.param == "interactrank":
        return request.getfixturevalue("served").bundle
    root = tmp_path_factory.mktemp(request.param)
    made = make_run(root, make_config(request.param), make_tables(200))
    return made.export("bundle")


WAYS = list(itertools.product([Ranker, Reader], [ROWS, TILES], [4, 64]))


# Sizes of which one divides lists, and of which one holds them.
@pytest.mark.long  # trains a model and exports it
@pytest.mark.parametrize(
    ("kind", "way", "size"), some_quick(WAYS, [way for way in WAYS if way[2] == 4])
)
def test_lists_of_a_bundle_score_the_same_by_every_way(bundle, kind, way, size, monkeypatch):
    """Very unequal lists, duplicates, and an item that is unknown."""
    opened, asked = kind(bundle), requests(6)
    lists = [candidates(6, length) for length in (ITEMS, 3, 1)]
    listed = pa.concat_tables(
        [table.filter(pa.array(_of(table, kept))) for table, kept in zip(lists, "012", strict=True)]
    )
    unknown = pa.table({"request_id": ["q0"], "item_id": ["nobody"]})
    listed = pa.concat_tables([listed, listed.slice(3, 5), unknown])
    expected = opened.rank_fully(asked, listed, events(), k=10, with_features=True)
    force(monkeypatch, way, size)
    monkeypatch.setattr(serving_pairs, "PAIRS_AT_ONCE", 16)
    ranked = opened.rank_fully(asked, listed, events(), k=10, with_features=True)
    assert_scores(ranked.table, expected.table)
    probabilities = [name for name in ranked.table.column_names if name.startswith("prob")]
    for name in probabilities:
        by_pair = [
            dict(zip(zip(*(t[c].to_pylist() for c in ("request_id", "item_id")), strict=True),
                     t[name].to_pylist(), strict=True))
            for t in (ranked.table, expected.table)
        ]  # fmt: skip
        assert by_pair[0] == pytest.approx(by_pair[1], abs=1e-5)
    assert ranked.left_out.to_pylist() == [{"request_id": "q0", "item_id": "nobody"}]
    assert ranked.repeated == 5
    for name, array in expected.candidates.items():
        np.testing.assert_array_equal(ranked.candidates[name], array)


def _of(table: pa.Table, number: str) -> np.ndarray:
    """Returns which rows are of requests `number` and `number + 3`."""
    requested = {f"q{int(number)}", f"q{int(number) + 3}"}
    return np.array([name in requested for name in table["request_id"].to_pylist()])


@pytest.mark.long  # trains a model and exports it
@pytest.mark.parametrize("way", [ROWS, TILES])
def test_equal_items_are_in_the_order_of_their_ids_by_every_way(bundle, way, monkeypatch):
    opened = Ranker(bundle)
    for name, array in list(opened.bundle.arrays.items()):
        if name.startswith("index/"):
            opened.bundle.arrays[name] = np.broadcast_to(array[1], array.shape).copy()
    force(monkeypatch, way, 8)
    new = requests(2, query_id=[7, 8])  # no cross features
    listed = opened.rank(new, candidates(2, ITEMS), k=ITEMS)
    assert listed["item_id"].to_pylist() == sorted(f"i{n}" for n in range(ITEMS)) * 2
