"""`interactrank_jax.prepare`: the preparation station, called from a notebook."""

import contextlib
import logging
import os
import weakref
from pathlib import Path
from typing import Any

from interactrank_jax.examples import prepare as station
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.warnings import before_training
from interactrank_jax.io import outputs
from interactrank_jax.log.read import Log

logger = logging.getLogger(__name__)


def prepare(
    log: Log | str | os.PathLike,
    config: Any,
    out: str | os.PathLike | None = None,
    *,
    extend: Examples | str | os.PathLike | None = None,
    **options: Any,
) -> Examples:
    """Turns a log into examples: splits, vocabularies, histories, counts, and arrays of them.

    Example:
      >>> import interactrank_jax as ir
      >>> from interactrank_jax.log.simulator.simulate import simulate
      >>> sizes = simulate("tiny", 0, "log")
      >>> examples = ir.prepare("log", ir.configs.interactrank("search"))
      >>> sorted(examples.metadata.splits)
      ['test', 'train', 'validation']

    Args:
      log: the log, or its directory.
      config: a whole config, or its `data` part.
      out: a new or empty directory to write; None for a temporary one, which is removed with the
        examples that are returned.
      extend: older examples whose vocabularies are kept and continued.
      **options: `progress`, `state`, `engine`, `memory` and `master` of `examples.prepare.prepare`.

    Raises:
      InputError: the log or the config does not hold, a split is empty, or nothing was ever engaged
        with in training.
    """
    path = log.path if isinstance(log, Log) else _path(log, "log")
    with contextlib.ExitStack() as stack:
        if out is None:
            out = stack.enter_context(outputs.scratch_directory()) / "examples"
        else:
            out = _path(out, "out")
        old = extend.path if isinstance(extend, Examples) else extend
        station.prepare(config.get("data", config), path, out, extend=old, **options)
        examples = Examples(out)
        for text in before_training(examples.metadata):
            logger.warning("warning: %s", text)
        weakref.finalize(examples, stack.pop_all().close)
    return examples


def _path(path: str | os.PathLike, what: str) -> Path:
    return Path(outputs.from_user(os.fspath(path), what))
