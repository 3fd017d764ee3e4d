"""Pre-ranking models in JAX: from a search log to scored candidates.

In a notebook:

    import interactrank_jax as ir

    actions = ("click", "long_click", "short_click", "save")  # those that the config names
    log = ir.Log.from_frames(items=..., requests=..., impressions=..., actions=actions)
    config = ir.configs.interactrank("search")
    examples = ir.prepare(log, config)
    trainer = ir.Trainer(config, examples).fit(steps=500)
    trainer.evaluate("test").table()
    ranker = ir.export_bundle(trainer)
    ranker.rank(new_requests, candidates, k=500)

Each name is imported when it is first used, so that a machine that only trains or ranks needs
neither DuckDB nor Ibis.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interactrank_jax import losses as losses
    from interactrank_jax import metrics as metrics
    from interactrank_jax import models as models
    from interactrank_jax._export import export_bundle as export_bundle
    from interactrank_jax._prepare import prepare as prepare
    from interactrank_jax.config import models as configs
    from interactrank_jax.examples.format import Examples as Examples
    from interactrank_jax.log.read import Log as Log
    from interactrank_jax.ranking.ranker import Ranker as Ranker
    from interactrank_jax.training.trainer import Trainer as Trainer

# To add a public name, add it to all three: the imports above, which are for type checkers and
# editors, `__all__`, and `_MODULES` (its module, and its name there, for it may be the module). Its
# docstring must have an example, which a test runs.
__all__ = [
    "Examples",
    "Log",
    "Ranker",
    "Trainer",
    "configs",
    "export_bundle",
    "losses",
    "metrics",
    "models",
    "prepare",
]
_MODULES = {
    "Examples": "interactrank_jax.examples.format:Examples",
    "Log": "interactrank_jax.log.read:Log",
    "Ranker": "interactrank_jax.ranking.ranker:Ranker",
    "Trainer": "interactrank_jax.training.trainer:Trainer",
    "configs": "interactrank_jax.config.models",
    "export_bundle": "interactrank_jax._export:export_bundle",
    "losses": "interactrank_jax.losses",
    "metrics": "interactrank_jax.metrics",
    "models": "interactrank_jax.models",
    "prepare": "interactrank_jax._prepare:prepare",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, _, attribute = _MODULES[name].partition(":")
    value = importlib.import_module(module)
    globals()[name] = value = getattr(value, attribute) if attribute else value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
