"""Learning rate of the tables by that of everything else: nine trials around the defaults."""

from experiments.sweeps import over, product


def sweep():
    """Yields overrides."""
    return product(
        over("train.tables.learning_rate", (0.02, 0.05, 0.1)),
        over("train.optimizer.learning_rate", (3e-4, 1e-3, 3e-3)),
    )
