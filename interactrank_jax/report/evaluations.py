"""The evaluation of a run: the one beside it, or a new one where that lacks what a page shows."""

import dataclasses
import logging
import shlex
from collections.abc import Sequence
from typing import Any

from interactrank_jax.evaluation.evaluate import evaluate
from interactrank_jax.evaluation.slices import slicings
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from interactrank_jax.report.shapes import ANY, COUNT, FIGURE, INTERVAL, NUMBER, TEXT, check
from interactrank_jax.runs.run import Run
from interactrank_jax.serving.probabilities import Calibration

logger = logging.getLogger(__name__)

CUTS = ("query_popularity", "item_age")  # that a page asks for; it shows all that there are

_PART = {"metrics": {ANY: NUMBER}, "intervals": {ANY: INTERVAL}}
_SLICE = {"slice": TEXT, "requests": NUMBER, "candidates": NUMBER, "engaged": NUMBER, **_PART}
_POINT = dict.fromkeys(("rows", "predicted", "observed", "low", "high"), NUMBER)
_LINE = {"feature": TEXT, "metrics": {ANY: NUMBER}, "differences": {ANY: FIGURE}}
SHAPE = {
    **{"name": TEXT, "split": TEXT, "examples_digest": TEXT, "step": COUNT},
    **dict.fromkeys(("requests", "candidates", "engaged", "corpus_requests", "bootstrap"), COUNT),
    **_PART,
    "heads": {ANY: {ANY: FIGURE}},
    "reliability?": {ANY: [_POINT, ...]},
    "slices": {ANY: [_SLICE, ...]},
    "references": {ANY: _LINE},
    "below": [TEXT, ...],
    "warnings": [TEXT, ...],
}


@dataclasses.dataclass(frozen=True)
class Source:
    """The examples that a run can be evaluated on.

    Attributes:
      examples: opened; None where there are none.
      is_named: whether the user named them, rather than the run.
      problem: why there are none.
    """

    examples: Examples | None
    is_named: bool = False
    problem: str = ""


def source(run: Run, path: files.PathLike | None) -> Source:
    """Opens the examples that the user named, or else those that the run was trained on.

    Raises:
      InputError: the user's are none, or do not fit the run.
    """
    if path is not None:
        examples = Examples(path)
        run.check_examples(examples)
        return Source(examples, is_named=True)
    if run.examples_path is None:
        return Source(None, problem="the run does not say where its examples are")
    try:
        examples = Examples(run.examples_path)
    except InputError:
        return Source(None, problem=f"its examples are no longer in {run.examples_path}")
    if examples.metadata.digest != run.metadata.digest:
        return Source(None, problem=f"{run.examples_path} has other examples by now")
    return Source(examples)


def evaluation(
    run: Run, step: int, examples: Source, split: str
) -> tuple[dict[str, Any] | None, list[str]]:
    """Returns the evaluation of a run's best model, and what to say of it.

    That is RUN/eval/SPLIT.json where it is of these examples and has all that a page shows. Else
    the run is evaluated, which writes that file, with the slices that it had before too; where
    there are no examples to do so, what the file has is taken, and a note says of which examples it
    is, or what is missing and which command writes it.

    Args:
      run: opened.
      step: of its best model.
      examples: see `source`.
      split: which to evaluate on.

    Raises:
      InputError: no such split, or the run cannot be evaluated.
    """
    file = run.workdir / "eval" / f"{split}.json"
    stored, problem = _stored(run, file, step)
    opened = examples.examples
    if opened is None:
        if stored is None:
            return None, [f"{problem}; {_remedy(run, split, examples)}"]
        notes, lacking = [], _lacking(stored, CUTS)
        if stored["examples_digest"] != run.metadata.digest:
            others = stored["examples_digest"]
            notes.append(f"evaluated on examples {others}, not those of training")
        if lacking:
            missing = f"{file} is without {' and '.join(lacking)}"
            notes.append(f"{missing}; {_remedy(run, split, examples)}")
        return stored, notes
    opened.split(split)
    cuts, notes = _cuts(opened, split, [*(stored or {}).get("slices", ()), *CUTS])
    is_of_these = stored is not None and stored["examples_digest"] == opened.metadata.digest
    if stored is None or not is_of_these or _lacking(stored, cuts):
        logger.info("evaluating %s on split '%s'", run.workdir, split)
        evaluate(run.workdir, opened.path, split, by=cuts)
        stored, problem = _stored(run, file, step)
        if stored is None:
            raise InputError(f"{problem}: training is going on there. Try again.")
    return stored, notes


def _lacking(stored: dict[str, Any], cuts: Sequence[str]) -> list[str]:
    """Returns in words what an evaluation does not have of what a page shows."""
    lacking = [cut for cut in cuts if cut not in stored["slices"]]
    return lacking if "reliability" in stored else [*lacking, "the reliability diagram"]


def _stored(run: Run, file: files.PathLike, step: int) -> tuple[dict[str, Any] | None, str]:
    """Returns the evaluation in a file, or else why it cannot be taken."""
    try:
        value = files.read_json(file)
        check(value, SHAPE, file)
        Calibration.from_json(value.get("calibration"), run.rule.heads)
    except InputError as error:
        return None, str(error).rstrip(".")
    if value["step"] != step:
        return None, f"{file} is of step {value['step']}, the best model is of step {step}"
    replicates = int(run.config.evaluate.bootstrap)
    if value["bootstrap"] != replicates:
        return None, (
            f"{file} has intervals of {value['bootstrap']} resamples, the run's config says "
            f"{replicates}"
        )
    return value, ""


def _cuts(examples: Examples, split: str, names: list[str]) -> tuple[list[str], list[str]]:
    """Returns the names of slicings that examples allow, and why they do not allow the others."""
    cuts, notes = [], []
    for name in dict.fromkeys(names):
        try:
            slicings([name], examples, split)
            cuts.append(name)
        except InputError as error:
            notes.append(f"no metrics by {name.replace('_', ' ')}: {error}")
    return cuts, notes


def _remedy(run: Run, split: str, examples: Source) -> str:
    command = (
        f"interactrank evaluate --workdir={shlex.quote(str(run.workdir))} --examples=EXAMPLES "
        f"--split={split} --by={','.join(CUTS)}"
    )
    return (
        f"{examples.problem}. Name them by --examples, or run `{command}` and make the page again"
    )
