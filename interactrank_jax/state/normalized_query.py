"""The form of a query: its words (`log/values.words`), each once and sorted.

"Red  shoes", "shoes red" and "RED SHOES!" have one form, so that a query that nobody asked yet may
have a history under its form.
"""

import ibis

from interactrank_jax.log.values import words


def form(text: str) -> str:
    """Returns the form of a text."""
    return " ".join(sorted(set(words(text))))


@ibis.udf.scalar.python
def query_form(text: str) -> str:
    """Returns `form` as an expression; the workers of a cluster need this package for it."""
    return form(text)
