import numpy as np

from interactrank_jax.examples.frames import Impressions
from interactrank_jax.examples.splits import make_slates


def test_a_slate_of_a_random_split_holds_one_fold_of_one_request():
    rng = np.random.default_rng(0)
    request = np.sort(rng.integers(0, 20, 400)).astype(np.int32)
    fold = rng.integers(-1, 5, 400).astype(np.int8)
    place = np.arange(400)
    impressions = Impressions(place, request, place, place, np.zeros((400, 1), np.uint8), {})
    rows = np.flatnonzero(fold >= 0)
    slates = make_slates(impressions, rows, fold, slate=3)
    cut = [
        slates.rows[start : start + length]
        for start, length in zip(slates.start, slates.length, strict=True)
    ]
    assert sorted(np.concatenate(cut)) == rows.tolist()
    for owner, held in zip(slates.request, cut, strict=True):
        assert 1 <= len(held) <= 3
        assert set(request[held]) == {owner}
        assert len(set(fold[held])) == 1
    full = sum(len(held) == 3 for held in cut)
    groups, sizes = np.unique(np.stack([request[rows], fold[rows]]), axis=1, return_counts=True)
    assert full == (sizes // 3).sum()
    np.testing.assert_array_equal(slates.distinct, np.unique(groups[0]))
