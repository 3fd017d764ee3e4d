"""The best k of tiles, against sorting in float64; whole numbers, so that many are tied."""

import logging

import numpy as np
import pytest

from interactrank_jax.serving import scan
from interactrank_jax.serving.masks import RowMask
from interactrank_jax.serving.top_k import GROUP, RunningTopK, merged_tops


def brute_force(score, barred, k):
    """Returns rows and scores `[R, k]` by a stable sort; row 0 and -inf where there are fewer."""
    score = np.where(barred, -np.inf, score.astype(np.float64))
    score[:, 0] = -np.inf  # the padding row
    row = np.argsort(-score, axis=1, kind="stable")[:, :k]
    score = np.take_along_axis(score, row, 1)
    missing = ((0, 0), (0, k - row.shape[1]))
    return (
        np.pad(np.where(np.isneginf(score), 0, row), missing),
        np.pad(score, missing, constant_values=-np.inf),
    )


class Array:
    """The tiles of an array of scores; `fails` is asked before each."""

    def __init__(self, score, first=0, end=None, has_maxima=False, fails=lambda count: None):
        self.first, self.end = first, score.shape[1] if end is None else end
        self.score, self.has_maxima, self.fails = score, has_maxima, fails
        self.counts = []

    def scores(self, begin, count):
        self.fails(count)
        self.counts.append(count)
        score = self.score[:, begin : begin + count]
        if not self.has_maxima or count % GROUP:
            return score, None
        return score, score.reshape(len(score), -1, GROUP).max(-1)

    def top_k(self, requests, k, mask):
        return RunningTopK(requests, k, mask)


def ranked(tiles, score, k, tile, mask=None, pairs=None):
    requests, rows = score.shape
    size = scan.TileSize(tile * requests)
    return scan.corpus_top_k(lambda _: tiles, requests, rows, k, size, mask, pairs)


def assert_same(top, expected):
    for array, other in zip(top, expected, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("seed", range(8))
def test_any_sizes_masks_and_shards_give_what_sorting_gives(seed, monkeypatch):
    monkeypatch.setattr(scan, "SMALLEST", 1)
    rng = np.random.default_rng(seed)
    for trial in range(40):
        requests, rows = rng.integers(1, 6), rng.integers(1, 400)
        k, tile = rng.integers(1, rows + 20), rng.integers(1, rows + 1)
        if trial % 2:
            tile = min(max(tile // GROUP, 1) * GROUP, rows)
        values = (3, 1000)[trial % 3 == 0]
        score = rng.integers(-values, values, (requests, rows)).astype(np.float32)
        share = (0.0, 0.05, 0.6, 1.0)[trial % 4]
        barred = rng.random((1 if trial % 5 == 0 else requests, rows)) < share
        mask = RowMask.of(len(barred), rows, *np.nonzero(barred)) if share else None
        middle = rng.integers(0, rows + 1)
        tiles = [Array(score, has_maxima=bool(trial % 2))]
        if trial % 7 == 0:
            tiles = [Array(score, 0, middle), Array(score, middle)]
        assert_same(ranked(tiles, score, k, tile, mask), brute_force(score, barred, k))


@pytest.mark.parametrize("k", [1, 5, 64, 300])
def test_of_equal_scores_the_first_rows_are_best(k):
    score = np.zeros((3, 200), np.float32)
    for has_maxima in (False, True):
        row, _ = ranked([Array(score, has_maxima=has_maxima)], score, k, 64)
        expected = np.zeros(k, np.int64)
        expected[: min(k, 199)] = np.arange(1, min(k, 199) + 1)
        np.testing.assert_array_equal(row, np.tile(expected, (3, 1)))


def test_scores_that_only_rise_are_all_looked_at():
    """The worst order: every score is above all before it."""
    score = np.arange(5_000, dtype=np.float32)[None].repeat(2, 0)
    none = np.zeros((1, 5_000), bool)
    for tile in (64, 4_096):
        assert_same(ranked([Array(score)], score, 7, tile), brute_force(score, none, 7))


def test_scores_of_pairs_stand_in_place_of_the_tiles():
    rng = np.random.default_rng(0)
    score = rng.integers(-5, 5, (4, 150)).astype(np.float32)
    request = np.repeat(np.arange(4), 20)
    row = np.concatenate([1 + rng.permutation(149)[:20] for _ in range(4)])
    exact = rng.integers(-9, 9, 80).astype(np.float32)
    barred = rng.random((4, 150)) < 0.3
    changed = score.copy()
    changed[request, row] = exact
    mask = RowMask.of(4, 150, *np.nonzero(barred))
    for k in (1, 10, 200):
        pairs = request, row, exact
        top = ranked([Array(score)], score, k, 32, mask, pairs)
        assert_same(top, brute_force(changed, barred, k))


def test_many_requests_are_ranked_some_at_a_time(monkeypatch):
    monkeypatch.setattr(scan, "REQUESTS_AT_ONCE", 3)
    score = np.random.default_rng(0).integers(-9, 9, (10, 80)).astype(np.float32)
    barred = score > 4
    mask = RowMask.of(10, 80, *np.nonzero(barred))
    top = scan.corpus_top_k(
        lambda part: [Array(score[part])], 10, 80, 6, scan.TileSize(64 * 3), mask
    )
    assert_same(top, brute_force(score, barred, 6))


def test_nothing_to_rank():
    none = np.zeros((0, 10), np.float32)
    assert [a.shape for a in ranked([Array(none)], none, 4, 8)] == [(0, 4)] * 2
    only_padding = np.ones((2, 1), np.float32)
    row, score = ranked([Array(only_padding)], only_padding, 3, 8)
    assert (row == 0).all()
    assert np.isneginf(score).all()


@pytest.mark.parametrize("message", ["RESOURCE_EXHAUSTED: 8 bytes", "std::bad_alloc", None])
def test_out_of_memory_halves_the_tile_and_says_so_once(message, caplog):
    score = np.random.default_rng(0).integers(-9, 9, (2, 1_000)).astype(np.float32)

    def fails(count):
        if count > 130:
            raise MemoryError if message is None else RuntimeError(message)

    size, tiles = scan.TileSize(1 << 40), [Array(score, fails=fails)]
    none = np.zeros((1, 1_000), bool)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            top = scan.corpus_top_k(lambda _: tiles, 2, 1_000, 9, size)
            assert_same(top, brute_force(score, none, 9))
    assert max(tiles[0].counts) == 64  # what fitted was kept for the second time
    assert [record.message for record in caplog.records] == [
        "Out of memory with 1,000 items at a time: going on with fewer."
    ]
    every = scan.all_scores(tiles, 2, 1_000, scan.TileSize(2 * 1_000))
    np.testing.assert_array_equal(every[:, 1:], score[:, 1:])
    assert np.isneginf(every[:, 0]).all()


def test_what_fails_otherwise_or_with_one_row_fails():
    score = np.zeros((2, 100), np.float32)

    def fails(error):
        def fail(count):
            raise error

        return [Array(score, fails=fail)]

    with pytest.raises(RuntimeError, match="another"):
        ranked(fails(RuntimeError("another")), score, 3, 64)
    with pytest.raises(MemoryError):
        ranked(fails(MemoryError()), score, 3, 64)


def test_merging_keeps_the_best_of_all_parts():
    parts = [
        (np.array([[7, 9]]), np.array([[5.0, 1.0]])),
        (np.array([[2, 0]]), np.array([[5.0, -np.inf]])),
    ]
    row, score = merged_tops(parts, 5)
    assert row.tolist() == [[2, 7, 9, 0, 0]]
    assert score.tolist() == [[5, 5, 1, -np.inf, -np.inf]]


def test_a_tile_is_as_long_as_the_padded_requests_leave_room_for():
    size = scan.TileSize(8 * 1_000, lambda requests: max(requests, 8))
    assert [size.rows(requests) for requests in (1, 8, 16)] == [960, 960, 448]
