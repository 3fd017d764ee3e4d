"""What a page shows, as JSON: all numbers of the page are numbers of this."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interactrank_jax import metrics
from interactrank_jax.config import configuration
from interactrank_jax.config.fields import leaves
from interactrank_jax.evaluation.uncertainty import paired_differences
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.ranking.explain import cross_weights
from interactrank_jax.report.evaluations import evaluation, source
from interactrank_jax.report.online import read_ab_test
from interactrank_jax.runs.run import Run
from interactrank_jax.training.reports import curves, median_rate
from interactrank_jax.training.state import count_parameters

USAGE, SIMILARITY = "train/model/meta_usage/", "train/model/query_similarity"
RATES = ("train/candidates_per_second", "train/steps_per_second")


@dataclasses.dataclass(frozen=True)
class _Gathered:
    """A run: what the page has of it, and what comparisons need."""

    run: Run
    examples: Examples | None
    content: dict[str, Any]


def gather(
    workdirs: Sequence[files.PathLike],
    examples: files.PathLike | None = None,
    split: str = "test",
    ab: files.PathLike | None = None,
) -> dict[str, Any]:
    """Reads runs, and evaluates those whose evaluation is not beside them.

    Args:
      workdirs: the runs.
      examples: to evaluate them on; by default those that each was trained on.
      split: which to evaluate on.
      ab: what `experiments.ab_test` wrote, if it is to be shown.

    Returns:
      `split`; `runs`, see `_of_run`; `config`, by field the runs' values; `differences`, a list of
      metrics of the first run minus another; `ab`; `notes`. NaN is None.

    Raises:
      InputError: no runs, one that is none or named twice, or a file that is not what it should be.
    """
    online = None if ab is None else read_ab_test(ab)  # the quick ones first
    if not workdirs:
        raise InputError("name at least one run.")
    resolved = [Path(workdir).resolve() for workdir in workdirs]
    for number, path in enumerate(resolved):
        if path in resolved[:number]:
            raise InputError(f"{workdirs[number]} is named twice. Name each run once.")
    runs = [Run.open(workdir) for workdir in workdirs]
    for run in runs:
        if split not in run.metadata.splits:
            raise InputError(f"--split={split}." + did_you_mean(split, run.metadata.splits))
    names = labels(resolved)
    gathered = [_of_run(run, name, examples, split) for run, name in zip(runs, names, strict=True)]
    differences, notes = _differences(gathered, split)
    configs = [dict(leaves(configuration.to_json(run.config))) for run in runs]
    fields = sorted({field for config in configs for field in config})
    content = {
        "split": split,
        "runs": [one.content for one in gathered],
        "config": {field: [config.get(field) for config in configs] for field in fields},
        "differences": differences,
        "ab": online,
        "notes": notes,
    }
    return _without_nan(content)


def labels(paths: Sequence[Path]) -> list[str]:
    """Returns a short name for each run: the last part of its path, or the last that tells them.

    Args:
      paths: absolute, no two of them equal.
    """
    depth = min(len(path.parts) for path in paths)
    for from_end in range(1, depth):
        names = [path.parts[-from_end] for path in paths]
        if len(set(names)) == len(paths):
            return names
    return [str(path) for path in paths]


def _of_run(run: Run, name: str, examples_path: files.PathLike | None, split: str) -> _Gathered:
    """Returns a run's `name`, `path`, `model`, `protocol`, `examples` (their digest) and `heads`.

    And `select_by`; `steps` and `curves`, by metric; `throughput`; `meta` of FIT's meta queries;
    `step`, `parameters` and `cross` of the best model, and its `evaluation`: None, or absent, where
    there is none yet; `notes`.
    """
    steps, values, notes = _curves(run)
    content: dict[str, Any] = {
        "name": name,
        "path": str(run.workdir),
        "model": run.config.model.name,
        "protocol": run.metadata.protocol_in_words,
        "examples": run.metadata.digest,
        "heads": list(run.rule.heads),
        "select_by": run.config.train.select_by,
        "steps": steps,
        "curves": {key: of_key for key, of_key in values.items() if not key.startswith(USAGE)},
        "throughput": _throughput(values),
        "meta": _meta_usage(steps, values),
        **dict.fromkeys(("step", "parameters", "table_parameters", "cross", "evaluation")),
        "notes": notes,
    }
    evaluated_on = source(run, examples_path)
    best = run.workdir / "best"
    if not best.is_dir() or not any(path.name.isdigit() for path in best.iterdir()):
        notes.append("no model yet: train it, or wait for its first validation.")
        return _Gathered(run, evaluated_on.examples, content)
    model, step = run.restore_model()
    result, of_result = evaluation(run, step, evaluated_on, split)
    notes += of_result
    weights = cross_weights(run, model)
    if weights is not None:
        ranked = weights @ np.asarray(run.rule.utility, np.float32)
        content["cross"] = {
            "features": list(run.metadata.cross),
            "weights": weights.tolist(),
            "ranked": ranked.tolist(),
        }
    content |= {
        "step": step,
        "parameters": count_parameters(model["params"]),
        "table_parameters": count_parameters(model["tables"]),
        "evaluation": result,
    }
    return _Gathered(run, evaluated_on.examples, content)


def _curves(run: Run) -> tuple[list[int], dict[str, list[float | None]], list[str]]:
    """Returns the steps and figures of RUN/metrics.jsonl, and a note where there are none."""
    file = run.workdir / "metrics.jsonl"
    if not file.is_file():
        return [], {}, [f"no learning curves: {file} does not exist."]
    steps, values = curves(file)
    for name, of_name in values.items():
        for value in of_name:
            if value is not None and not isinstance(value, int | float):
                raise InputError(
                    f"{file}: {name} is {value!r}. Expected a number: it was edited, take it from "
                    f"a copy."
                )
    return steps, values, []


def _throughput(values: Mapping[str, Sequence[float | None]]) -> dict[str, float] | None:
    """Returns the medians of the rates that were logged; None where none was."""
    medians = {}
    for name in RATES:
        measured = [value for value in values.get(name, ()) if value is not None]
        if measured:
            medians[name.removeprefix("train/")] = median_rate(measured)
    return medians or None


def _meta_usage(
    steps: Sequence[int], values: Mapping[str, Sequence[float | None]]
) -> dict[str, Any] | None:
    """Returns how FIT's meta queries were used; None for a model without any.

    Returns:
      `usage`, each one's share of the candidates at the last `step` that logged it; and by step
      `effective`, exp of the entropy of the shares: how many are in use.
    """
    names = [name for name in values if name.removeprefix(USAGE).isdecimal()]
    names.sort(key=lambda name: int(name.removeprefix(USAGE)))
    shares = list(zip(*(values[name] for name in names), strict=True))
    measured = [number for number, row in enumerate(shares) if None not in row]
    if not measured:
        return None
    effective: list[float | None] = [None] * len(steps)
    for number in measured:
        total = sum(share or 0.0 for share in shares[number]) or 1.0
        parts = [share / total for share in shares[number] if share]
        effective[number] = math.exp(-sum(part * math.log(part) for part in parts))
    last = measured[-1]
    return {"step": steps[last], "usage": list(shares[last]), "effective": effective}


def _differences(
    gathered: Sequence[_Gathered], split: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns metrics of the first run minus each other, paired over the requests of one split."""
    first, others = gathered[0], gathered[1:]
    differences, notes = [], []
    for number, other in enumerate(others, start=1):
        try:
            figures = _difference(first, other, split)
        except InputError as error:
            between = f"{first.content['name']} and {other.content['name']}"
            notes.append(f"no paired differences of {between}: {error}")
        else:
            differences.append({"run": 0, "minus": number, "metrics": figures})
    return differences, notes


def _difference(one: _Gathered, other: _Gathered, split: str) -> dict[str, list[float]]:
    """Returns by metric the difference of two runs with its interval.

    Raises:
      InputError: they were not evaluated on the same examples, with the same label.
    """
    if one.content["evaluation"] is None or other.content["evaluation"] is None:
        raise InputError("one of them is not evaluated.")
    digests = {each.content["evaluation"]["examples_digest"] for each in (one, other)}
    if len(digests) > 1:
        raise InputError("they were evaluated on different examples; name some by --examples.")
    if one.examples is None or other.examples is None:
        raise InputError("their examples are needed; name them by --examples.")
    scores = one.run.saved_scores(one.examples, split, one.content["step"])
    others = other.run.saved_scores(other.examples, split, other.content["step"])
    for name in ("request_index", "item", "engaged"):
        if not np.array_equal(scores[name], others[name]):
            raise InputError("what counts as engaged differs between them.")
    figures = paired_differences(
        scores["request_index"],
        scores["score"],
        others["score"],
        scores["engaged"],
        [name for name in metrics.METRICS if name != "logloss"],  # a score is no logit
        replicates=int(one.run.config.evaluate.bootstrap),
    )
    return {name: list(values) for name, values in figures.items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
