"""Names of the models, and how to build one from a config.

A model gets its name where it is defined, in this package or in a file of the user's, such as a
config:

    @register("mine")
    class Mine(TwoTower): ...

Importing `interactrank_jax.models` registers ours.
"""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ml_collections import ConfigDict, FrozenConfigDict

from interactrank_jax.config import registration
from interactrank_jax.config.field_table import Field
from interactrank_jax.config.registration import calling_file, check_same
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.models.flops import Shapes
from interactrank_jax.models.inputs import Inputs
from interactrank_jax.models.preranker import PreRanker

Model = TypeVar("Model", bound=type[PreRanker])
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Registration:
    """A model under its name.

    Attributes:
      model: the class.
      file: that registered it, absolute.
      flops: FLOPs per candidate in `score` by a formula; None for a model without one.
      fields: the model's own config fields, named as 'model.NAME': type, range and meaning.
    """

    model: type[PreRanker]
    file: str
    flops: Callable[[Shapes], float] | None = None
    fields: tuple[Field, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether the model is part of this package, so that any process knows it."""
        return Path(self.file).is_relative_to(_PACKAGE)


MODELS: dict[str, Registration] = registration.MODELS


def register(
    name: str,
    *,
    flops: Callable[[Shapes], float] | None = None,
    fields: tuple[Field, ...] = (),
) -> Callable[[Model], Model]:
    """Names a model class: `config.model.name`. A decorator.

    Running a file again registers its classes anew.

    Args:
      name: the name.
      flops: FLOPs per candidate by a formula, held against XLA's count where costs are listed.
      fields: the model's own config fields, named as 'model.NAME'; a config of this model may have
        them, and must where they are not optional.

    Raises:
      InputError: another class has the name.
    """
    file = calling_file()

    def decorate(model: Model) -> Model:
        if not (inspect.isclass(model) and issubclass(model, PreRanker)):
            raise InputError(f"@register('{name}'): expected a subclass of PreRanker.")
        before = MODELS.get(name)
        if before is not None:
            check_same("model", name, (before.file, before.model), (file, model))
        MODELS[name] = Registration(model, file, flops, tuple(fields))
        return model

    return decorate


def build_model(config: ConfigDict, inputs: Inputs) -> PreRanker:
    """Returns the model that `config.name` (the `model` part of a config) names.

    Raises:
      InputError: no such model.
    """
    if config.name not in MODELS:
        raise InputError(f"no model '{config.name}'." + did_you_mean(config.name, MODELS))
    return MODELS[config.name].model(FrozenConfigDict(config), inputs)
