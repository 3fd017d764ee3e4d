"""The models: every one is a `PreRanker` (see `preranker.py`)."""
