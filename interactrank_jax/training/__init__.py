"""Training: the objective, one step, the loop, and what a run saves."""
