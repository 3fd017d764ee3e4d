"""Pairs of a request and an item: what is looked up for them."""

import numpy as np
import pyarrow as pa
import pytest

from interactrank_jax.serving.pairs import PairScorer
from interactrank_jax.serving.requests import EncodedRequests

ROWS = np.array([3, 5, 8])


class Bundle(dict):
    """A bundle of a model that sees no cross features, though its STATE counts some."""

    def __init__(self):
        inputs = dict.fromkeys(("query/0", "row"))
        super().__init__(heads=["engaged"], graphs={"score": {"inputs": inputs}})
        self["graphs"]["score_list"] = {"inputs": dict.fromkeys(("user_id", "row"))}

    @property
    def cross(self):
        raise AssertionError("cross features were looked up")


class Graphs:
    """Scores every pair by the item's row."""

    def padded(self, length):
        return 4

    padded_alone = padded

    def run(self, name, inputs):
        assert "cross" not in inputs
        score = inputs["row"].astype(np.float32)
        return {"score": score, "logits": score[..., None]}


@pytest.mark.parametrize("way", ["of_request", "of_lists", "scores"])
def test_no_cross_feature_is_looked_up_where_scores_depend_on_none(way):
    pairs = PairScorer(Bundle(), Graphs())
    encoded = EncodedRequests(
        pa.array([7]), {"user_id": np.array([1])}, {("query_id",): np.array([0])}
    )
    query = {"query/0": np.zeros((1, 2), np.float32)}
    if way == "of_request":
        scores, logits, cross = pairs.of_request(encoded, ROWS)
    elif way == "of_lists":
        scores, logits, cross = pairs.of_lists(encoded, query, np.array([0, 3]), ROWS)
    else:
        of_batch = pairs.scores(encoded, query, np.array([0]), ROWS[None])
        scores, logits, cross = of_batch[0][0, :3], of_batch[1][0, :3], of_batch[2]
    np.testing.assert_array_equal(scores, ROWS)
    np.testing.assert_array_equal(logits[:, 0], ROWS)
    assert cross is None
