"""The one error a user can cause, and the help it gives."""

import difflib
from collections.abc import Iterable

from interactrank_jax.io.printable import printable


class InputError(ValueError):
    """Something handed to us is wrong: the message says what was expected, what came, what to do.

    The command line prints it without a traceback and exits with status 2. A message may quote a
    log, so control characters in it are escaped.
    """

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the closest option, else the list of options."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(options) if options else 'none'}."
