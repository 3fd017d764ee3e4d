import numpy as np
import pyarrow as pa

from interactrank_jax.examples.text import ngrams, tokenize
from interactrank_jax.examples.vocabulary import hash_rows
from interactrank_jax.log.values import words


def _ids(*tokens: str) -> list[int]:
    return hash_rows(pa.array(tokens), 5000).tolist()


def _tokenize(*texts: str | None, max_tokens: int = 12) -> np.ndarray:
    return tokenize(pa.array(texts, pa.large_string()), 5000, max_tokens, 3)


def test_words_are_normalised_and_lower_case():
    assert words("Red-SHOE, 42 ﬁt Größe") == ["red", "shoe", "42", "fit", "größe"]


def test_ngrams_mark_the_ends_of_a_word():
    assert ngrams("shoe", 3) == ["#<sh", "#sho", "#hoe", "#oe>"]
    assert ngrams("a", 3) == ["#<a>"]
    assert ngrams("a", 9) == ["#<a>"]


def test_words_come_before_ngrams():
    row = _tokenize("red ox")[0]
    assert row[:7].tolist() == _ids("red", "ox", "#<re", "#red", "#ed>", "#<ox", "#ox>")
    assert not row[7:].any()


def test_long_texts_keep_their_first_words():
    assert _tokenize("one two three", max_tokens=2)[0].tolist() == _ids("one", "two")
    assert _tokenize("one", max_tokens=3)[0].tolist() == _ids("one", "#<on", "#one")


def test_empty_texts_are_padding():
    assert not _tokenize("", None, " !? ").any()


def test_equal_texts_have_equal_rows_wherever_they_stand():
    rows = _tokenize("red ox", "blue", "red ox", "Red  OX")
    assert np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[0], rows[3])
    assert rows.dtype == np.int32


def test_no_texts_give_no_rows():
    assert _tokenize().shape == (0, 12)
