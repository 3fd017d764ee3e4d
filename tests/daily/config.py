"""A config that trains on the daily logs of these tests in a second or two."""

from ml_collections import ConfigDict

from interactrank_jax.config import models
from tests.synthetic import without_blocks


def get_config() -> ConfigDict:
    """An InteractRank without its blocks, on small batches."""
    config = models.interactrank("search")
    config.data.update({"block_size": 64})
    config.data.split.fractions = (0.4, 0.3, 0.3)
    config.data.cross.features = ("share:click:7", "share:click:30")
    config.data.text.buckets = 500
    config.data.history.length = 10
    config.model.embedding_dim = 8
    config.model.tower.update({"hidden": (16,), "output_dim": 8})
    without_blocks(config)
    config.train.update({"batch_size": 32, "epochs": 1.0, "log_every": 10})
    config.train.tables.learning_rate = 0.05
    config.evaluate.update({"batch_size": 64, "bootstrap": 50})
    return config
