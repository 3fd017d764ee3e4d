"""`interactrank_jax.export_bundle`: the export station, called from a notebook."""

import contextlib
import os
import weakref
from pathlib import Path
from typing import Any

from interactrank_jax.examples.format import STATE
from interactrank_jax.io import outputs
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.training.trainer import Trainer


def export_bundle(
    trainer: Trainer | str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    state: str | os.PathLike | None = None,
    onnx: bool = False,
    **options: Any,
) -> Ranker:
    """Exports the best model of a training, with all that ranks new requests; opens the bundle.

    Example:
      >>> import interactrank_jax as ir
      >>> from interactrank_jax.log.simulator.simulate import simulate
      >>> sizes = simulate("tiny", 0, "log")
      >>> config = ir.configs.two_tower("search")
      >>> trainer = ir.Trainer(config, ir.prepare("log", config)).fit(steps=3)
      >>> ranker = ir.export_bundle(trainer)
      >>> requests = trainer.examples.raw_requests("test").slice(0, 2)
      >>> ranked = ranker.rank(requests, k=5)
      >>> ranked.column_names[:5], len(ranked)
      (['request_id', 'item_id', 'rank', 'score', 'probability_engaged'], 10)

    Args:
      trainer: that has trained, or a run directory.
      out: a new directory for the bundle; None for a temporary one, which is removed with the
        ranker that is returned.
      state: STATE of the log; None for the one in the trainer's examples.
      onnx: whether the graphs are written as ONNX too, for `serving.reader.Reader`.
      **options: `as_of`, `items`, `vectors`, `memory` and `progress` of `export.export.export`.

    Raises:
      InputError: nothing was trained yet, or the model or STATE cannot be exported.
    """
    from interactrank_jax.export.export import export

    with contextlib.ExitStack() as stack:
        if isinstance(trainer, Trainer):
            workdir = trainer.workdir
            state = trainer.examples.path / STATE if state is None else state
        else:
            workdir = Path(outputs.from_user(os.fspath(trainer), "trainer"))
            state = "" if state is None else state
        if out is None:
            out = stack.enter_context(outputs.scratch_directory()) / "bundle"
        else:
            out = Path(outputs.from_user(os.fspath(out), "out"))
        export(workdir, state, out, onnx=onnx, **options)
        ranker = Ranker(out)
        weakref.finalize(ranker, stack.pop_all().close)
    return ranker
