"""The models, and `register` for one of your own. Importing this package registers ours.

Example:
  >>> import interactrank_jax as ir
  >>> @ir.models.register("mine")
  ... class Mine(ir.models.InteractRank):
  ...     def score(self, query, items, cross):
  ...         return super().score(query, items, cross) + cross.sum(-1, keepdims=True)
  >>> config = ir.configs.interactrank("search")
  >>> config.model.name = "mine"  # then ir.Trainer(config, examples) trains it
  >>> ir.models.MODELS["mine"].model is Mine
  True

What a model must define: see `PreRanker`. Own config fields: see `register`.
"""

from interactrank_jax.models.cold import COLD
from interactrank_jax.models.dat import DAT
from interactrank_jax.models.fit import FIT
from interactrank_jax.models.interactfit import InteractFIT
from interactrank_jax.models.interactrank import InteractRank
from interactrank_jax.models.inttower import IntTower
from interactrank_jax.models.matrix_factorization import MatrixFactorization
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.models.ranking import (
    DCNV2,
    AutoInt,
    DeepFM,
    LogisticRegression,
    WideAndDeep,
)
from interactrank_jax.models.registry import MODELS, build_model, register
from interactrank_jax.models.two_tower import TwoTower

__all__ = [
    "COLD",
    "DAT",
    "DCNV2",
    "FIT",
    "MODELS",
    "AutoInt",
    "DeepFM",
    "IntTower",
    "InteractFIT",
    "InteractRank",
    "LogisticRegression",
    "MatrixFactorization",
    "PreRanker",
    "TwoTower",
    "WideAndDeep",
    "build_model",
    "register",
]
