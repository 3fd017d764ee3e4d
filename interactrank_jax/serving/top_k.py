"""The best of many scores, exactly; of equal scores the item whose row comes first in the store."""

import numpy as np

Top = tuple[np.ndarray, np.ndarray]  # row and score of each item, `[M]`


def top_k(score: np.ndarray, row: np.ndarray, k: int) -> np.ndarray:
    """Returns the positions `[k]` of the best k of a request's items, best first.

    Of equal scores the one whose row comes first in the store.
    """
    kept = np.arange(len(score))
    if k < len(score):
        bound = np.partition(score, len(score) - k)[len(score) - k]
        kept = np.flatnonzero(score >= bound)
    return kept[np.lexsort((row[kept], -score[kept]))[:k]]


def joined_tops(tops: list[Top]) -> Top:
    """Returns rows and scores one after the other."""
    if not tops:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    row, score = (np.concatenate(arrays) for arrays in zip(*tops, strict=True))
    return row, score
