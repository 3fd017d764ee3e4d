"""Names of the losses that `config.train.loss` chooses from.

A loss gets its name where it is defined, in this package or in a file of the user's, such as a
config:

    @losses.register("mine", kind="slate")
    def mine(logits, labels, *, where=None, weights=None) -> losses.Total: ...

By kind, what it is called with, and what turns it on:

    pointwise     logits and labels of one head, `[R, C]`; `train.loss.name` is its name
    slate         ranked scores and labels, `[R, C]`; `train.loss.NAME_weight` is above 0
    distillation  logits of the first head and the teacher's, `[R, C]`; as of slate
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from interactrank_jax.config import registration
from interactrank_jax.config.field_kinds import Number
from interactrank_jax.config.field_table import Field
from interactrank_jax.config.registration import calling_file, check_same
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.losses.total import Total

KINDS = ("pointwise", "slate", "distillation")
RESERVED = ("softmax",)  # the sampled softmax, which compares items of the whole batch
Loss = TypeVar("Loss", bound=Callable[..., Total])


@dataclasses.dataclass(frozen=True)
class Registration:
    """A loss under its name.

    Attributes:
      loss: the function.
      kind: one of KINDS.
      file: that registered it, absolute.
      case: its value computed by hand, for `properties.check`; None for a loss without one.
      fields: the config field of its weight; () for a pointwise loss.
    """

    loss: Callable[..., Total]
    kind: str
    file: str
    case: Any = None
    fields: tuple[Field, ...] = ()


LOSSES: dict[str, Registration] = registration.LOSSES


def register(name: str, *, kind: str, case: Any = None) -> Callable[[Loss], Loss]:
    """Names a loss. A decorator. Running a file again registers its losses anew.

    Args:
      name: the name, an identifier: it is part of a config field's.
      kind: one of KINDS.
      case: a `properties.Case`: `properties.check(name)` then holds the loss against what all
        losses have in common.

    Raises:
      InputError: an unknown kind, no identifier, or another loss has the name.
    """
    if kind not in KINDS:
        raise InputError(f"loss '{name}' is of kind '{kind}'." + did_you_mean(str(kind), KINDS))
    if not name.isidentifier() or name in RESERVED:
        raise InputError(
            f"a loss cannot be called '{name}'. Expected letters, digits and underscores, and none "
            f"of {RESERVED}."
        )
    file = calling_file()

    def decorate(loss: Loss) -> Loss:
        before = LOSSES.get(name)
        if before is not None:
            check_same("loss", name, (before.file, before.loss), (file, loss))
        fields: tuple[Field, ...] = ()
        if kind != "pointwise":
            meaning = f"weight of the {kind} loss '{name}'"
            fields = (Field(f"train.loss.{name}_weight", Number(0, 1e6), meaning, optional=True),)
        LOSSES[name] = Registration(loss, kind, file, case, fields)
        return loss

    return decorate


def of_kind(kind: str) -> dict[str, Callable[..., Total]]:
    """Returns the losses of a kind by name."""
    return {name: entry.loss for name, entry in LOSSES.items() if entry.kind == kind}
