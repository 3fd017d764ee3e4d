"""Said before training: what in the examples makes models worse, or their metrics mean little.

Each warning is a sentence that names the feature and says what to do. What training says after it
is in `training/warnings.py`.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from interactrank_jax.examples.format import Metadata
from interactrank_jax.examples.survey import FEW, Survey, few_candidates
from interactrank_jax.io.printable import printable

MANY_REQUESTS = 0.25  # share of requests with few candidates that is worth a warning
_CROSS = "config.data.cross.features"


def before_training(metadata: Metadata, uses_cross: bool = True) -> list[str]:
    """Returns the warnings of examples; none of those that an older release prepared.

    Args:
      metadata: of the examples.
      uses_cross: whether a model looks at cross features; else nothing is said of them.
    """
    survey = metadata.survey
    if survey is None:
        return []
    cross = metadata.cross if uses_cross else ()
    warnings = [
        *_equal(metadata, survey, cross),
        *_constant(metadata, survey, cross),
        *_absent(metadata, survey, cross),
        *_few(metadata, survey),
    ]
    return [printable(text) for text in warnings]


def of_requests(request: np.ndarray, split: str) -> list[str]:
    """Returns the warning of an evaluation's requests, if they have few candidates.

    Args:
      request: `[n]` the request of each candidate.
      split: the name of theirs.
    """
    few, requests = few_candidates(request)
    return [_few_sentence([(split, few / requests)])] if few >= MANY_REQUESTS * requests else []


def _equal(metadata: Metadata, survey: Survey, cross: Sequence[str]) -> Iterator[str]:
    for names in survey.equal:
        if names[0] not in cross:
            continue
        times = "twice" if len(names) == 2 else f"{len(names)} times"
        text = (
            f"cross features {_listed(names)} are equal in all "
            f"{metadata.splits['train'].candidates:,} training candidates and count {times}: keep "
            f"one of them in {_CROSS}"
        )
        if survey.has_one_query and len({_over_queries(name) for name in names}) < len(names):
            text += (
                "; all of training has the same query: if something stands for the query, name it "
                "(convert --query)"
            )
        yield f"{text}."


def _over_queries(name: str) -> str:
    """Returns the name of the cross feature that counts the same over all queries."""
    return f"item_{name.removeprefix('item_')}"


def _constant(metadata: Metadata, survey: Survey, cross: Sequence[str]) -> Iterator[str]:
    for name in survey.constant:
        if name in cross:
            yield (
                f"cross feature {name} has the same value in every training candidate and tells "
                f"none from another: leave it out of {_CROSS}."
            )
        elif name not in metadata.cross:
            yield (
                f"feature {name} has one value in all of training, from which nothing is learned: "
                f"look at how the log fills it, or leave it out of schema.json."
            )


def _absent(metadata: Metadata, survey: Survey, cross: Sequence[str]) -> Iterator[str]:
    for name, share in survey.absent.items():
        rare = f"is 0 in all but {100 * share:.2g}% of training rows"
        if name in cross:
            yield (
                f"cross feature {name} {rare}: give it a longer window, count an action that is "
                f"more frequent, or leave it out of {_CROSS}."
            )
        elif name not in metadata.cross:
            yield f"feature {name} {rare}: look at how the log fills it, or leave it out."


def _few(metadata: Metadata, survey: Survey) -> Iterator[str]:
    splits = metadata.splits
    shares = [(name, n / max(splits[name].requests, 1)) for name, n in survey.few.items()]
    many = [(name, share) for name, share in shares if share >= MANY_REQUESTS]
    if many:
        yield _few_sentence(many)


def _few_sentence(shares: Sequence[tuple[str, float]]) -> str:
    of_splits = _listed([f"{100 * share:.3g}% of the requests of {name}" for name, share in shares])
    return (
        f"{of_splits} have at most {FEW} candidates, so that metrics within requests (request_auc, "
        f"hit, ndcg, mrr) mean little: look at roc_auc and at recall among all items, or log all "
        f"candidates that were shown."
    )


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
