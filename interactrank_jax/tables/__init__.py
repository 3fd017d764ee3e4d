"""Embedding tables, outside the modules: look up, update rows, split over devices."""
