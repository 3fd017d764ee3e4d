"""The one error a user can cause, and the help it gives."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something handed to us is wrong: the message says what was expected, what came, what to do.

    The command line prints it without a traceback and exits with status 2.
    """


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the closest option, else the list of options."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(options) if options else 'none'}."
