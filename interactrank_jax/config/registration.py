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
# Stands for the file of what was registered where there is none: in a cell of a notebook, or at the
# prompt of an interpreter.
SESSION = "<interactive session>"


def calling_file() -> str:
    """Returns the file, absolute, that called the function that calls this one, or SESSION.

    Not the module's of a class or function: a config file is run without being imported as one.
    The code of a cell has the name of a file that does not exist, another one each time it is run.
    """
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame else None
    file = Path(frame.f_code.co_filename).resolve() if frame else None
    return str(file) if file is not None and file.is_file() else SESSION


def check_same(what: str, name: str, before: tuple[str, Any], now: tuple[str, Any]) -> None:
    """Refuses to give a name to a second class or function.

    The same one comes again when its file is run again. It is then another object: file and
    qualified name tell whether it is the same. Within a session, whoever defines a name anew means
    it, whatever the class or function is called.

    Args:
      what: 'model' or 'loss', for the message.
      name: the name.
      before, now: file and object that have the name, and that want it.

    Raises:
      InputError: they are not the same.
    """
    (old_file, old), (file, new) = before, now
    old_name, new_name = (getattr(value, "__qualname__", "") for value in (old, new))
    if old_file == file == SESSION:
        return
    if (old_file, old_name) != (file, new_name):
        raise InputError(
            f"the {what} name '{name}' is that of {old_name} in {old_file}, and {new_name} in "
            f"{file} asks for it. Expected a name of its own: choose another."
        )
