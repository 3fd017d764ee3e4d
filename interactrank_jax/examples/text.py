"""Text as hashed ids of words and character n-grams (the hashing trick), in one table."""

import numpy as np
import pyarrow as pa

from interactrank_jax.examples.vocabulary import hash_rows
from interactrank_jax.log.values import words

# The ends of a word, so that an n-gram at an end is another than the same letters inside; and a
# prefix of all n-grams, so that none is taken for a word.
_START, _END, _NGRAM = "<", ">", "#"


def ngrams(word: str, size: int) -> list[str]:
    """Returns the character n-grams of one word with its ends marked: `ab`, 3 -> `#<ab`, `#ab>`."""
    marked = f"{_START}{word}{_END}"
    return [
        _NGRAM + marked[first : first + size] for first in range(max(len(marked) - size + 1, 1))
    ]


def tokenize(texts: pa.Array, buckets: int, max_tokens: int, ngram: int) -> np.ndarray:
    """Returns the token ids of each text: its words in order, then their n-grams.

    Args:
      texts: `[N]` strings; null is the empty text.
      buckets: tokens are hashed to 1..buckets.
      max_tokens: longer texts are cut; a word goes before any n-gram.
      ngram: characters of an n-gram, word ends included.

    Returns:
      int32 `[N, max_tokens]`, padded with 0.
    """
    distinct = texts.dictionary_encode()
    tokens = [words(text) for text in distinct.dictionary.to_pylist()]
    vocabulary = list(dict.fromkeys(word for text in tokens for word in text))
    pieces = [ngrams(word, ngram) for word in vocabulary]
    ids = hash_rows(
        pa.array(vocabulary + [piece for word in pieces for piece in word], pa.large_string()),
        buckets,
    ).tolist()
    word_id = dict(zip(vocabulary, ids, strict=False))
    piece_ids, first = {}, len(vocabulary)
    for word, parts in zip(vocabulary, pieces, strict=True):
        piece_ids[word] = ids[first : first + len(parts)]
        first += len(parts)

    table = np.zeros((len(tokens) + 1, max_tokens), np.int32)  # the last row is the empty text
    for row, text in enumerate(tokens):
        sequence = [word_id[word] for word in text[:max_tokens]]
        for word in text:
            if len(sequence) >= max_tokens:
                break
            sequence += piece_ids[word]
        sequence = sequence[:max_tokens]
        table[row, : len(sequence)] = sequence
    codes = distinct.indices.fill_null(len(tokens)).to_numpy(zero_copy_only=False)
    return table[codes]
