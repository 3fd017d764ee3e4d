"""Configs of the models, one function each: `configs/*.py` launch them.

Each takes the name of a data set (`data_sets.py`) and returns a whole config.

Example:
  >>> import interactrank_jax as ir
  >>> config = ir.configs.interactrank("search")
  >>> config.train.batch_size = 512
  >>> ir.configs.build("interactrank", "search").model.name
  'interactrank'
"""

from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from interactrank_jax.config.builders import base_config, fit_to_data, model_config
from interactrank_jax.io.errors import InputError, did_you_mean


def two_tower(argument: str = "search") -> ConfigDict:
    """The vanilla two-tower model (DSSM): MLP towers, histories averaged, no interaction."""
    config = base_config(argument)
    config.model = model_config("two_tower", pooling="mean", masknet_blocks=0)
    fit_to_data(config, argument)
    return config


def interactrank(argument: str = "search") -> ConfigDict:
    """InteractRank: real-time sequences, and ItemQueryPerf beside the dot product."""
    config = base_config(argument)
    config.model = model_config("interactrank", pooling="interactrank", masknet_blocks=4)
    _add_cross_terms(config)
    fit_to_data(config, argument)
    return config


def _add_cross_terms(config: ConfigDict) -> None:
    """Adds the fields of the cross features' affine projection."""
    # Where they are not fitted: the official code starts all weights at 1.
    config.model.cross = ConfigDict({"transform": "odds", "weight_init": 1.0})
    config.model.dot_weight_init = 1.0  # so that towers that know nothing yet do not drown them


def fit(argument: str = "search") -> ConfigDict:
    """FIT: meta queries in the user tower, and a small network over heads in place of the dot."""
    config = base_config(argument)
    config.model = model_config("fit", pooling="mean", masknet_blocks=0)
    config.model.sequence.history = "target"
    _add_fit(config, argument)
    fit_to_data(config, argument)
    return config


def _add_fit(config: ConfigDict, argument: str) -> None:
    """Adds the fields of the meta queries, of the late interaction, and of the sampled softmax."""
    if argument == "search":
        # The gain of the learned scorer depends on it. ROC-AUC on validation, one seed, with these
        # and with the other models' values: medium simulated log .6799, .6666; small .7038, .6907.
        config.train.loss.update({"softmax_weight": 0.1, "log_q": "none"})
    model = config.model
    model.meta = ConfigDict(
        {
            "vectors": 8,  # N: the sampled softmax takes so many user vectors in training
            "attention_hidden": 16,
            "attention_softmax": False,
            "decay": 0.5,  # share of training over which the temperature falls from 1
            "temperature_min": 1e-3,
        }
    )
    # 4 heads of 16 take as much room in an index as one vector of 64.
    model.late = ConfigDict(
        {
            "user_heads": 4,
            "item_heads": 4,
            "width": 16,
            "hidden": (8, 8),
            "scale_init": 5.0,
        }
    )


def interactfit(argument: str = "search") -> ConfigDict:
    """InteractFIT: FIT's learned interaction, with ItemQueryPerf and InteractRank's towers."""
    config = base_config(argument)
    config.model = model_config("interactfit", pooling="interactrank", masknet_blocks=4)
    # On validation the target attention beats InteractRank's pooling of the user's history: .6787
    # and .6776 on the simulated log (medium), .7753 and .7738 on MovieLens-100K by time.
    config.model.sequence.history = "target"
    _add_cross_terms(config)
    _add_fit(config, argument)
    fit_to_data(config, argument)
    return config


def dat(argument: str = "search") -> ConfigDict:
    """DAT: two towers, each with a vector per id that learns the output of the other tower."""
    config = base_config(argument)
    config.model = model_config("dat", pooling="mean", masknet_blocks=0)
    # What a query's engaged items look like says more than what its searcher's do. Where users are
    # left out, the query is a segment of them.
    request = "query_id" if argument in ("search", "movielens_100k") else "user_id"
    config.model.augment = ConfigDict({"request": request})
    config.model.mimic_weight = 0.5
    fit_to_data(config, argument)
    return config


def inttower(argument: str = "search") -> ConfigDict:
    """IntTower: gated fields, heads of every layer compared with the item's, an in-batch loss."""
    config = base_config(argument)
    config.model = model_config("inttower", pooling="mean", masknet_blocks=0)
    # 4 heads of 16 take as much room in an index as one vector of 64.
    config.model.fe = ConfigDict({"heads": 4, "width": 16})
    fit_to_data(config, argument)
    # CIR is a part of the model: it stays where the others have no softmax.
    config.train.loss.update({"softmax_weight": 0.1, "log_q": "none"})
    if argument == "movielens_1m_published":
        # As the authors' code: a batch of 2048, its mean CIR added to the sum of its cross entropy.
        config.train.loss.softmax_weight = 1 / 2048
    return config


def cold(argument: str = "search") -> ConfigDict:
    """COLD: one network over user, item and cross features, each weighed by its importance."""
    return _joint_config("cold", argument)


def wide_deep(argument: str = "search") -> ConfigDict:
    """Wide&Deep: a linear model of all inputs beside an MLP of their embeddings."""
    return _joint_config("wide_deep", argument)


def _joint_config(name: str, argument: str) -> ConfigDict:
    """Returns what the models that run a network for each pair share.

    Of `model.tower` they read numeric_views, hidden, layer_norm and dropout.
    """
    config = base_config(argument)
    config.model = model_config(name, pooling="mean", masknet_blocks=0)
    config.model.cross = ConfigDict({"transform": "odds", "affine": True})
    config.model.tower.dropout = 0.1
    # As in their papers. DeepFM on MovieLens-100K, validation, two seeds: .8688, with it .8682.
    config.model.tower.layer_norm = False
    config.model.l2 = 0.0
    # Every request with the items of the whole batch would be a network run for each of them.
    config.train.loss.softmax_weight = 0.0
    config.evaluate.corpus_requests = 200
    fit_to_data(config, argument)
    if argument in ("movielens_100k_random", "movielens_1m"):
        config.train.epochs = 5.0
        config.train.optimizer.learning_rate = 5e-3
        # Decoupled from Adam: the last layer starts at zero, so that at first the rows have hardly
        # a gradient but that of model.l2, which Adam would scale up until they were zero too.
        tables = {"name": "adam", "learning_rate": 0.01, "decay": "cosine", "weight_decay": 0.3}
        config.train.tables.update(tables)
    return config


def deepfm(argument: str = "search") -> ConfigDict:
    """DeepFM: first- and second-order terms of all inputs beside an MLP of their embeddings."""
    return _joint_config("deepfm", argument)


def dcn_v2(argument: str = "search") -> ConfigDict:
    """DCN-V2: a cross network beside an MLP."""
    config = _joint_config("dcn_v2", argument)
    config.model.cross_layers = 2
    return config


def autoint(argument: str = "search") -> ConfigDict:
    """AutoInt: self-attention over fields beside an MLP (the paper's AutoInt+)."""
    config = _joint_config("autoint", argument)
    config.model.interacting = ConfigDict({"layers": 3, "heads": 2, "width": 16})
    return config


def lr(argument: str = "search") -> ConfigDict:
    """Logistic regression: a weight per id, numbers and cross features linear."""
    config = base_config(argument)
    config.model = model_config("lr", pooling="none", masknet_blocks=0)
    config.model.cross = ConfigDict({"transform": "odds", "weight_init": 0.0})
    config.model.tower.numeric_views = ("gaussian",)
    config.train.loss.softmax_weight = 0.0
    fit_to_data(config, argument)
    if argument in ("movielens_100k_random", "movielens_1m"):
        config.train.tables.update({"name": "adam", "learning_rate": 0.01, "decay": "cosine"})
    return config


def matrix_factorization(argument: str = "search") -> ConfigDict:
    """Matrix factorisation, 16 factors and biases: the reference line of every table."""
    config = base_config(argument)
    config.model = model_config("matrix_factorization", pooling="none", masknet_blocks=0)
    config.model.only = ("user_id", "item_id")
    config.model.embedding_dim = 16
    config.model.l2 = 0.02 if argument.startswith("movielens_100k") else 0.01
    if argument == "movielens_100k":
        # Ids are all that it has. On validation, one seed: .751, and .719 where items of less than
        # 30 ratings share rows.
        config.data.vocabulary.min_count = 2
    config.train.epochs = 10.0
    config.train.tables.update({"name": "adam", "learning_rate": 0.01, "decay": "cosine"})
    config.train.loss.softmax_weight = 0.0
    return config


MODELS: dict[str, Callable[[str], ConfigDict]] = {
    "two_tower": two_tower,
    "interactrank": interactrank,
    "fit": fit,
    "interactfit": interactfit,
    "dat": dat,
    "inttower": inttower,
    "cold": cold,
    "wide_deep": wide_deep,
    "deepfm": deepfm,
    "dcn_v2": dcn_v2,
    "autoint": autoint,
    "lr": lr,
    "matrix_factorization": matrix_factorization,
}


def build(model: str, data_set: str = "search") -> ConfigDict:
    """Returns the config of a model for a data set.

    Raises:
      InputError: an unknown model or data set.
    """
    if model not in MODELS:
        raise InputError(f"There is no config of a model '{model}'." + did_you_mean(model, MODELS))
    return MODELS[model](data_set)


def for_log(model: str, log: Any, positive: Sequence[str] = ()) -> ConfigDict:
    """Returns the config of a model for a log of your own, whatever its actions are called.

    Histories are made of all actions. Each positive one is counted per query and item over a week,
    a month and a year, and per user: how often it was done, and at what rate. Of a log with time
    examples are split by it, others at random.

    Example:
      >>> import interactrank_jax as ir
      >>> actions = ("view", "buy")
      >>> log = ir.Log.from_frames(
      ...     items={"item_id": ["a", "b"]},
      ...     requests={
      ...         "request_id": [1], "user_id": [7], "query_id": ["tea"], "timestamp": [1700000000],
      ...     },
      ...     impressions={
      ...         "request_id": [1, 1], "item_id": ["a", "b"], "position": [0, 1],
      ...         "view": [1, 1], "buy": [1, 0],
      ...     },
      ...     actions=actions,
      ... )
      >>> config = ir.configs.for_log("interactrank", log, positive=("buy",))
      >>> config.label.positive, config.data.cross.features[0]
      (('buy',), 'share:buy:7')

    Args:
      model: a name of `MODELS`.
      log: a `Log`; only its schema is looked at.
      positive: actions that count as a success; all by default.

    Raises:
      InputError: an unknown model, or a positive action that the log does not have.
    """
    actions = tuple(log.schema.actions)
    positive = tuple(positive) or actions
    for action in positive:
        if action not in actions:
            raise InputError(f"positive action '{action}'." + did_you_mean(action, actions))
    timeless = log.schema.timeless
    config = build(model, "ratings" if timeless else "search")
    config.data.history.update({"actions": actions, "rates": positive})
    config.data.query_history.actions = positive
    windows = (730,) if timeless else (7, 30, 365)
    config.data.cross.features = tuple(
        f"share:{action}:{days}" for action in positive for days in windows
    )
    config.label.update(
        {
            "heads": ("engaged",),
            "utility": (1.0,),
            "positive": positive,
            "negative": (),
            "weights": (),
            "impression_weight": 1.0,
        }
    )
    config.train.loss.impression_sampling = 1.0
    return config
