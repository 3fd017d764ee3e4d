"""Export: from a run and STATE to a bundle that ranks requests nobody has seen; and replay."""
