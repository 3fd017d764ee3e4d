"""Towers of three sizes, each with and without dropout: width and depth grow together."""

from experiments.sweeps import over, product, zipped


def sweep():
    """Yields overrides."""
    sizes = zipped(
        over("model.tower.hidden", ((64,), (128, 64), (256, 128))),
        over("model.tower.output_dim", (16, 32, 64)),
    )
    return product(sizes, over("model.tower.dropout", (0.0, 0.2)))
