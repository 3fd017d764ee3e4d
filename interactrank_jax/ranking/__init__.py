"""Ranking: item index, exact top-k, batch scoring, explanations."""
