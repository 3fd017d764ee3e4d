"""The steps of a day: each is a command that a person could type, and what it writes.

    count        STATE, through the new day
    new_day      VERSION/new_day: the new day's requests, as the published model reads them
    progressive  VERSION/progressive.json: that model on them, which it has not seen
    prepare      VERSION/examples: the window's requests; the newest day's are split by time, all
                 before them are for training. They extend the published version's
    train        VERSION/run, from the published model
    evaluate     VERSION/evaluation.json: on the held-out requests of the new day, beside the
                 published model
    features     VERSION/features: cross features of the new day
    compared     VERSION/compared: those of the days before it
    report       VERSION/report: how far the former drifted from the latter
    export       VERSION/bundle, of a model that keeps its bounds

Without a published version there is nothing to evaluate, to extend or to compare with. Without
cross features, or a day before the new one, nothing drifts.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from interactrank_jax.daily.plan import Plan
from interactrank_jax.daily.root import BUNDLE, Root

PROGRESSIVE, EVALUATION, REPORT = "progressive.json", "evaluation.json", "report"


@dataclasses.dataclass(frozen=True)
class Step:
    """A command.

    Attributes:
      name: of the step.
      words: what follows `interactrank` on the command line.
      output: what is there, whole, once the command has ended; None where it goes on with what is
        there, and finds nothing to do when run again.
      may_refuse: whether the command writes its output and fails all the same, past a bound.
    """

    name: str
    words: tuple[str, ...]
    output: Path | None
    may_refuse: bool = False


@dataclasses.dataclass(frozen=True)
class Words:
    """Words of the command line that steps share.

    Attributes:
      config: `--config=...`, and fields that are set.
      registers: `--config=FILE` of the file that registers the model, () for one of ours.
      log: path of the log.
      engine: flags of the engine that reads it.
      memory: that of these flags which `export` takes too.
      onnx: whether bundles have ONNX.
    """

    config: tuple[str, ...]
    registers: tuple[str, ...]
    log: str
    engine: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    onnx: bool = True


def steps(plan: Plan, root: Root, words: Words) -> list[Step]:
    """Returns the steps of a day, in order."""
    version, log, state = root.version(plan.day), f"--log={words.log}", f"--state={root.state}"
    run, examples = f"--workdir={version / 'run'}", f"--examples={version / 'examples'}"
    is_base = bool(plan.base)
    base = root.version(plan.base)
    prepare = ("prepare", *words.config, log, state)
    count = ("state", "build", *words.config, log, f"--out={root.state}", f"--through={plan.day}")
    result = [Step("count", (*count, *words.engine), None)]
    if is_base:
        result += _progressive(plan, base, version, (*prepare, *words.engine), words)
    extend = (f"--extend={base / 'examples'}",) if is_base else ()
    days = (f"--since={plan.since}", f"--until={plan.day}", f"--split_since={plan.day}")
    result.append(
        _writing("prepare", version / "examples", (*prepare, *extend, *days, *words.engine))
    )
    warm = (f"--config.train.warm_start={base / 'run'}",) if is_base else ()
    result.append(Step("train", ("train", *words.config, examples, run, *warm), None))
    against = (f"--against={base / 'run'}",) if is_base else ()
    evaluation = ("evaluate", *words.registers, run, *against, examples, "--split=test")
    file = version / EVALUATION
    result.append(Step("evaluate", (*evaluation, f"--json={file}"), file))
    if plan.compared_since and plan.config["data"]["cross"]["features"]:
        result += _drift(plan, version, (log, state), words.engine)
    export = ("export", *words.registers, run, state, f"--as_of={plan.next_day}")
    export = (*export, *(() if words.onnx else ("--onnx=0",)), *words.memory)
    return [*result, _writing("export", version / BUNDLE, export)]


def _writing(name: str, output: Path, words: Sequence[str], may_refuse: bool = False) -> Step:
    return Step(name, (*words, f"--out={output}"), output, may_refuse)


def _progressive(
    plan: Plan, base: Path, version: Path, prepare: Sequence[str], words: Words
) -> list[Step]:
    """Evaluates the published model on the new day."""
    examples, run, file = version / "new_day", base / "run", version / PROGRESSIVE
    days = (f"--encoder={run}", f"--since={plan.day}", f"--until={plan.day}")
    evaluate = ("evaluate", *words.registers, f"--workdir={run}", f"--examples={examples}")
    return [
        _writing("new_day", examples, (*prepare, *days)),
        Step("progressive", (*evaluate, "--split=test", f"--json={file}"), file),
    ]


def _drift(plan: Plan, version: Path, given: Sequence[str], engine: Sequence[str]) -> list[Step]:
    """Compares the cross features of the new day with those of the days before it."""
    features = ("state", "features", *given, f"--encoder={version / 'examples'}")
    now, before, bounds = version / "features", version / "compared", plan.bounds
    report = (
        *("state", "report", f"--features={now}", f"--training={before}"),
        *(f"--max_psi={bounds.psi!r}", f"--max_null_rate={bounds.null_rate!r}"),
        f"--max_staleness={bounds.staleness}",
    )
    of_now = (f"--since={plan.day}", f"--until={plan.day}")
    of_before = (f"--since={plan.compared_since}", f"--until={plan.eve}")
    return [
        _writing("features", now, (*features, *of_now, *engine)),
        _writing("compared", before, (*features, *of_before, *engine)),
        _writing("report", version / REPORT, (*report, *engine), may_refuse=True),
    ]


def is_done(all_steps: Sequence[Step], number: int) -> bool:
    """Returns whether a step need not be run again: its output is there, or that of a later one."""
    step = all_steps[number]
    if step.output is not None:
        return step.output.exists()
    return any(later.output and later.output.exists() for later in all_steps[number + 1 :])
