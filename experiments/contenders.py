"""What takes part in a comparison, and how each is trained on validation and tested once.

Reference lines without training (`reference_lines.py`), models that pre-rank, and ranking models
beside them. All see the same examples, the same search (`search.py`) and the same test rows.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import comparison, reference_lines, search, sweeps, trials
from interactrank_jax import metrics
from interactrank_jax.config import configuration
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import open_log
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.runs.run import Run
from interactrank_jax.training import reports

UNTRAINED = ("mean_lr", "one_hot_lr")
REFERENCE_LINES = (*UNTRAINED, "matrix_factorization")
PRE_RANKERS = ("two_tower", "dat", "inttower", "cold", "fit", "interactrank", "interactfit")
RANKING_REFERENCES = ("lr", "wide_deep", "deepfm", "dcn_v2", "autoint")
MODELS = (*REFERENCE_LINES, *PRE_RANKERS, *RANKING_REFERENCES)
MOST_REFERENCE_SEEDS = 3  # ranking references are there for orientation

Result = tuple[list[comparison.Scored], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What every contender is run with.

    Attributes:
      argument: of the configs.
      log: directory of the log.
      out: directory for examples and trials.
      seeds: of the finalists; the first is the search's.
      limit: trials of a search.
      parallel: trainings at once.
      budget_s: seconds for all trainings of a model together.
      common: overrides of all configs.
      stages: of the search.
    """

    argument: str
    log: Path
    out: Path
    seeds: tuple[int, ...]
    limit: int
    parallel: int
    budget_s: float
    common: Mapping[str, Any]
    stages: tuple[search.Stage, ...] = search.SPACE

    def spec(self, model: str) -> str:
        """Returns FILE:ARGUMENT of a model's config."""
        return trials.config_spec(model, self.argument)

    def config(self, model: str) -> dict[str, Any]:
        """Returns a model's config for a file of results, see `trials.config_record`."""
        return trials.config_record(self.spec(model), self.common)

    def seeds_of(self, model: str) -> tuple[int, ...]:
        """Returns the seeds that a model is trained with."""
        return self.seeds[:MOST_REFERENCE_SEEDS] if model in RANKING_REFERENCES else self.seeds

    def examples(self, data: Any) -> Path:
        """Prepares the examples of a `config.data` unless they are there; returns their place.

        Raises:
          InputError: they are there, but of another log.
        """
        from interactrank_jax.examples.prepare import examples_digest, prepare

        path = self.out / f"examples-{files.digest(configuration.to_json(data))[:8]}"
        if not path.exists():
            print("examples ...", flush=True)
            prepare(data, self.log, path)
        elif Examples(path).metadata.digest != examples_digest(open_log(self.log), data):
            raise InputError(f"{path} is not made of {self.log}. Remove it, or name another --out.")
        return path


def run(model: str, setting: Setting) -> Result:
    """Returns what a contender says of the test split, per seed, and values for its row.

    Raises:
      InputError: no config, or no trial came to anything.
    """
    return (_run_line if model in UNTRAINED else _run_model)(model, setting)


def _run_line(model: str, setting: Setting) -> Result:
    config = configuration.load(setting.spec(comparison.BASE))
    data, action = config.data, config.label.positive[0]
    if model == "mean_lr":
        data = reference_lines.add_means(data, action)
    examples = Examples(setting.examples(data))
    rule = LabelRule.from_config(config.label, examples.metadata.actions)
    if model == "mean_lr":
        line = reference_lines.mean_lr(examples, rule, action)
    else:
        line = reference_lines.one_hot_lr(examples, rule)
    logloss = metrics.logloss(line.score, line.engaged)
    tested = comparison.Scored(line.request_index, line.item, line.engaged, line.score, logloss)
    return [tested], {
        "parameters": line.parameters,
        "serving_flops_per_candidate": None,
        "examples_per_s": None,
        "trials": line.trials,
        "chosen": line.chosen,
        "note": "",
    }


def _run_model(model: str, setting: Setting) -> Result:
    spec, seeds = setting.spec(model), setting.seeds_of(model)
    config = trials.resolve(spec, setting.common)
    examples = setting.examples(config.data)
    # Each training has an equal share of the model's time.
    trainings = setting.limit + min(setting.limit, search.FINALISTS) * (len(seeds) - 1)
    budget_s = setting.budget_s * setting.parallel / trainings

    def train(
        overrides: Sequence[Mapping[str, Any]], seed: Mapping[str, Any]
    ) -> list[trials.Outcome]:
        common = {**setting.common, **seed}
        made = trials.make(spec, overrides, examples, setting.out / model, common)
        return trials.run(made, parallel=setting.parallel, budget_s=budget_s)

    searched = search.search(
        config,
        lambda overrides: train(overrides, {"train.seed": seeds[0]}),
        setting.limit,
        setting.stages,
    )
    finalists = search.finalists(searched)
    if not finalists:
        raise InputError(f"no trial of {model} came to anything: {searched[0].error}")
    further = list(sweeps.over("train.seed", seeds[1:]))
    runs = [
        [finalist, *train(list(sweeps.product([finalist.trial.overrides], further)), {})]
        for finalist in finalists
    ]
    best, *others = max(runs, key=validation)
    chosen = best.trial.overrides
    good = [outcome for outcome in (best, *others) if not outcome.error]
    return [score_test(outcome) for outcome in good], {
        **sizes(best.trial),
        "examples_per_s": round(statistics.median(map(examples_per_s, good))),
        "trials": len(searched),
        "chosen": {trials.short(field): value for field, value in chosen.items()},
        "note": _note(searched, others, budget_s),
    }


def validation(runs: Sequence[trials.Outcome]) -> float:
    """Returns the mean over seeds of what one trial came to on validation, failed ones left out."""
    return statistics.fmean(outcome.value for outcome in runs if not outcome.error)


def _note(
    searched: Sequence[trials.Outcome], others: Sequence[trials.Outcome], budget_s: float
) -> str:
    """Returns what a reader of the row must know of its trainings."""
    notes = []
    for outcomes, what in ((searched, "trials"), (others, "further seeds")):
        errors = [outcome.error for outcome in outcomes if outcome.error]
        if errors:
            notes.append(f"{len(errors)} of {len(outcomes)} {what} failed ({errors[0]})")
        cut = sum(bool(trials.stopped(outcome)) for outcome in outcomes)
        if cut:
            notes.append(
                f"{cut} of {len(outcomes)} {what} stopped by their time limit of {budget_s:.0f} s"
            )
    return "; ".join(notes)


def score_test(outcome: trials.Outcome) -> comparison.Scored:
    """Scores the test split with a trial's best model, see `score_splits`."""
    return score_splits([outcome], ["test"])["test"][0]


def score_splits(
    outcomes: Sequence[trials.Outcome],
    splits: Sequence[str],
    make_scorer: Callable[[trials.Outcome], Any] | None = None,
    name: str = "",
) -> dict[str, list[comparison.Scored]]:
    """Scores splits with the best model of each trial; once, then it is kept beside the run.

    Args:
      outcomes: of trials that differ in their seed alone: what scores them is compiled once.
      splits: of the examples.
      make_scorer: returns the `ModelScorer`, without parameters; the model as it serves by default.
      name: of another scorer, for its files.
    """
    scored: dict[str, list[comparison.Scored]] = {split: [] for split in splits}
    scorer = None
    for outcome in outcomes:
        assert outcome.best is not None
        for split in splits:
            file = outcome.trial.directory / f"{name}{split}-{outcome.best[0]}.npz"
            if not file.exists():
                scorer = scorer or (make_scorer or _make_scorer)(outcome)
                _score(outcome, outcome.best[0], split, scorer, file)
            with np.load(file, allow_pickle=False) as arrays:
                scored[split].append(
                    comparison.Scored(
                        request_index=arrays["request_index"],
                        item=arrays["item"],
                        engaged=arrays["engaged"],
                        score=arrays["score"],
                        logloss=float(arrays["logloss"]),
                    )
                )
    return scored


def _make_scorer(outcome: trials.Outcome) -> Any:
    """Returns a `ModelScorer` without parameters."""
    from interactrank_jax.devices.parallel import DataParallel
    from interactrank_jax.evaluation.scorers import ModelScorer

    run = Run.open(outcome.trial.workdir)
    parallel = DataParallel(run.config.train.parallel)
    return ModelScorer(run, Examples(outcome.trial.examples), "test", parallel)


def _score(outcome: trials.Outcome, best: int, split: str, scorer: Any, file: Path) -> None:
    """Writes what a trial's model of step `best` says of a split."""
    from interactrank_jax.devices.parallel import DataParallel
    from interactrank_jax.evaluation import evaluate

    run, examples = Run.open(outcome.trial.workdir), Examples(outcome.trial.examples)
    model, step = run.restore_model()
    if step != best:
        raise InputError(
            f"{run.workdir} holds the model of step {step}, but its best is of step {best}: it was "
            f"killed in between. Remove {outcome.trial.directory}."
        )
    parallel = DataParallel(run.config.train.parallel)
    scorer.use(parallel.replicate(model), run.calibration(step))
    rows = evaluate.Rows(scorer, examples, split, scorer.batch_size)
    scored = comparison.Scored(
        rows.request,
        rows.item,
        run.rule.engaged(rows.actions),
        rows.score,
        evaluate.slate_figures(scorer, rows, run.rule)["logloss"],
    )
    with outputs.new_file(file) as partial, partial.open("wb") as opened:
        np.savez(opened, **scored._asdict())


def evaluated(outcome: trials.Outcome) -> dict[str, Any]:
    """Returns what `evaluate` says of a trial's best model on the test split.

    It is kept beside the run: a model is evaluated again only where RUN/eval/test.json is of
    another step or of other examples. What is not defined is NaN.

    Raises:
      InputError: as `evaluate` raises, or the file is damaged.
    """
    from interactrank_jax.evaluation.evaluate import evaluate

    assert outcome.best is not None
    file = outcome.trial.workdir / "eval/test.json"
    made_of = {
        "step": outcome.best[0],
        "examples_digest": Examples(outcome.trial.examples).metadata.digest,
    }
    result = files.read_json(file) if file.is_file() else {}
    if any(result.get(name) != value for name, value in made_of.items()):
        evaluate(outcome.trial.workdir, outcome.trial.examples)
        result = files.read_json(file)
    numbers = ("metrics", "intervals", "heads", "references")
    return {**result, **{name: _none_to_nan(result[name]) for name in numbers}}


def _none_to_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _none_to_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_none_to_nan(entry) for entry in value]
    return math.nan if value is None else value


def saved_scores(outcome: trials.Outcome, logloss: float) -> comparison.Scored:
    """Returns the scores of the test split that `evaluated` left in the run, and its log loss.

    Raises:
      InputError: there are none, or they are of other examples (`Run.saved_scores`).
    """
    run = Run.open(outcome.trial.workdir)
    return comparison.Scored(
        **run.saved_scores(Examples(outcome.trial.examples), "test"), logloss=logloss
    )


def sizes(trial: trials.Trial) -> dict[str, float]:
    """Returns a trained model's number of parameters, and of FLOPs to score a candidate.

    Tables of features that the model does not look at do not count.
    """
    from experiments.efficiency import serving_flops
    from interactrank_jax.training.state import count_parameters

    run = Run.open(trial.workdir)
    looked_at = {feature.table for feature in (*run.inputs.request, *run.inputs.item)}
    template = run.model_template
    dense = count_parameters(template["params"])
    tables = count_parameters([v for k, v in template["tables"].items() if k in looked_at])
    return {
        "parameters": dense + tables,
        "dense_parameters": dense,
        "table_parameters": tables,
        "serving_flops_per_candidate": serving_flops(run),
    }


def examples_per_s(outcome: trials.Outcome) -> float:
    """Returns the candidates that a run trained on per second: median of its log."""
    file = outcome.trial.workdir / "metrics.jsonl"
    rates = reports.series(file, "train/candidates_per_second")
    return reports.median_rate([rate for _, rate in rates])
