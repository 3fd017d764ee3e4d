"""Configs: what they may hold, how one is read, and the builders of ours."""
