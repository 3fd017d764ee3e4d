"""Names of the models, and how to build one from a config."""

from ml_collections import ConfigDict, FrozenConfigDict

from interactrank_jax.errors import InputError, did_you_mean
from interactrank_jax.models.cold import COLD
from interactrank_jax.models.dat import DAT
from interactrank_jax.models.fit import FIT
from interactrank_jax.models.inputs import Inputs
from interactrank_jax.models.interactfit import InteractFIT
from interactrank_jax.models.interactrank import InteractRank
from interactrank_jax.models.inttower import IntTower
from interactrank_jax.models.matrix_factorization import MatrixFactorization
from interactrank_jax.models.preranker import PreRanker
from interactrank_jax.models.ranking import DCNV2, AutoInt, DeepFM, LogisticRegression, WideAndDeep
from interactrank_jax.models.two_tower import TwoTower

MODELS: dict[str, type[PreRanker]] = {
    "two_tower": TwoTower,
    "interactrank": InteractRank,
    "fit": FIT,
    "interactfit": InteractFIT,
    "matrix_factorization": MatrixFactorization,
    "dat": DAT,
    "inttower": IntTower,
    "cold": COLD,
    "lr": LogisticRegression,
    "wide_deep": WideAndDeep,
    "deepfm": DeepFM,
    "dcn_v2": DCNV2,
    "autoint": AutoInt,
}
DTYPES = ("float32", "bfloat16")


def build_model(config: ConfigDict, inputs: Inputs) -> PreRanker:
    """Returns the model that `config.name` (the `model` part of a config) names.

    Raises:
      InputError: no such model, or a type that it cannot compute in.
    """
    if config.name not in MODELS:
        raise InputError(f"no model '{config.name}'." + did_you_mean(config.name, MODELS))
    if config.dtype not in DTYPES:
        raise InputError(
            f"config.model.dtype is '{config.dtype}'." + did_you_mean(str(config.dtype), DTYPES)
        )
    return MODELS[config.name](FrozenConfigDict(config), inputs)
