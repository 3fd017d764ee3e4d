"""The registries of models and of losses, and what they share: whose a name is.

They lie here so that they can be read without jax. `models/registry.py` and `losses/registry.py`
fill them; each is empty until the package that it is of has been imported.
"""

import inspect
from pathlib import Path
from typing import Any

from interactrank_jax.io.errors import InputError

MODELS: dict[str, Any] = {}
LOSSES: dict[str, Any] = {}


def calling_file() -> str:
    """Returns the file, absolute, that called the function that calls this one.

    Not the module's of a class or function: a config file is run without being imported as one.
    """
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame else None
    return str(Path(frame.f_code.co_filename).resolve()) if frame else ""


def check_same(what: str, name: str, before: tuple[str, Any], now: tuple[str, Any]) -> None:
    """Refuses to give a name to a second class or function.

    The same one comes again when its file is run again. It is then another object: file and
    qualified name tell whether it is the same.

    Args:
      what: 'model' or 'loss', for the message.
      name: the name.
      before, now: file and object that have the name, and that want it.

    Raises:
      InputError: they are not the same.
    """
    (old_file, old), (file, new) = before, now
    old_name, new_name = (getattr(value, "__qualname__", "") for value in (old, new))
    if (old_file, old_name) != (file, new_name):
        raise InputError(
            f"the {what} name '{name}' is that of {old_name} in {old_file}, and {new_name} in "
            f"{file} asks for it. Expected a name of its own: choose another."
        )
