"""The form of a query: its words (`examples/text.py`), each once and sorted.

"Red  shoes", "shoes red" and "RED SHOES!" have one form, so that a query that nobody asked yet may
have a history under its form.
"""

import ibis
import pyarrow as pa

from interactrank_jax.log.values import words


def form(text: str) -> str:
    """Returns the form of a text."""
    return " ".join(sorted(set(words(text))))


def forms(texts: pa.Array) -> pa.Array:
    """Returns the form of each text of an array without nulls."""
    encoded = texts.dictionary_encode()
    distinct = pa.array([form(text) for text in encoded.dictionary.to_pylist()], pa.string())
    return distinct.take(encoded.indices)


@ibis.udf.scalar.python
def query_form(text: str) -> str:
    """Returns `form` as an expression; the workers of a cluster need this package for it."""
    return form(text)
