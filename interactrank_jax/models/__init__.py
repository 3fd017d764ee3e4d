"""The models. Importing this package registers them: see `registry.py`."""

from interactrank_jax.models import (  # noqa: F401
    cold,
    dat,
    fit,
    interactfit,
    interactrank,
    inttower,
    matrix_factorization,
    ranking,
    two_tower,
)
