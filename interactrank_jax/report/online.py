"""The online test of a page: what `python -m experiments.ab_test` wrote."""

from typing import Any

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.report.shapes import ANY, COUNT, FIGURE, NUMBER, check

_ARM = {"fulfilment": NUMBER, "lift_vs_bm25": FIGURE, "lift_vs_two_tower": FIGURE}
_TEST = {"lift": NUMBER, "low": NUMBER, "high": NUMBER}
_SHAPE = {
    "arms": {ANY: {**_ARM, "survival_at_500?": NUMBER, "drawn?": NUMBER}},
    "cuts?": {ANY: {ANY: {**_ARM, "survival?": {"full_ranker": NUMBER, "oracle": NUMBER}}}},
    "searches": COUNT,
    "users?": COUNT,
    "worlds?": COUNT,
    "cut?": COUNT,
    "candidates?": NUMBER,
    "split_tests?": {ANY: {**_TEST, "searches_needed": NUMBER}},
    "aa": _TEST,
    "paper": {"vs_bm25": NUMBER, "vs_two_tower": NUMBER},
}


def read_ab_test(file: files.PathLike) -> dict[str, Any]:
    """Returns the parts of an online test that a page shows, as the file has them.

    Raises:
      InputError: no such file, or it is not of an online test.
    """
    content = files.read_json(file)
    try:
        check(content, _SHAPE, file)
    except InputError as error:
        raise InputError(
            f"{error} --ab takes what `python -m experiments.ab_test` writes, ab_test.json."
        ) from error
    if not content["arms"]:
        raise InputError(f"{file} has no arm. Expected at least one.")
    names = [name.removesuffix("?") for name in _SHAPE]
    return {name: content[name] for name in names if name in content}
