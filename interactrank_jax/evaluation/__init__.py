"""Exact evaluation: scorers, metrics, intervals, calibration."""
