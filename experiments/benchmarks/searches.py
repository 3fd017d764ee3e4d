"""What draws of trials come to within a budget, and what a study costs beside its trainings.

    python -m experiments.benchmarks.searches --json=FILE

Nothing is trained. The objective is made up: over the space of `experiments/search.py` around
two-tower, a parabola for each field on the scale of logarithms, as high as the effects that were
seen (.013 for the softmax, .006 for rates, .001 for dropout), its top anywhere within the range.
A training's value has noise of .002; a draw's gain is that of what it chose, without the noise.
"""

import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments import jobs, search, study, trials
from experiments.benchmarks import reporting
from interactrank_jax.config import configuration
from interactrank_jax.io import files

EFFECTS = {search.SOFTMAX_WEIGHT: 0.013, search.LOG_Q: 0.004, "model.tower.dropout": 0.001}
EFFECT, NOISE = 0.006, 0.002
BUDGETS = (8, 11, 16, 32, 64)
SPEC = trials.config_spec("two_tower", "search")


def objective(rng: np.random.Generator, get: search.Get) -> Callable[[study.Overrides], float]:
    """Returns a function from overrides to their value without noise."""
    stages = [stage for stage in search.SPACE if stage.others(get)]
    top = {stage.field: rng.uniform(-1, 1) for stage in stages}

    def value(overrides: study.Overrides) -> float:
        total = 0.0
        for stage in stages:
            effect = EFFECTS.get(stage.field, EFFECT)
            chosen = overrides.get(stage.field, get(stage.field))
            if stage.choices:
                total += effect * (stage.choices.index(chosen) == (top[stage.field] > 0))
            else:
                distance = math.log(chosen / get(stage.field), stage.factor) - top[stage.field]
                total -= effect * distance**2
        return total

    return value


def gain(kind: str, budget: int, seed: int) -> float:
    """Returns how much better than the config that is which a search chose."""
    config, rng = configuration.load(SPEC), np.random.default_rng(seed)
    true = objective(rng, search.values_of(config))

    def train(batch: Sequence[study.Overrides]) -> list[Any]:
        return [
            SimpleNamespace(
                trial=SimpleNamespace(overrides=each), value=true(each) + rng.normal(0, NOISE)
            )
            for each in batch
        ]

    if kind == "stages":
        outcomes = search.search(config, train, budget)
    else:
        outcomes = train([{}])
        drawn = study.load_optuna().create_study(
            direction="maximize", sampler=study.samplers()[kind](seed=seed)
        )
        for _ in range(budget - 1):
            trial = drawn.ask()
            outcomes += train([search.suggest(config, trial)])
            drawn.tell(trial, outcomes[-1].value)
    best = max(outcomes, key=lambda outcome: outcome.value)
    return true(best.trial.overrides) - true({})


def study_ms(count: int) -> float:
    """Returns the milliseconds that a study takes for a trial that is trained already."""
    with tempfile.TemporaryDirectory() as scratch:
        out, config = Path(scratch), trials.resolve(SPEC, {})

        def make(overrides: study.Overrides) -> trials.Trial:
            directory = out / "trials" / str(overrides["train.seed"])
            return trials.Trial(SPEC, overrides, {}, config, out, directory)

        listed = [{"train.seed": seed} for seed in range(count)]
        lines = "".join(f'{{"step": {k}, "validation/roc_auc": 0.5}}\n' for k in range(10))
        for trial in map(make, listed):
            trial.workdir.mkdir(parents=True)
            files.write_json(trial.job.record, {"status": jobs.FINISHED, "seconds": 1.0})
            (trial.workdir / "metrics.jsonl").write_text(lines)
        start = time.perf_counter()
        study.run(study.Settings("benchmark", out, make), listed)
        return 1e3 * (time.perf_counter() - start) / count


def grid_trials(points: int, workers: int) -> int:
    """Returns how many trials Optuna's GridSampler makes of points, with several workers."""
    optuna = study.load_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    from optuna.storages import journal

    with tempfile.TemporaryDirectory() as scratch:

        def storage() -> Any:
            backend = journal.JournalFileBackend(str(Path(scratch) / "journal"))
            return optuna.storages.JournalStorage(backend)

        optuna.create_study(storage=storage(), study_name="grid")

        def work(seed: int) -> None:
            rng = np.random.default_rng(seed)
            sampler = optuna.samplers.GridSampler({"x": range(points)}, seed=0)
            of_worker = optuna.load_study(study_name="grid", storage=storage(), sampler=sampler)

            def train(trial: Any) -> float:
                time.sleep(rng.uniform(0.05, 0.15))
                return float(trial.suggest_int("x", 0, points - 1))

            of_worker.optimize(train)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(optuna.load_study(study_name="grid", storage=storage()).trials)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures and reports; returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--objectives", type=int, default=100)
    arguments = parser.parse_args(argv)
    count = 2 if arguments.quick else arguments.objectives
    gains: dict[str, dict[str, list[float]]] = {}
    for budget in BUDGETS[: 1 if arguments.quick else None]:
        for kind in ("stages", *study.SAMPLERS):
            values = [gain(kind, budget, arguments.seed + each) for each in range(count)]
            error = statistics.stdev(values) / math.sqrt(count)
            gains.setdefault(str(budget), {})[kind] = [statistics.fmean(values), error]
    figures = {
        "gain_mean_and_standard_error": gains,
        "study_ms_per_trial": {
            str(n): study_ms(n) for n in ((10,) if arguments.quick else (100, 1000))
        },
        "grid_sampler_trials_of_12_points": {
            str(workers): grid_trials(12, workers) for workers in (1, 2, 4)
        },
    }
    reporting.report("searches", arguments, figures)
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
