"""`python -m interactrank_jax` is the command `interactrank`."""

from interactrank_jax.cli import run

run()
