"""A search log with a known truth."""
