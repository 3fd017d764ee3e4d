import subprocess
import sys

import numpy as np
import pytest

from interactrank_jax.evaluation import baselines
from interactrank_jax.io.errors import InputError

ITEMS = ["Red wool scarf", "blue scarf", "RED red paint", "vitamin c", "", None, "wool, wool!"]


@pytest.fixture(scope="module")
def bm25():
    pytest.importorskip("bm25s")
    return baselines.BM25(ITEMS)


class TestBM25:
    def test_equals_the_formula(self, bm25):
        texts = [["red", "wool", "scarf"], ["blue", "scarf"], ["red", "red", "paint"]]
        texts += [["vitamin", "c"], [], [], ["wool", "wool"]]
        mean_length = np.mean([len(text) for text in texts])

        def score(query, text):
            total = 0.0
            for word in query:
                documents = sum(word in other for other in texts)
                idf = np.log(1 + (len(texts) - documents + 0.5) / (documents + 0.5))
                frequency = text.count(word)
                length = 1 - 0.75 + 0.75 * len(text) / mean_length
                total += idf * frequency / (frequency + 1.5 * length)
            return total

        queries = ["red scarf", "wool", "red red vitamin"]
        expected = [[score(query.split(), text) for text in texts] for query in queries]
        np.testing.assert_allclose(bm25.scores(queries), expected, rtol=1e-5)

    def test_scores_every_item_for_every_query_in_their_order(self, bm25):
        scores = bm25.scores(["scarf", "paint"])
        assert scores.shape == (2, len(ITEMS))
        assert scores.dtype == np.float32
        np.testing.assert_array_equal(scores > 0, [[1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]])
        slates = np.array([[1, 2], [2, 2]])
        np.testing.assert_array_equal(np.take_along_axis(scores, slates, 1) > 0, [[1, 0], [1, 1]])

    def test_case_and_punctuation_do_not_matter_and_one_letter_is_a_word(self, bm25):
        np.testing.assert_array_equal(bm25.scores(["WOOL?"]), bm25.scores(["wool"]))
        assert bm25.scores(["c"])[0].argmax() == 3

    def test_words_are_not_stemmed(self, bm25):
        assert not bm25.scores(["scarfs"]).any()

    @pytest.mark.parametrize("query", ["unheard of", "", None, "?!"])
    def test_a_query_without_a_known_word_scores_zero(self, bm25, query):
        assert not bm25.scores([query]).any()
        expected = bm25.scores(["red"])
        np.testing.assert_array_equal(bm25.scores([f"{query or ''} red"]), expected)

    def test_no_query_gives_no_row(self, bm25):
        assert bm25.scores([]).shape == (0, len(ITEMS))

    def test_a_corpus_without_a_word_scores_zero_and_one_without_items_is_refused(self, bm25):
        assert not baselines.BM25(["", None]).scores(["red"]).any()
        with pytest.raises(InputError, match="item_texts is empty"):
            baselines.BM25([])

    def test_another_process_gives_the_same_bytes(self, bm25):
        program = (
            "import sys; from tests.evaluation.test_baselines import ITEMS, baselines;"
            "print(baselines.BM25(ITEMS).scores(['red wool scarf', 'vitamin']).tobytes().hex())"
        )
        other = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(filter(None, sys.path))},
        )
        here = bm25.scores(["red wool scarf", "vitamin"]).tobytes().hex()
        assert other.stdout.strip() == here

    def test_says_what_to_install_where_the_library_is_absent(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "bm25s", None)
        with pytest.raises(InputError, match=r"pip install interactrank-jax\[data\]"):
            baselines.BM25(ITEMS)


class TestIQP:
    NAMES = (
        "share:click:7",
        "share:click:365:country",
        "share:click:90",
        "share:save:365",
        "rate:click:365",
        "share:click:30",
    )

    @pytest.mark.parametrize(
        ("positive", "feature"),
        [
            (("click",), "share:click:90"),
            (("purchase", "save", "click"), "share:save:365"),  # the first that has one
            (("click", "save"), "share:click:90"),
            (("purchase",), "share:save:365"),  # any: unsegmented, over the longest window
            ((), "share:save:365"),
        ],
    )
    def test_default_is_the_longest_unsegmented_share_of_engagement(self, positive, feature):
        assert self.NAMES[baselines.iqp_column(self.NAMES, positive)] == feature

    @pytest.mark.parametrize(
        ("names", "feature"),
        [
            (("rate:like:30", "share:like:30:country"), "share:like:30:country"),
            (("item_share:like:30", "rate:like:7", "rate:like:30"), "rate:like:30"),
            (("rate:view:90", "rate:like:30"), "rate:like:30"),
            (("item_rate:like:7", "item_share:like:30"), "item_rate:like:7"),
        ],
    )
    def test_without_one_it_is_a_share_else_a_rate_else_the_first(self, names, feature):
        assert names[baselines.iqp_column(names, ("like",))] == feature

    def test_a_named_feature_is_used(self):
        assert baselines.iqp_column(self.NAMES, ("click",), "rate:click:365") == 4

    def test_a_feature_that_is_not_there_is_refused_with_what_is(self):
        with pytest.raises(InputError, match="Did you mean 'share:click:90'"):
            baselines.iqp_column(self.NAMES, ("click",), "share:clik:90")
        with pytest.raises(InputError, match=r"these examples have none: prepare with"):
            baselines.iqp_column([], ("click",))
