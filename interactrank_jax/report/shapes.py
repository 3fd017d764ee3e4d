"""Whether JSON that anyone may have edited has the parts and the numbers that a page shows."""

from collections.abc import Mapping
from typing import Any

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError

NUMBER, COUNT, TEXT, ANY = "a number", "a whole number", "text", "*"
FIGURE = [NUMBER, NUMBER, NUMBER]  # value, low, high
INTERVAL = [NUMBER, NUMBER]


def check(value: Any, shape: Any, file: files.PathLike, name: str = "") -> None:
    """Compares JSON with a shape.

    Args:
      value: as `json` reads it.
      shape: `NUMBER` (null is one that is not defined), `COUNT` or `TEXT`; a list of the shapes of
        a list's entries, or of one shape and `...`; a dictionary of the shapes of an object's
        fields, of all of them by the key `ANY`, and of those that may be absent by the name and
        `?`.
      file: where it is, for the message.
      name: of the value in it.

    Raises:
      InputError: it is of another shape.
    """
    if shape == NUMBER:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(value is None or is_number, NUMBER, value, file, name)
    elif shape == COUNT:
        is_count = isinstance(value, int) and not isinstance(value, bool)
        _expect(is_count, COUNT, value, file, name)
    elif shape == TEXT:
        _expect(isinstance(value, str), TEXT, value, file, name)
    elif isinstance(shape, list):
        _expect(isinstance(value, list), "a list", value, file, name)
        shapes = shape
        if shape[-1] is ...:
            shapes = shape[:1] * len(value)
        _expect(len(value) == len(shapes), f"a list of {len(shapes)}", value, file, name)
        for number, (entry, of_entry) in enumerate(zip(value, shapes, strict=True)):
            check(entry, of_entry, file, f"{name}[{number}]")
    else:
        _expect(isinstance(value, Mapping), "an object", value, file, name)
        _check_fields(value, shape, file, name)


def _check_fields(value: Any, shape: Mapping[str, Any], file: files.PathLike, name: str) -> None:
    prefix = f"{name}." if name else ""
    for key, of_key in shape.items():
        field = key.removesuffix("?")
        if key == ANY:
            for other, entry in value.items():
                check(entry, of_key, file, f"{prefix}{other}")
        elif field in value:
            check(value[field], of_key, file, f"{prefix}{field}")
        elif field == key:
            raise InputError(
                f"{file} has no '{prefix}{field}': it was edited, or another release wrote it. "
                f"Write it again."
            )


def _expect(holds: bool, what: str, value: Any, file: files.PathLike, name: str) -> None:
    if not holds:
        text = repr(value)
        text = text if len(text) <= 60 else f"{text[:57]}..."
        raise InputError(
            f"{file}: {name or 'the whole'} is {text}. Expected {what}: it was edited, or another "
            f"release wrote it. Write it again."
        )
