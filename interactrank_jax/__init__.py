"""Pre-ranking models in JAX: from a search log to scored candidates."""
