import numpy as np

from interactrank_jax.examples.slates import make_slates


def _sorted_candidates(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    request = rng.integers(0, 20, count).astype(np.int32)
    fold = rng.integers(-1, 5, count).astype(np.int8)
    order = np.lexsort((fold, request))
    return request[order], fold[order]


def test_a_slate_holds_one_fold_of_one_request():
    request, fold = _sorted_candidates(400)
    slates = make_slates(request, fold, slate=3)
    cut = [
        np.arange(start, start + length)
        for start, length in zip(slates.start, slates.length, strict=True)
    ]
    assert np.concatenate(cut).tolist() == list(range(400))
    for example, rows in enumerate(cut):
        assert 1 <= len(rows) <= 3
        assert set(request[rows]) == {slates.request[example]}
        assert set(fold[rows]) == {slates.fold[example]}
    full = sum(len(rows) == 3 for rows in cut)
    _, sizes = np.unique(np.stack([request, fold]), axis=1, return_counts=True)
    assert full == (sizes // 3).sum()


def test_padding_follows_the_candidates_of_an_example():
    request, fold = np.array([7, 7, 7, 9]), np.full(4, -1, np.int8)
    slates = make_slates(request, fold, slate=2)
    values = np.array([[1, 2], [3, 4], [5, 6], [7, 8]])
    assert slates.mask(2).tolist() == [[True, True], [True, False], [True, False]]
    padded = slates.padded({"pairs": values, "firsts": values[:, 0]}, 2)
    assert padded["pairs"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [0, 0]], [[7, 8], [0, 0]]]
    assert padded["firsts"].tolist() == [[1, 3], [5, 0], [7, 0]]
    some = slates.take(np.array([2, 0]))
    assert some.padded({"firsts": values[:, 0]}, 2)["firsts"].tolist() == [[7, 0], [1, 3]]
    assert slates.take(np.array([0])).padded({"pairs": values}, 2)["pairs"].tolist() == [
        [[1, 2], [3, 4]]
    ]


def test_no_candidates_make_no_slates():
    nothing = np.zeros(0, np.int32)
    assert len(make_slates(nothing, nothing.astype(np.int8), slate=3)) == 0
